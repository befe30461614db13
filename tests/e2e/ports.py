"""Ports for pipelines over tcp."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack


def free_ports(count: int) -> list[int]:
    """Ports that are free now, each with the next one, below those that the kernel gives out by itself."""
    found: list[int] = []
    candidates = iter(random.sample(range(15_000, 30_000, 2), 1000))
    while len(found) < count:
        port = next(candidates)
        with ExitStack() as stack:
            try:
                for number in (port, port + 1):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
        found.append(port)
    return found
