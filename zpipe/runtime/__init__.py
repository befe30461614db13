"""This machine's side of zpipe, shared by daemons and commands: locks, marks, state files, logs, signals, the environment."""
