"""Commands for the time before a pipeline runs: its config, its plugins, its units, its keys, and what helps to write them."""
