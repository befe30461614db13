"""Calling a plugin: opening it, iterating its source, running its hooks on tasks, and what its answers and exceptions mean."""
