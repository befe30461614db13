"""Bytes that are not of the protocol, at every socket of a running pipeline: counted, logged at a limited rate, dropped."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import zmq
from e2e_types import MakePipeline
from pipeline import Command, Pipeline, ids, wait_until

from zpipe.core.wire import cbor, frames
from zpipe.daemon.service.limited_log import FAULTS_A_MINUTE, MINUTE_S

CONFIG = """
[pipeline]
name = "p"

[telemetry]
interval = "100ms"

[stages.read]
plugin = "generate"
options = { rate = 1000 }

[stages.work]
input = "read"
plugin = "python"
options = { function = "work.py:work" }

[stages.store]
input = "work"
plugin = "sqlite"
batch = { messages = 100, timeout = "50ms" }
options = { path = "out.db", table = "t", key = "id" }
"""
WORK = "def work(payload):\n    return payload\n"
STAGES = ("read", "work", "store")
NO_SESSION = bytes(16)
DEADLINE_MS = 60_000


def inbox(pipeline: Pipeline, stage: str) -> Path:
    """The socket of its present incarnation."""
    return next(iter(folder(pipeline, stage).glob("inbox-*.sock")))


def folder(pipeline: Pipeline, stage: str) -> Path:
    return pipeline.home / "r" / f"p.{stage}.1"


@contextmanager
def connected(kind: int, path: Path) -> Iterator[zmq.Socket[bytes]]:
    context = zmq.Context()
    plug = context.socket(kind)
    plug.setsockopt(zmq.LINGER, DEADLINE_MS)
    plug.setsockopt(zmq.SNDTIMEO, DEADLINE_MS)
    try:
        plug.connect(f"ipc://{path}")
        yield plug
    finally:
        plug.close()
        context.term()


def wait_until_counted(pipeline: Pipeline, malformed: dict[str, int]) -> None:
    """Until each stage has read so many frames that are malformed."""
    with pipeline.watch() as watch:

        def counted(stage: str) -> int:
            watch.poll(0.0)
            return int(watch.snapshots.get((stage, 1), {}).get("malformed", 0))

        for stage, count in malformed.items():
            wait_until(lambda stage=stage, count=count: counted(stage) >= count, f"{stage} counts {count}")  # type: ignore[misc]


def drained(pipeline: Pipeline, run: Command) -> dict[str, Any]:
    """The ledger of a run that is ended: every message is stored that was read."""
    run.interrupt()
    ledger = run.ledger()
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(ledger["stages"]["read"]["received"]))
    return ledger


def broken_frames(chance: random.Random) -> list[list[bytes]]:
    """What is not a frame, what is one cut short, one of the wrong kind, and one with fields out of range."""
    parcel = frames.write(frames.Parcel(NO_SESSION, 1, [[1, 10, 1, 1]]))
    multipart = [[chance.randbytes(chance.randrange(200))] for _ in range(100)]
    multipart += [[parcel[:cut]] for cut in range(0, len(parcel), 5)]
    multipart += [[parcel, b"x", b"y"], [b""], [b"", b""], [frames.write(frames.Done(1, "RUNNING")), b""]]
    multipart += [[cbor.write({"kind": kind})] for kind in ("hello", "statement", "parcel", "nonsense")]
    multipart += [[cbor.write({"kind": "parcel", "session": NO_SESSION, "sequence": -1, "sections": [[1 << 70]]})]]
    multipart += [[b"\x9f" * 2000], [b"\xc1\xc1\xc1"], [cbor.write([[[[]]]] * 10_000)]]
    return multipart


def test_random_bytes_and_broken_frames(make: MakePipeline) -> None:
    pipeline = make(CONFIG, work=WORK)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() or not run.running, "the run works")
    chance = random.Random(12)
    for stage in STAGES:
        for kind, path in ((zmq.PUSH, inbox(pipeline, stage)), (zmq.DEALER, folder(pipeline, stage) / "feedback.sock")):
            with connected(kind, path) as plug:
                for multipart in broken_frames(chance):
                    plug.send_multipart(multipart)
        with connected(zmq.XSUB, folder(pipeline, stage) / "control.sock") as plug:
            for _ in range(100):
                plug.send(chance.randbytes(100))
        for path in folder(pipeline, stage).glob("*.sock"):
            send_raw(path, chance.randbytes(4096))
    wait_until_counted(pipeline, dict.fromkeys(STAGES, 201))
    ledger = drained(pipeline, run)
    for stage in STAGES:
        assert pipeline.final(stage)["malformed"] > 200, stage
        assert ledger["stages"][stage]["restarts"] == 0
        logged = run.stderr.count(f"{stage}.1 event=peer.malformed")
        assert 1 <= logged <= FAULTS_A_MINUTE * (1 + ledger["seconds"] // MINUTE_S), run.stderr


def test_each_fault_is_logged_once_with_its_sender_socket_kind_and_field(make: MakePipeline) -> None:
    """The first one hides none of those that come after it."""
    pipeline = make(CONFIG, work=WORK)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() or not run.running, "the run works")
    bad_parcel = cbor.write({"kind": "parcel", "session": NO_SESSION, "sequence": -1, "sections": [[1, 3, 1, 1, 0]]})
    with connected(zmq.PUSH, inbox(pipeline, "work")) as plug:
        for _ in range(50):
            plug.send_multipart([bad_parcel, b"abc"])
            plug.send_multipart([b"\xff", b""])
            plug.send_multipart([frames.write(frames.Request(1, "drain")), b""])
    with connected(zmq.DEALER, folder(pipeline, "work") / "feedback.sock") as plug:
        for number in range(50):
            plug.send(cbor.write({"kind": "request", "number": number, "what": number}))
    me = f'sender="uid {os.getuid()}, pid {os.getpid()}"'
    ends = [
        f"event=peer.malformed socket=inbox peer=unknown {me} frame=parcel field=sequence",
        f"event=peer.malformed socket=inbox peer=unknown {me} frame=unknown reason=",
        f"event=peer.malformed socket=inbox peer=unknown {me} frame=request reason=",
        f"event=peer.malformed socket=feedback peer=unknown {me} frame=request field=what",
    ]
    wait_until(lambda: all(end in run.stderr for end in ends) or not run.running, "every fault is logged")
    wait_until_counted(pipeline, {"work": 200})
    drained(pipeline, run)
    assert [run.stderr.count(end) for end in ends] == [1, 1, 1, 1], run.stderr
    assert pipeline.final("work")["malformed"] == 200


def send_raw(path: Path, data: bytes) -> None:
    """To a socket below ZeroMQ: the other end may hang up at the first byte."""
    with socket.socket(socket.AF_UNIX) as plug:
        plug.settimeout(5)
        plug.connect(str(path))
        with suppress(OSError):
            plug.sendall(data)


LIES = [[0, 1 << 62, 1 << 62], [7, 3, 0]]


def hello(stage: str, upstream: str, address: str, number: int) -> bytes:
    body = frames.Hello(
        frames.VERSION, "p", stage, 1, "0123456789ab", bytes(16), "", upstream, address, number, 1000, "", []
    )
    return frames.write(body)


def test_frames_that_are_valid_but_lie(make: MakePipeline) -> None:
    """Sessions nobody has, consumers that cannot be reached, statements of everything: the work goes on around them."""
    pipeline = make(CONFIG, work=WORK)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() or not run.running, "the run works")
    addresses = [
        "",
        "nonsense",
        "ipc:///nowhere/at/all.sock",
        "tcp://127.0.0.1:1",
        "inproc://x",
        "ipc://" + "x" * 900,
        "\0",
    ]
    everything = frames.Statement(
        NO_SESSION,
        1,
        1 << 62,
        1 << 62,
        1 << 62,
        1 << 62,
        1 << 62,
        [[0, 1 << 62]],
        [[1, 0, 1 << 62]],
        LIES,
        1e18,
        True,
        False,
        False,
    )
    with connected(zmq.DEALER, folder(pipeline, "read") / "feedback.sock") as plug:
        plug.setsockopt(zmq.RCVTIMEO, DEADLINE_MS)
        plug.send(frames.write(everything))
        assert isinstance(frames.read(plug.recv()), frames.Refuse)
        plug.send(hello("store", "read", "ipc:///tmp/x", 1))
        refused = frames.read(plug.recv())
        assert isinstance(refused, frames.Refuse) and "no link" in refused.reason
        for number, address in enumerate(addresses, 2):
            body = frames.Hello(
                frames.VERSION,
                "p",
                "work",
                99,
                f"{number:012}",
                bytes(16),
                "",
                "read",
                address,
                number,
                1000,
                "x",
                LIES,
            )
            plug.send(frames.write(body))
            assert isinstance(answer := frames.read(plug.recv()), frames.Refuse) and "inbox" in answer.reason, address
    with connected(zmq.PUSH, inbox(pipeline, "store")) as plug:
        for sequence in range(50):
            plug.send_multipart([frames.write(frames.Parcel(NO_SESSION, sequence, [[1, 3, 1, 1, 1 << 62]])), b"abc"])
            plug.send_multipart([frames.write(frames.Parcel(NO_SESSION, sequence, [])), b""])
    ledger = drained(pipeline, run)
    assert all(row["restarts"] == 0 for row in ledger["stages"].values()), run.stderr
