"""NATS JetStream by nats-py, in batches: 256 published at once and then their acks awaited, fetched by 256, each acked.

The streams are work queues in memory, bounded, and refuse what is beyond; the source then tries again. Each message is CBOR.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cbor2

from benchmarks.peers import roles, server
from benchmarks.touch import touch
from benchmarks.window import Load, Running

BATCH = 256
BOUND = 20_000
FULL_S = 0.002


class JetStream:
    name = "JetStream"

    @contextmanager
    def running(self, load: Load) -> Iterator[Running]:
        program = server.require("nats-server", "nats-server", "nats", "/usr/sbin/nats-server")
        with roles.role_processes("benchmarks.peers.jetstream", load) as processes:
            port, folder = server.free_port(), processes.folder
            command = [program, "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", str(folder / "js")]
            with server.serving(command, folder, port) as pid:
                asyncio.run(_make_streams(port))
                for role in ("sink", "map", "source"):
                    processes.start(role, port=port)
                yield server.Served(processes, pid)
                processes.end()


async def _connect(port: int) -> Any:
    import nats

    return (await nats.connect(f"nats://127.0.0.1:{port}")).jetstream()


async def _make_streams(port: int) -> None:
    from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType

    stream = await _connect(port)
    for name in ("a", "b"):
        await stream.add_stream(
            name=name,
            subjects=[name],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.MEMORY,
            max_msgs=BOUND,
            discard=DiscardPolicy.NEW,
        )
    await stream._nc.close()


async def _publish(stream: Any, subject: str, bodies: list[bytes]) -> None:
    """Returns when all are stored; what a full stream refused is published again."""
    while bodies:
        acks = [await stream.publish_async(subject, body) for body in bodies]
        results = await asyncio.gather(*acks, return_exceptions=True)
        bodies = [body for body, result in zip(bodies, results, strict=True) if isinstance(result, BaseException)]
        if bodies:
            await asyncio.sleep(FULL_S)


async def _fetch(subscription: Any) -> list[Any]:
    import nats.errors

    try:
        found: list[Any] = await subscription.fetch(BATCH, timeout=1)
        return found
    except nats.errors.TimeoutError:
        return []


async def _source(load: Load, port: int) -> None:
    stream, messages = await _connect(port), roles.messages(load)
    batch = 1 if load.rate else BATCH
    while True:
        await _publish(stream, "a", [cbor2.dumps(next(messages)) for _ in range(batch)])


async def _transform(port: int) -> None:
    stream = await _connect(port)
    subscription = await stream.pull_subscribe("a", durable="map")
    while True:
        fetched = await _fetch(subscription)
        await _publish(stream, "b", [cbor2.dumps(touch(cbor2.loads(one.data))) for one in fetched])
        for one in fetched:
            await one.ack()


async def _sink(folder: Path, load: Load, port: int) -> None:
    stream, take = await _connect(port), roles.sink(folder, load)
    subscription = await stream.pull_subscribe("b", durable="sink")
    while True:
        for one in await _fetch(subscription):
            take(cbor2.loads(one.data))
            await one.ack()


def source(folder: Path, load: Load, port: int) -> None:
    asyncio.run(_source(load, port))


def transform(folder: Path, load: Load, port: int) -> None:
    asyncio.run(_transform(port))


def sink(folder: Path, load: Load, port: int) -> None:
    asyncio.run(_sink(folder, load, port))


if __name__ == "__main__":
    roles.main({"source": source, "map": transform, "sink": sink})
