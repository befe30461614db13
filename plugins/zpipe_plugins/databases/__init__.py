"""Plugins that keep rows in a database, or read them from one."""
