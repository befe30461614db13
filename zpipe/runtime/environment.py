"""The names of the environment variables by which `zpipe run` and its daemons understand each other. Must not live here: reading
them."""

from __future__ import annotations

RUN = "ZPIPE_RUN"
"""The run that a daemon belongs to."""
HOST = "ZPIPE_HOST"
"""Which host of the pipeline this machine is."""
REPLAY = "ZPIPE_REPLAY"
""""1" where dead letters are replayed: sources are not read."""
LEAVE_BUFFERS = "ZPIPE_LEAVE_BUFFERS"
""""1" where disk buffers are left as they are at the end of the stream: a drain does not wait for their consumers."""
SUPERVISED = "ZPIPE_SUPERVISED"
"""Set where a supervisor holds the other end of the daemon's standard input: when that ends, so does the daemon."""
STDIN = "ZPIPE_STDIN"
"""The descriptor of the standard input of `zpipe run`, for stages without input: their own is the supervisor's line to them."""
LAST_DEATH = "ZPIPE_LAST_DEATH"
"""How the life before this one ended, in words."""
TERMINAL = "ZPIPE_TERMINAL"
""""1" where the log of a daemon is passed on to a terminal; the daemon itself sees only a pipe."""
