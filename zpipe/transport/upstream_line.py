"""The connection to one upstream instance, as the transport knows it. Must not live here: what goes over it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import zmq


@dataclass(slots=True)
class UpstreamLine:
    """Its two sockets, and how they are doing.

    host        the host whose keys are expected there, in turn; "": none are
    key         the key that is expected now;  refused: how many handshakes in a row have failed
    down_since  when it was lost, or first tried; None while it is there
    """

    feedback: str
    control: str
    host: str
    dealer: zmq.Socket[bytes]
    sub: zmq.Socket[bytes]
    fd: int
    key: str = ""
    refused: int = 0
    down_since: float | None = None

    def made(self) -> None:
        self.refused = 0
        self.down_since = None

    def lost(self) -> None:
        self.down_since = time.monotonic()

    def failed(self) -> None:
        self.refused += 1
