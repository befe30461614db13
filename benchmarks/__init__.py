"""Compares zpipe with what its users would write or run instead: `python -m benchmarks`. docs/performance.md explains it."""
