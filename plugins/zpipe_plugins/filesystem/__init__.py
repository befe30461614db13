"""Plugins that read and write files on this machine, and what they share."""
