"""The state of a whole pipeline as a value, made of the snapshots of its instances. Pure: no clock, file or terminal."""
