"""Compares zpipe with the same three processes written by hand: `python -m benchmarks`."""
