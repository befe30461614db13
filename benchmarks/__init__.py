"""zpipe against the same three processes written by hand: `python -m benchmarks`."""
