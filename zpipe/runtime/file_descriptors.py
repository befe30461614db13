"""File descriptors: as many as this process may have, and an error before there are none.

With none left libzmq (4.3.5) aborts the process on a new ipc connection, and spins on a new tcp connection. So an instance ends
in order a little before, and its upstream answers for what it held.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress

MOST = 65_536
"""More are of no use, and programs that a plugin starts may close each number up to the limit."""
LOOK_S = 0.5
RESERVE = 16
"""Descriptors kept for a few connections at once, and for what is opened to end in order."""


def raise_limit() -> None:
    """Raises the soft limit to the hard one: the usual soft limit of 1024 is for select(), which nothing here uses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if hard == resource.RLIM_INFINITY else min(MOST, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError):  # a sandbox may forbid it: then the soft limit is the limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def exhausted(fd: int) -> str:
    """Why the process has to end, if hardly any descriptor is left; else "". `fd` is any open one: a copy of it gets the lowest
    free number, which tells how many are open (1 µs)."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return ""
    try:
        copy = os.dup(fd)
    except OSError:
        copy = limit
    else:
        os.close(copy)
    if copy < limit - RESERVE:
        return ""
    return f"{copy} of {limit} file descriptors are open: raise the limit (ulimit -n, LimitNOFILE=), or see what keeps them"
