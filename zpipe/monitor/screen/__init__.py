"""The live screen of `zpipe monitor`: the terminal, keys, and what is drawn where."""
