"""Talking to systemd: sd_notify(3) over its datagram socket, and the watchdog.

May live here: the notifications and when they are worth sending. It knows no core; `ServiceStatus` is what it is told each turn.

The watchdog is fed by the loop's own turns and by nothing else: a helper thread would vouch for a loop that hangs. The stop
timeout is extended only while acks progress, so that a drain that advances lives and one that is stuck is killed.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

STATUS_S = 1.0
EXTENSION_S = 15.0
"""From one sign of progress to the next while stopping; sent every STATUS_S, so well before any stop timeout ends."""


@dataclass(frozen=True)
class ServiceStatus:
    """What the instance is doing. `progress` changes whenever something was finished; `ending`: it drains or leaves."""

    status: str
    progress: tuple[int, ...]
    ending: bool


class Notifier:
    """Does nothing where there is no $NOTIFY_SOCKET. Sending never blocks and never fails."""

    def __init__(self, env: Mapping[str, str]) -> None:
        address = env.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)
        watchdog_us = int(env.get("WATCHDOG_USEC") or 0)
        mine = env.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._feed_s = watchdog_us / 4e6 if watchdog_us and mine else float("inf")
        self._feed_at = 0.0
        self._status_at = 0.0
        self._progress: tuple[int, ...] = ()

    @property
    def on(self) -> bool:
        return self._socket is not None

    def send(self, *lines: str) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(OSError):  # nobody reads: there is nothing better to do than to go on working
            self._socket.sendto("\n".join(lines).encode(), self._address)

    def ready(self, vital: ServiceStatus) -> None:
        """Bound, and the plugin is open. With the status, or `systemctl status` would say STARTING for a second yet."""
        self.send("READY=1", f"STATUS={vital.status}")

    def turn(self, now: float) -> float:
        """Feeds the watchdog if it is time. Returns when to call again."""
        if now >= self._feed_at and self._feed_s != float("inf"):
            self._feed_at = now + self._feed_s
            self.send("WATCHDOG=1")
        return self._feed_at if self._feed_s != float("inf") else float("inf")

    def status_due(self, now: float) -> bool:
        return self.on and now >= self._status_at

    @property
    def next_at(self) -> float:
        return self._status_at if self.on else float("inf")

    def report(self, vital: ServiceStatus, now: float) -> None:
        """STATUS, and more time to stop if something was finished since the last report."""
        self._status_at = now + STATUS_S
        lines = [f"STATUS={vital.status}"]
        if vital.ending and vital.progress != self._progress:
            lines.append(f"EXTEND_TIMEOUT_USEC={int(EXTENSION_S * 1e6)}")
        self._progress = vital.progress
        self.send(*lines)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
