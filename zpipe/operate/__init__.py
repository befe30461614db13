"""Asking a pipeline that runs, from outside: watching it, draining it, tapping it, and its stored dead letters."""
