"""Talking to systemd: sd_notify(3) over its datagram socket, and the watchdog.

The notifications belong here, and when they are worth sending. Must not live here: what an instance is doing, which it is told
as a `ServiceStatus`.

The watchdog is fed by the loop's own turns and by nothing else: a helper thread would vouch for a loop that hangs. The stop
timeout is extended only while something is finished, so that a drain that advances lives, and one that does not is killed. The
start timeout is extended while the plugin waits for its service, which starting it again would not bring back.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from zpipe.core.intervals import following

NEVER = float("inf")
STATUS_S = 1.0
EXTENSION_S = 15.0
"""While stopping, something must be finished within this time. Sent every STATUS_S, so well before any stop timeout ends."""


class ServiceStatus(NamedTuple):
    """What the instance is doing. `progress` changes whenever something was finished; `shutting_down`: it drains or leaves;
    `start_waits`: it cannot be ready yet, for something outside."""

    text: str = ""
    progress: tuple[int, ...] = ()
    shutting_down: bool = False
    start_waits: bool = False


class Notifier:
    """Does nothing where there is no $NOTIFY_SOCKET. Sending never blocks and never fails.

    status  gives what the instance is doing
    """

    def __init__(self, env: Mapping[str, str], status: Callable[[], ServiceStatus] = ServiceStatus) -> None:
        address = env.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self._status = status
        watchdog_us = int(env.get("WATCHDOG_USEC") or 0)
        mine = env.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._feed_s = watchdog_us / 4e6 if watchdog_us and mine else NEVER
        self._feed_at = 0.0 if self._feed_s != NEVER else NEVER
        self._status_at = 0.0 if self._socket is not None else NEVER
        self._progress: tuple[int, ...] = ()

    def send(self, *lines: str) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(OSError):  # nobody reads: there is nothing better to do than to go on working
            self._socket.sendto("\n".join(lines).encode(), self._address)

    def ready(self) -> None:
        """The sockets are bound and the plugin is open. Sent with the status, or `systemctl status` would say STARTING for
        another second."""
        self.send("READY=1", f"STATUS={self._status().text}")

    def reloading(self) -> None:
        """To be followed by `reloaded`."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={int(time.monotonic() * 1e6)}")

    def reloaded(self) -> None:
        self.send("READY=1")

    def stopping(self) -> None:
        """Final for systemd, so only once everything is finished."""
        self.send("STOPPING=1", "STATUS=stopped, all acked")

    def turn(self, now: float) -> float:
        """Feeds the watchdog and reports the status if it is time. Returns when to call again."""
        if now >= self._feed_at:
            self._feed_at = now + self._feed_s
            self.send("WATCHDOG=1")
        if now >= self._status_at:
            self._status_at = following(now, STATUS_S)
            self._report(self._status())
        return min(self._feed_at, self._status_at)

    def _report(self, status: ServiceStatus) -> None:
        """STATUS, and more time: to stop if something was finished since the last report, to start while a service is away."""
        lines = [f"STATUS={status.text}"]
        if status.start_waits or (status.shutting_down and status.progress != self._progress):
            lines.append(f"EXTEND_TIMEOUT_USEC={int(EXTENSION_S * 1e6)}")
        self._progress = status.progress
        self.send(*lines)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
