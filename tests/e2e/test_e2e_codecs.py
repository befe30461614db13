"""Stages that have both codecs and stages that have CBOR alone, of this version and of one before codecs, in one pipeline."""

from __future__ import annotations

from pathlib import Path
from secrets import token_bytes
from typing import Any

import pytest
import zmq
from e2e_types import MakePipeline
from pipeline import Pipeline, wait_until

from zpipe.core.wire import cbor, frames, section

ALL = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = {{ count = {count} }}
{read}
[stages.make]
input = "read"
plugin = "python"
options = {{ function = "make.py:odd" }}
workers = {{ kind = "{kind}" }}
{make}
[stages.pass]
input = "make"
plugin = "python"
options = {{ function = "make.py:same" }}
instances = 2
{pass}
[stages.write]
input = "pass"
plugin = "python"
options = {{ function = "make.py:write" }}
{write}
"""
MAKE = """
import time
from pathlib import Path

HELD = Path(__file__).with_name("held")

MADE = [
    lambda n: {"text": "é" * (n % 40), "list": [n, -n, n / 7, None, True], "map": {"a": {"b": b"\\0" * (n % 300)}}},
    lambda n: {"big": [2**64 - 1, -(2**63), 2**64 + n, -(2**70) - n]},
    lambda n: {b"bytes": (n, (n,)), "nan": float("nan"), "inf": float("-inf"), "bytes": bytearray(b"x")},
    lambda n: {"view": memoryview(b"abc"), "empty": [{}, [], "", b""]},
]


def odd(payload):
    n = payload["id"]
    return {"id": n, "made": MADE[n // 50 % len(MADE)](n)}


def same(payload):
    return payload


def write(payload):
    while payload["id"] == 19_999 and HELD.exists():
        time.sleep(0.01)
    with Path(__file__).with_name("seen.txt").open("a") as seen:
        seen.write(repr(payload) + "\\n")
"""
"""The last of 20,000 messages is kept while a file is there, so that nothing ends before a test is done with it."""
CBOR = 'codec = "cbor"'


def seen(pipeline: Pipeline) -> set[str]:
    return set((pipeline.folder / "seen.txt").read_text().splitlines())


def expected(count: int) -> set[str]:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return bytes(value) if isinstance(value, bytearray | memoryview) else value

    module: dict[str, Any] = {"__file__": "make.py"}
    exec(MAKE, module)
    return {repr(plain(module["odd"]({"id": n}))) for n in range(count)}


@pytest.mark.parametrize(
    ("old", "kind"),
    [((), "thread"), (("pass",), "process"), (("read", "write"), "thread"), (("make",), "process")],
    ids=lambda given: given if isinstance(given, str) else "+".join(given) or "none",
)
def test_a_payload_is_the_same_whoever_has_cbor_alone(make: MakePipeline, old: tuple[str, ...], kind: str) -> None:
    stages = {name: CBOR if name in old else "" for name in ("read", "make", "pass", "write")}
    pipeline = make(ALL.format(count=1000, kind=kind, **stages), make=MAKE)
    ledger = pipeline.run().ledger()
    assert seen(pipeline) == expected(1000)
    assert all(row["dead"] == 0 for row in ledger["stages"].values())


def test_what_a_killed_stage_of_one_codec_held_goes_to_one_of_the_other(make: MakePipeline) -> None:
    """Of the two instances of `pass` one has CBOR alone: what the other had in flight when it died is written anew for it."""
    stages = {"read": "", "make": "", "pass": "", "write": ""}
    pipeline = make(ALL.format(count=20_000, kind="thread", **stages), make=MAKE)
    (old := pipeline.folder / "old.toml").write_text(ALL.format(count=20_000, kind="thread", **stages | {"pass": CBOR}))
    (held := pipeline.folder / "held").touch()
    started = [pipeline.stage(name) for name in ("read", "make", "write")]
    new = pipeline.stage("pass", 1)
    wait_until(lambda: (pipeline.folder / "seen.txt").exists(), "messages arrive")
    other = pipeline.zpipe("stage", str(old), "pass", "--instance", "2")
    wait_until(lambda: len(seen(pipeline)) > 4000, "both are at work")
    new.process.kill()
    new.process.wait()
    again = pipeline.stage("pass", 1)
    with pipeline.watch() as watch:
        wait_until(lambda: watch.poll(0.0) and watch.snapshots.get(("pass", 1), {}).get("sessions"), "it is back")
    held.unlink()
    for command in (*started, other, again):
        assert command.wait() == 0, command.stderr
    assert seen(pipeline) == expected(20_000)


# ---- a neighbour from before there were codecs: its frames do not speak of them

TWO = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = { count = 300, fields = { a = ["b", 1.5] } }

[stages.store]
input = "read"
plugin = "sqlite"
options = { path = "out.db", table = "t", key = "id" }
"""


def folder(pipeline: Pipeline, stage: str) -> Path:
    path = pipeline.home / "r" / f"p.{stage}.1"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def without(frame: frames.Frame, field: str) -> bytes:
    said = cbor.read(frames.write(frame))
    del said[field]
    return cbor.write(said)


@pytest.mark.parametrize("codecs", [None, ["cbor"], ["cbor", "msgpack"]])
def test_a_consumer_is_sent_what_it_says_it_reads(make: MakePipeline, codecs: list[str] | None) -> None:
    pipeline = make(TWO)
    inbox = f"ipc://{folder(pipeline, 'store')}/inbox-own.sock"
    reading = pipeline.stage("read")
    hello = frames.Hello(
        frames.VERSION, "p", "store", 1, "s1", token_bytes(16), "", "read", inbox, 1, 1000, "", [], codecs or []
    )
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer, context.socket(zmq.PULL) as pull:
        for plug in (dealer, pull):
            plug.linger, plug.rcvtimeo = 0, 60_000
        pull.bind(inbox)
        dealer.connect(f"ipc://{folder(pipeline, 'read')}/feedback.sock")
        dealer.send(without(hello, "codecs") if codecs is None else frames.write(hello))
        welcome = frames.read(dealer.recv())
        assert isinstance(welcome, frames.Welcome)
        packed = "msgpack" in (codecs or [])
        assert welcome.codec == ("msgpack" if packed else "cbor")

        def state(number: int, sequence: int, released: int, stopped: bool = False) -> None:
            said = frames.Statement(
                welcome.session, number, 1000, 1 << 20, sequence, released, sequence, [], [], [], 0.0, False, False, stopped
            )  # fmt: skip
            dealer.send(frames.write(said))

        state(1, 0, 0)
        sequence, payloads = 0, []
        while len(payloads) < 300:
            header, body = pull.recv_multipart()
            parcel = frames.read(header)
            assert isinstance(parcel, frames.Parcel)
            sequence = parcel.sequence
            for count, size, *_ in parcel.sections:
                assert (body[0] == 0x94) == packed
                read = section.decode(body[:size], count) if packed else cbor.read(body[:size])
                payloads += read[2]
                body = body[size:]
        assert payloads == [{"id": n, "a": ["b", 1.5]} for n in range(300)]
        state(2, sequence, 300)
        end = frames.read(pull.recv_multipart()[0])
        assert isinstance(end, frames.Parcel) and end.is_end
        state(3, sequence + 1, 300, stopped=True)
        assert reading.wait() == 0, reading.stderr


def test_a_producer_that_says_nothing_of_codecs_is_read(make: MakePipeline) -> None:
    pipeline = make(TWO)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.PUB) as control:
        router.linger = control.linger = 0
        router.rcvtimeo = 60_000
        router.bind(f"ipc://{folder(pipeline, 'read')}/feedback.sock")
        control.bind(f"ipc://{folder(pipeline, 'read')}/control.sock")
        pipeline.stage("store")
        route, encoded = router.recv_multipart()
        hello = frames.read(encoded)
        assert isinstance(hello, frames.Hello) and hello.codecs == ["cbor", "msgpack"]
        welcome = frames.Welcome(frames.VERSION, token_bytes(16), "r1", hello.number)
        router.send_multipart([route, without(welcome, "codec")])
        said = frames.read(router.recv_multipart()[1])
        while not isinstance(said, frames.Statement) or not said.limit_messages:
            said = frames.read(router.recv_multipart()[1])
        body = cbor.write([["read:0"], [1.0], [{"id": 7, "a": ["b"]}], None])
        with context.socket(zmq.PUSH) as push:
            push.linger = 0
            push.connect(hello.inbox)
            push.send_multipart([frames.write(frames.Parcel(welcome.session, 1, [[1, len(body), 1, 1, 0]])), body])
            wait_until(lambda: pipeline.count() == 1, "its message is stored")
    assert pipeline.query("SELECT id FROM t") == [(7,)]
