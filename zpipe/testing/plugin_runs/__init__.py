"""What the tests of a plugin use: a stage, a source or a whole pipeline in this process, on a virtual clock and without sockets.

The plugin is real, and so is the core that gives it messages; `zpipe.testing.simulation` has the rest. `zpipe.testing` gives the
public names of this room.
"""
