"""Plugins that speak HTTP."""
