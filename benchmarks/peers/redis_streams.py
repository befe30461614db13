"""Redis streams with consumer groups: pipelined by 256, acknowledged, without persistence.

An entry that is acked is deleted too, as a queue would; who writes waits while a stream holds more than BOUND. Each entry is one
message, as CBOR.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cbor2

from benchmarks.peers import roles, server
from benchmarks.touch import touch
from benchmarks.window import Load, Running

BATCH = 256
BOUND = 20_000


class RedisStreams:
    name = "Redis streams"

    @contextmanager
    def running(self, load: Load) -> Iterator[Running]:
        program = server.require("redis-server", "redis-server", "redis")
        with roles.role_processes("benchmarks.peers.redis_streams", load) as processes:
            port, folder = server.free_port(), processes.folder
            command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
            with server.serving([*command, "--dir", str(folder)], folder, port) as pid:
                client = _connect(port)
                for stream in ("a", "b"):
                    client.xgroup_create(stream, "group", mkstream=True)
                for role in ("sink", "map", "source"):
                    processes.start(role, port=port)
                yield server.Served(processes, pid)
                processes.end()


def _connect(port: int) -> Any:
    import redis

    return redis.Redis(port=port)


def source(folder: Path, load: Load, port: int) -> None:
    client, messages = _connect(port), roles.messages(load)
    batch = 1 if load.rate else BATCH
    while True:
        pipe = client.pipeline(transaction=False)
        for _ in range(batch):
            pipe.xadd("a", {"p": cbor2.dumps(next(messages))})
        pipe.xlen("a")
        while pipe.execute()[-1] > BOUND:
            time.sleep(0.001)
            pipe.xlen("a")


def transform(folder: Path, load: Load, port: int) -> None:
    client = _connect(port)
    for entries in _read(client, "a"):
        pipe = client.pipeline(transaction=False)
        for _, fields in entries:
            pipe.xadd("b", {"p": cbor2.dumps(touch(cbor2.loads(fields[b"p"])))})
        _done(pipe, "a", entries)
        pipe.xlen("b")
        while pipe.execute()[-1] > BOUND:
            time.sleep(0.001)
            pipe.xlen("b")


def sink(folder: Path, load: Load, port: int) -> None:
    client, take = _connect(port), roles.sink(folder, load)
    for entries in _read(client, "b"):
        for _, fields in entries:
            take(cbor2.loads(fields[b"p"]))
        pipe = client.pipeline(transaction=False)
        _done(pipe, "b", entries)
        pipe.execute()


def _read(client: Any, stream: str) -> Iterator[list[Any]]:
    while True:
        for _, entries in client.xreadgroup("group", "me", {stream: ">"}, count=BATCH, block=1000):
            yield entries


def _done(pipe: Any, stream: str, entries: list[Any]) -> None:
    ids = [id for id, _ in entries]
    pipe.xack(stream, "group", *ids)
    pipe.xdel(stream, *ids)


if __name__ == "__main__":
    import redis

    with suppress(redis.ConnectionError):  # the server goes first when a run is stopped
        roles.main({"source": source, "map": transform, "sink": sink})
