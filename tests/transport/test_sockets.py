"""What a peer can make an instance's sockets hold: real sockets, of which the instance reads nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from zpipe.transport.socket_options import MAX_STATEMENT_BYTES, UNREAD
from zpipe.transport.sockets import LARGE_BYTES, Sockets

PARCELS = 8
IN_THE_KERNEL = 16
"""Frames of 64 KiB that may be in the buffers of a Unix socket, and on their way in libzmq."""
FULL_MS = 300
"""A socket that takes nothing for so long is full."""


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[Sockets]:
    made = Sockets()
    made.bind(*(f"ipc://{tmp_path}/{name}" for name in ("inbox", "feedback", "control")), high_water_mark=PARCELS)
    yield made
    made.close()


@contextmanager
def peer(kind: int, address: str | None = None, bound: str | None = None) -> Iterator[zmq.Socket[bytes]]:
    """A socket that itself keeps as little as it can."""
    context = zmq.Context()
    plug = context.socket(kind)
    for option in (zmq.SNDHWM, zmq.RCVHWM):
        plug.setsockopt(option, 1)
    plug.setsockopt(zmq.LINGER, 0)
    if address is not None:
        plug.connect(address)
    if bound is not None:
        plug.bind(bound)
    try:
        yield plug
    finally:
        plug.close()
        context.term()


def test_the_inbox_takes_no_more_than_its_high_water_mark(sockets: Sockets, tmp_path: Path) -> None:
    most = PARCELS + IN_THE_KERNEL
    with peer(zmq.PUSH, f"ipc://{tmp_path}/inbox") as plug:
        sent = 0
        while sent <= most and plug.poll(FULL_MS, zmq.POLLOUT):
            plug.send_multipart([b"header", bytes(65536)])
            sent += 1
    assert PARCELS <= sent <= most


@pytest.mark.parametrize("more", [-1, 0])
def test_a_large_body_is_not_copied_and_outlives_its_sockets(tmp_path: Path, more: int) -> None:
    made = Sockets()
    made.bind(*(f"ipc://{tmp_path}/{name}" for name in ("inbox", "feedback", "control")), high_water_mark=PARCELS)
    size = LARGE_BYTES + more
    with peer(zmq.PUSH, f"ipc://{tmp_path}/inbox") as plug:
        plug.send_multipart([b"header", b"\x07" * size])
        arrival = next(iter(made.poll(60.0)), None)
    made.close()
    assert arrival is not None and arrival.what == "parcel"
    header, body = arrival.frames
    assert header == b"header" and type(body) is (bytes if more else memoryview)
    assert body == b"\x07" * size


def test_another_thread_may_take_the_turn_while_the_loop_waits_and_only_then(sockets: Sockets, tmp_path: Path) -> None:
    turn, passed = threading.Lock(), []

    def other() -> None:
        with turn:
            plug.send_multipart([b"header", b"body"])
            assert not came.wait(FULL_MS / 1000), "what has come is given when the turn is free again"
            passed.append("other")

    came, thread = threading.Event(), threading.Thread(target=other)
    with peer(zmq.PUSH, f"ipc://{tmp_path}/inbox") as plug, turn:
        thread.start()
        for arrival in sockets.poll(60.0, turn):
            came.set()
            passed.append(arrival.what)
            assert turn.locked()
        thread.join(60.0)
    assert passed == ["other", "parcel"]


def test_answers_that_a_peer_does_not_read_are_dropped(sockets: Sockets, tmp_path: Path) -> None:
    with peer(zmq.DEALER, f"ipc://{tmp_path}/feedback") as plug:
        plug.send(b"")
        [asked] = sockets.poll(60.0)
        for _ in range(4 * UNREAD):
            sockets.reply(asked.frames[0], bytes(65536))
        read = 0
        while plug.poll(FULL_MS):
            plug.recv()
            read += 1
    assert 0 < read <= UNREAD + IN_THE_KERNEL


def test_statements_that_an_upstream_instance_does_not_read_are_dropped(sockets: Sockets, tmp_path: Path) -> None:
    with peer(zmq.ROUTER, bound=f"ipc://{tmp_path}/up"):
        sockets.connect_upstream(("up", 1), f"ipc://{tmp_path}/up", f"ipc://{tmp_path}/up-control")
        [up] = list(sockets.poll(60.0))
        assert up.what == "up"
        told = sum(sockets.tell(("up", 1), bytes(65536)) for _ in range(4 * UNREAD))
    assert 0 < told <= UNREAD + IN_THE_KERNEL


@pytest.mark.parametrize(("size", "ends"), [(MAX_STATEMENT_BYTES, False), (MAX_STATEMENT_BYTES + 1, True)])
def test_a_frame_larger_than_any_statement_ends_its_connection(
    sockets: Sockets, tmp_path: Path, size: int, ends: bool
) -> None:
    with (
        peer(zmq.DEALER, f"ipc://{tmp_path}/feedback") as plug,
        plug.get_monitor_socket(zmq.EVENT_DISCONNECTED) as lost,
    ):
        plug.send(bytes(size))
        if ends:
            assert lost.poll(60_000)
        else:
            assert [len(arrival.frames[1]) for arrival in sockets.poll(60.0)] == [size]
            assert not lost.poll(0)
        plug.disable_monitor()


def test_the_rest_of_a_message_of_many_frames_is_passed_over(sockets: Sockets, tmp_path: Path) -> None:
    with peer(zmq.PUSH, f"ipc://{tmp_path}/inbox") as plug:
        plug.send_multipart([b"x"] * 10_000)
        plug.send_multipart([b"header", b"body"])
        arrived: list[int] = []
        while 2 not in arrived:
            assert len(arrived) < 2
            arrived += [len(arrival.frames) for arrival in sockets.poll(60.0)]
    assert arrived == [3, 2]
