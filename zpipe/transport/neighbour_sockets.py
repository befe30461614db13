"""The sockets of a scripted neighbour, by which `zpipe conform` talks with the stage that it checks.

Each method does one thing at once and nothing by itself. Must not live here: what a frame means, or when one is due.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import zmq

from zpipe.transport.socket_options import MAX_FRAME_BYTES

Frames = list[bytes]
SEND_MS = 5000
_MONITORED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
_SLACK = 64


def _all(socket: zmq.Socket[bytes]) -> Iterator[Frames]:
    with suppress(zmq.Again):
        while True:
            yield socket.recv_multipart(zmq.NOBLOCK)


class UpstreamSockets:
    """The sockets of an upstream instance: a feedback ROUTER and a control PUB that are bound, and a PUSH for each session."""

    def __init__(self, feedback: str, control: str) -> None:
        self._context = zmq.Context(1)
        self._feedback = self._context.socket(zmq.ROUTER)
        self._control = self._context.socket(zmq.PUB)
        self._feedback.bind(feedback)
        self._control.bind(control)
        self._pushes: dict[bytes, zmq.Socket[bytes]] = {}

    def poll(self, timeout_s: float) -> bool:
        """Waits until something has come."""
        return bool(self._feedback.poll(int(timeout_s * 1000)))

    def read(self) -> Iterator[Frames]:
        """What has come to the feedback socket: the route first, then the frames."""
        return _all(self._feedback)

    def answer(self, route: bytes, frame: bytes) -> None:
        self._feedback.send_multipart([route, frame])

    def publish(self, topic: bytes, frame: bytes) -> None:
        self._control.send_multipart([topic, frame])

    def connect(self, session: bytes, inbox: str, high_water_mark: int) -> None:
        """Connects a PUSH for the session."""
        push = self._context.socket(zmq.PUSH)
        push.setsockopt(zmq.IMMEDIATE, 1)
        push.setsockopt(zmq.RECONNECT_IVL, -1)
        push.setsockopt(zmq.LINGER, 0)
        push.setsockopt(zmq.SNDHWM, high_water_mark + _SLACK)
        push.setsockopt(zmq.SNDTIMEO, SEND_MS)
        push.connect(inbox)
        self._pushes[session] = push

    def push(self, session: bytes, frames: Frames) -> bool:
        """Sends on the session's PUSH, and waits until that is connected. False: the other end is gone, or does not read."""
        try:
            self._pushes[session].send_multipart(frames)
        except zmq.Again:
            return False
        return True

    def disconnect(self, session: bytes) -> None:
        """Closes the session's PUSH, as a producer does that gives a session up."""
        push = self._pushes.pop(session, None)
        if push is not None:
            push.close(0)

    def close(self) -> None:
        """Closes all as if the process had been killed: nothing more is delivered."""
        self._context.destroy(linger=0)


class DownstreamSockets:
    """The sockets of a downstream instance: an inbox PULL that is bound, and a DEALER and a SUB to one upstream instance."""

    def __init__(self, inbox: str, feedback: str, control: str) -> None:
        self._context = zmq.Context(1)
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self._inbox.bind(inbox)
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.setsockopt(zmq.LINGER, 0)
        self._monitor = self._dealer.get_monitor_socket(_MONITORED)
        self._dealer.connect(feedback)
        self._sub = self._context.socket(zmq.SUB)
        self._sub.subscribe(b"")
        self._sub.connect(control)
        self._poller = zmq.Poller()
        for socket in (self._inbox, self._dealer, self._monitor, self._sub):
            self._poller.register(socket, zmq.POLLIN)

    def poll(self, timeout_s: float) -> bool:
        """Waits until something has come."""
        return bool(self._poller.poll(int(timeout_s * 1000)))

    def connections(self) -> Iterator[bool]:
        """What the DEALER's monitor has told: True for a connection, False for the loss of one."""
        for event, _ in _all(self._monitor):
            yield int.from_bytes(event[:2], "little") == zmq.EVENT_HANDSHAKE_SUCCEEDED

    def parcels(self) -> Iterator[Frames]:
        """What has come to the inbox."""
        return _all(self._inbox)

    def answers(self) -> Iterator[Frames]:
        """What the upstream instance has answered."""
        return _all(self._dealer)

    def published(self) -> Iterator[Frames]:
        """What the upstream instance has published: topic and frame."""
        return _all(self._sub)

    def say(self, frame: bytes) -> None:
        with suppress(zmq.Again):
            self._dealer.send(frame, zmq.NOBLOCK)

    def close(self) -> None:
        """Closes all as if the process had been killed."""
        self._context.destroy(linger=0)


class LettersSocket:
    """A ROUTER that is bound, to which a program hands its dead letters."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context(1)
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(address)

    def read(self) -> Iterator[Frames]:
        """What has come: the route first, then the frames."""
        return _all(self._router)

    def answer(self, route: bytes, frame: bytes) -> None:
        self._router.send_multipart([route, frame])

    def close(self) -> None:
        self._context.destroy(linger=0)


class StrangerSockets:
    """A PUSH to an inbox, of somebody who has no session."""

    def __init__(self, inbox: str) -> None:
        self._context = zmq.Context(1)
        self._push = self._context.socket(zmq.PUSH)
        self._push.setsockopt(zmq.LINGER, SEND_MS)
        self._push.connect(inbox)

    def push(self, frames: Frames) -> None:
        self._push.send_multipart(frames)

    def close(self) -> None:
        """Blocks until what was sent has been handed over."""
        self._push.close()
        self._context.term()
