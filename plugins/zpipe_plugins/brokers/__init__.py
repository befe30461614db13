"""Plugins that take messages from a broker, or hand them to one."""
