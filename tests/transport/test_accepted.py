"""Connections to sockets with keys, on real sockets: how many may be open, and messages that never end."""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import zmq
from test_curve import WEB1, WEB2, free_ports, refusals, trusted

from zpipe.transport import accepted, curve
from zpipe.transport.accepted import AcceptedConnections
from zpipe.transport.arrival import Arrival
from zpipe.transport.connections import bound_to, connected_from
from zpipe.transport.sockets import Bound, Sockets

DEADLINE_S = 60.0
MIB = 1 << 20
GROWN_BYTES = 768 * MIB
"""What is let in before it is noticed, and what loopback brings until it is hung up on. Of small frames libzmq keeps five times
as much as has come."""


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Sockets, int]]:
    """An instance on web2, and the first of its ports."""
    server, port = Sockets(WEB2, trusted(producers=("web1",))), free_ports()
    local = [f"ipc://{folder}/{name}" for name in Bound._fields]
    remote = Bound(*(f"tcp://127.0.0.1:{port + more}" for more in (2, 0, 1)))
    server.bind(*local, high_water_mark=10, remote=remote)
    try:
        yield server, port
    finally:
        server.close()


def poll_until(server: Sockets, done: Callable[[list[Arrival]], object]) -> list[Arrival]:
    found: list[Arrival] = []
    end = time.monotonic() + DEADLINE_S
    while not done(found):
        assert time.monotonic() < end, [arrival.what for arrival in found[-20:]]
        found += server.poll(0.01)
    return found


def test_connections_are_bounded_and_whoever_has_the_most_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepted, "most_connections", lambda: 20)
    with serving(tmp_path) as (server, port), ExitStack() as stack:
        client = stack.enter_context(_client(zmq.DEALER))
        client.connect(f"tcp://127.0.0.1:{port}")
        client.send(b"first")
        poll_until(server, lambda found: "feedback" in {one.what for one in found})
        others = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.9", 0)))
            for _ in range(60)
        ]
        found = poll_until(server, lambda found: len(refusals(found)) >= 41)
        told = [one for one in refusals(found) if one.problem == "too many"]
        assert {one.where for one in told} == {"127.0.0.9"}
        client.send(b"second")
        poll_until(server, lambda found: "feedback" in {one.what for one in found})
        for other in others:
            other.setblocking(False)
        ended = 0
        for other in others:
            with suppress(BlockingIOError):
                while data := other.recv(4096):
                    assert data  # the greeting
                ended += 1
        assert ended >= 41


@contextmanager
def _client(kind: int, keyed: bool = True) -> Iterator[zmq.Socket[bytes]]:
    context = zmq.Context()
    client = context.socket(kind)
    client.setsockopt(zmq.LINGER, 0)
    client.setsockopt(zmq.RECONNECT_IVL, -1)
    client.setsockopt(zmq.SNDHWM, 64)
    if keyed:
        curve.expect(client, WEB1, WEB2.public)
    try:
        yield client
    finally:
        client.close()
        context.term()


def rss_bytes() -> int:
    [kib] = re.findall(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kib) * 1024


def connected_to(port: int) -> list[int]:
    """The descriptors of connections that were accepted at that port here."""
    fds = map(int, os.listdir("/proc/self/fd"))
    return [fd for fd in fds if bound_to(fd) == port and connected_from(fd)]


def _until_hung_up(plug: socket.socket, stop: threading.Event, frame: bytes) -> None:
    """Speaks ZMTP 3.0 by itself, since libzmq sends nothing of a message before its end: a greeting, then frames of which each
    says that more follow."""
    plug.sendall(b"\xff" + bytes(8) + b"\x7f\3\0" + b"NULL".ljust(20, b"\0") + bytes(32))
    ready = b"\5READY\x0bSocket-Type" + struct.pack("!I", 4) + b"PUSH"
    plug.sendall(struct.pack("!BB", 4, len(ready)) + ready)
    with plug.makefile("rb") as answer:  # libzmq hangs up on whoever sends more before it has sent its own
        answer.read(65)
        answer.read(ord(answer.read(1)))
    many = frame * max(1, MIB // len(frame))
    with suppress(OSError):
        while not stop.is_set():
            plug.sendall(many)


@pytest.mark.parametrize("size", [MIB // 4, 4], ids=["large frames", "small frames"])
def test_a_message_without_end_ends_its_connection_and_is_given_back(tmp_path: Path, size: int) -> None:
    """libzmq keeps it unseen: no more is held than what is let in and what comes between two looks."""
    part, stop, server, port = b"x" * size, threading.Event(), Sockets(), free_ports()
    server.bind(*(f"tcp://127.0.0.1:{port + more}" for more in (2, 0, 1)), high_water_mark=10)
    before = rss_bytes()
    grown = 0
    frame = struct.pack("!BQ", 3, size) + part

    def looks(found: list[Arrival]) -> bool:
        nonlocal grown
        grown = max(grown, rss_bytes() - before)
        return bool(refusals(found))

    try:
        with socket.create_connection(("127.0.0.1", port + 2)) as plug:
            thread = threading.Thread(target=_until_hung_up, args=(plug, stop, frame))
            thread.start()
            try:
                found = poll_until(server, looks)
                poll_until(server, lambda found: not connected_to(port + 2))  # the peer's kernel may tell it much later
            finally:
                stop.set()
                with suppress(OSError):
                    plug.shutdown(socket.SHUT_RDWR)
                thread.join()
        [refusal] = refusals(found)
        assert (refusal.problem, refusal.where) == ("no end", "127.0.0.1")
        assert not [one for one in found if one.what == "parcel"]
        assert grown < GROWN_BYTES
    finally:
        server.close()


def test_a_connection_that_was_ended_is_told_before_anything_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes the telling is awake, so that other threads do not wake it: to wait then would hold up what they have."""
    monkeypatch.setattr(AcceptedConnections, "unfinished", lambda connections, now: [-1])
    with serving(tmp_path) as (server, _):
        monkeypatch.setattr(server, "_wait", lambda *_: pytest.fail("it waits"))
        assert [one.problem for one in refusals(list(server.poll(DEADLINE_S)))] == ["no end"]


@pytest.mark.parametrize("keyed", [True, False], ids=["tcp", "ipc"])
def test_half_a_message_whose_sender_goes_is_nothing(tmp_path: Path, keyed: bool) -> None:
    with serving(tmp_path) as (server, port):
        for _ in range(20):
            with _client(zmq.PUSH, keyed) as client:
                client.connect(f"tcp://127.0.0.1:{port + 2}" if keyed else f"ipc://{tmp_path}/inbox")
                for _ in range(40):
                    client.send(b"x" * 1000, zmq.SNDMORE)
                list(server.poll(0.01))
        with _client(zmq.PUSH, keyed) as client:
            client.connect(f"tcp://127.0.0.1:{port + 2}" if keyed else f"ipc://{tmp_path}/inbox")
            client.send_multipart([b"whole", b"message"])
            found = poll_until(server, lambda found: "parcel" in {one.what for one in found})
        assert [one.frames for one in found if one.what == "parcel"] == [[b"whole", b"message"]]


def test_whoever_sends_much_in_whole_messages_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    received = {3: 0, 4: 0}
    monkeypatch.setattr(accepted, "received_bytes", received.__getitem__)
    connections = AcceptedConnections(credit_bytes=0)
    connections.add(3, "a")
    connections.add(4, "b")
    assert connections.unfinished(0.0) == []
    now, ended = 1.0, []
    for _ in range(100):
        received[3] += 10 * MIB
        received[4] += 10 * MIB
        ended += connections.unfinished(now)
        connections.finished(3)
        now += max(connections.next_look_s(now), 0.0) if connections.watched else 1.0
    assert set(ended) == {4} and connections.remove(4) == "b" and not connections.watched
