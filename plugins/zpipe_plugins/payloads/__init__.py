"""Plugins that only change, choose or check payloads; they reach nothing outside."""
