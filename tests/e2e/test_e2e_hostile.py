"""Peers that send more than any stage does: what libzmq would keep of it is bounded, and the stage goes on."""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from e2e_types import MakePipeline
from pipeline import Command, Pipeline, wait_until

from zpipe.core.policy import MIB

CONFIG = """
[pipeline]
name = "p"

[telemetry]
interval = "100ms"

[stages.read]
plugin = "generate"
options = { rate = 500 }

[stages.store]
input = "read"
plugin = "sqlite"
batch = { messages = 100, timeout = "50ms" }
options = { path = "out.db", table = "t", key = "id" }
"""
GROWTH_BYTES = 24 * MIB
"""What an attack may cost `read`: its own frames on their way, and what the work makes of it anyway."""
SEES_S = 60.0


def peak_bytes(pid: int) -> int:
    """The most memory that the process has ever had."""
    [kib] = re.findall(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(kib) * 1024


@contextmanager
def under_attack(make: MakePipeline) -> Iterator[tuple[Pipeline, Command]]:
    """A pipeline at work, which goes on, drains and balances afterwards, and of which `read` has not grown."""
    pipeline = make(CONFIG)
    run = pipeline.run()
    pid = pipeline.pid("read")
    wait_until(lambda: pipeline.count() or not run.running, "the run works")
    before = peak_bytes(pid)
    yield pipeline, run
    rows = pipeline.count()
    wait_until(lambda: pipeline.count() > rows or not run.running, "the run goes on")
    assert peak_bytes(pid) - before < GROWTH_BYTES
    run.interrupt()
    ledger = run.ledger()
    assert ledger["stages"]["read"]["restarts"] == 0


class Raw:
    """A peer that speaks ZMTP 3.0 by itself, to the socket `name` of `read`: libzmq does not send everything that it takes."""

    def __init__(self, pipeline: Pipeline, name: str, kind: bytes) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SEES_S)
        self._socket.connect(f"{pipeline.home}/r/p.read.1/{name}.sock")
        self._socket.sendall(b"\xff" + bytes(8) + b"\x7f\3\0" + b"NULL".ljust(20, b"\0") + bytes(32))
        ready = b"\5READY\x0bSocket-Type" + struct.pack("!I", len(kind)) + kind
        self._socket.sendall(struct.pack("!BB", 4, len(ready)) + ready)
        with self._socket.makefile("rb") as answer:  # libzmq hangs up on whoever sends more before it has sent its own
            answer.read(65)
            answer.read(ord(answer.read(1)))

    def send(self, frame: bytes, more: bool = False) -> None:
        """Raises OSError once the other end has hung up."""
        self._socket.sendall(struct.pack("!BQ", 3 if more else 2, len(frame)) + frame)

    def wait_for_end(self) -> None:
        """Reads until the other end hangs up."""
        with suppress(ConnectionError):
            while self._socket.recv(65536):
                pass

    def close(self) -> None:
        self._socket.close()


def test_a_subscription_of_megabytes_ends_its_connection_and_costs_nothing(make: MakePipeline) -> None:
    with under_attack(make) as (pipeline, _), closing(Raw(pipeline, "control", b"SUB")) as peer:
        with suppress(ConnectionError):
            peer.send(b"\1" + os.urandom(4 * MIB))
        peer.wait_for_end()


def test_subscriptions_to_nothing_that_is_published_end_their_connection_and_are_named(make: MakePipeline) -> None:
    with under_attack(make) as (pipeline, run):
        with closing(Raw(pipeline, "control", b"SUB")) as peer:
            with suppress(ConnectionError):
                for _ in range(4000):
                    peer.send(b"\1" + os.urandom(400))
            peer.wait_for_end()
        me = f'sender="uid {os.getuid()}, pid {os.getpid()}"'
        named = f"event=peer.malformed socket=control peer=unknown {me} frame=subscription field=topic"
        wait_until(lambda: named in run.stderr, "it is logged")
        with pipeline.watch() as watch:
            wait_until(lambda: watch.poll(0.1), "others hear its snapshots")
