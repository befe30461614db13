"""The pipeline as lines of a table: what `--once` and `zpipe run` print, and the screen shows."""
