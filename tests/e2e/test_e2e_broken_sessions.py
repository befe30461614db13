"""A neighbour of another make says what cannot be true: its session ends with a reason in the log, and a new hello heals it.

One end of the link is a real instance, the other a program of the test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_bytes
from typing import Any, TypeVar

import zmq
from e2e_types import MakePipeline
from pipeline import Command, Pipeline, wait_until

from zpipe.core.wire import frames, section

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = { count = 500 }

[stages.store]
input = "read"
plugin = "sqlite"
batch = { messages = 10, timeout = "50ms" }
options = { path = "out.db", table = "t", key = "id" }
"""
F = TypeVar("F", bound=frames.Frame)


@contextmanager
def sockets(*kinds: int) -> Iterator[list[zmq.Socket[bytes]]]:
    context = zmq.Context()
    plugs = [context.socket(kind) for kind in kinds]
    for plug in plugs:
        plug.setsockopt(zmq.LINGER, 0)
        plug.setsockopt(zmq.RCVTIMEO, 1000)
    try:
        yield plugs
    finally:
        context.destroy()


def folder(pipeline: Pipeline, stage: str) -> Path:
    path = pipeline.home / "r" / f"p.{stage}.1"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def next_of(kind: type[F], plug: zmq.Socket[bytes]) -> tuple[list[bytes], F]:
    """The next frame of this kind, with what came before it in its message; others are passed over."""
    for _ in range(1000):
        *before, encoded = plug.recv_multipart()
        frame = frames.read(encoded)
        if isinstance(frame, kind):
            return before, frame
    raise AssertionError(f"no {kind.__name__}")


def logged(command: Command, *words: str) -> None:
    def found() -> bool:
        return any(all(word in line for word in words) for line in command.stderr.splitlines())

    wait_until(lambda: found() or not command.running, f"the log has {words}")
    assert found(), command.stderr


# ---- the consumer lies


class Consumer:
    """A consumer with a secret, and what it says."""

    def __init__(self, inbox: str, dealer: zmq.Socket[bytes], pull: zmq.Socket[bytes]) -> None:
        self.inbox = inbox
        self.dealer = dealer
        self.pull = pull
        self.secret = token_bytes(16)
        self.number = 0
        self.session = b""

    def hello(self) -> None:
        self.number += 1
        hello = frames.Hello(
            frames.VERSION, "p", "store", 1, "s1", self.secret, "", "read", self.inbox, self.number, 1000, "", []
        )
        self.dealer.send(frames.write(hello))
        self.session = next_of(frames.Welcome, self.dealer)[1].session

    def state(self, number: int, **more: Any) -> None:
        state: dict[str, Any] = {"received": 0, "released": 0, "floor": 0, "seen_stopped": False, **more}
        said = frames.Statement(
            self.session, number, 1000, 1 << 20, **state, ranges=[], returned=[], finished=[],
            rate=0.0, reply=False, leaving=False,
        )  # fmt: skip
        self.dealer.send(frames.write(said))

    def receive(self) -> tuple[frames.Parcel, bytes]:
        """The next parcel or end of its session. Those of an earlier session may still come, and are passed over."""
        while True:
            header, *body = self.pull.recv_multipart()
            frame = frames.read(header)
            assert isinstance(frame, frames.Parcel)
            if frame.session == self.session:
                return frame, b"".join(body)

    def ids(self, count: int) -> tuple[int, list[str]]:
        """So many messages: the last parcel's sequence, and their ids."""
        found: list[str] = []
        sequence = 0
        while len(found) < count:
            parcel, body = self.receive()
            assert isinstance(parcel, frames.Parcel)
            sequence = parcel.sequence
            for row in parcel.sections:
                found += section.decode(body[: row[1]], row[0])[0]
                body = body[row[1] :]
        return sequence, found


def test_a_consumer_that_lies_is_refused_and_may_begin_anew(make: MakePipeline) -> None:
    pipeline = make(CONFIG)
    inbox = f"ipc://{folder(pipeline, 'store')}/inbox-forged.sock"
    reading = pipeline.stage("read")
    with sockets(zmq.DEALER, zmq.PULL) as (dealer, pull):
        pull.bind(inbox)
        dealer.connect(f"ipc://{folder(pipeline, 'read')}/feedback.sock")
        dealer.setsockopt(zmq.RCVTIMEO, 60_000)
        one = Consumer(inbox, dealer, pull)
        one.hello()
        one.state(1)
        sequence, first = one.ids(500)
        lies = [
            ({"received": sequence, "floor": sequence + 1}, f"acks parcel {sequence + 1}, of {sequence} received"),
            ({"received": sequence, "released": 501}, "states 501 messages as released, of 500 sent"),
        ]
        for lie, reason in lies:
            one.state(2, **lie)
            _, refuse = next_of(frames.Refuse, dealer)
            assert (refuse.session, refuse.reason) == (one.session, reason)
            logged(reading, "warning read.1 event=session.broken", "consumer=store.1", f'reason="{reason}"')
            one.hello()
            one.state(1)
            sequence, again = one.ids(500)
            assert again == first, "nothing was acked by a lie"
        dealer.send(frames.write(frames.Refuse(one.session, "has sent 9 messages: more than its credit", 1)))
        logged(reading, "warning read.1 event=session.given_up", "consumer=store.1", "more than its credit")
        one.hello()
        one.state(1)
        sequence, again = one.ids(500)
        assert again == first
        one.state(2, received=sequence, released=500, floor=sequence)
        assert one.receive()[0].is_end
        one.state(3, received=sequence + 1, released=500, floor=sequence + 1, seen_stopped=True)
        assert reading.wait() == 0, reading.stderr


# ---- the producer lies


def test_a_producer_that_lies_is_refused_and_asked_anew(make: MakePipeline) -> None:
    pipeline = make(CONFIG)
    with sockets(zmq.ROUTER, zmq.PUB) as (router, control):
        router.bind(f"ipc://{folder(pipeline, 'read')}/feedback.sock")
        control.bind(f"ipc://{folder(pipeline, 'read')}/control.sock")
        router.setsockopt(zmq.RCVTIMEO, 60_000)
        storing = pipeline.stage("store")
        for lie, reason in (
            ({"number": 1 << 40}, f"confirms statement {1 << 40}, of "),
            ({"sent_messages": 1 << 40}, "more than its credit"),
        ):
            [route], hello = next_of(frames.Hello, router)
            session = token_bytes(16)
            router.send_multipart([route, frames.write(frames.Welcome(frames.VERSION, session, "r1", hello.number))])
            _, said = next_of(frames.Statement, router)
            assert said.session == session
            counts = {"number": 1, "sequence": 0, "sent_messages": 0, "sent_bytes": 0, "lowest": 1, "need_bytes": 0}
            router.send_multipart([route, frames.write(frames.Confirm(session, **counts | lie))])
            _, refuse = next_of(frames.Refuse, router)
            assert refuse.session == session and reason in refuse.reason
            logged(storing, "warning store.1 event=session.broken upstream=read.1", reason)
        [route], hello = next_of(frames.Hello, router)
        session = token_bytes(16)
        router.send_multipart([route, frames.write(frames.Welcome(frames.VERSION, session, "r1", hello.number))])
        router.send_multipart([route, frames.write(frames.Refuse(session, "acks parcel 4, of 3 received", 1))])
        logged(storing, 'warning store.1 event=session.refused upstream=read.1 reason="acks parcel 4, of 3 received"')
        next_of(frames.Hello, router)
