"""Limits on the calls of a plugin: how many may be under way and how many may begin in a second."""
