"""A link through JetStream beside nats-py with a message each, on three servers with three replicas on disk.

By nats-py: a loop publishes each message, 256 at once, and another fetches and acks as many at once. With zpipe: a source and a
sink, acked as everywhere. Both begin with nothing in the stream, and end when the last message is at the sink.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cbor2

from benchmarks.benchmark import Benchmark, Effort, Side
from benchmarks.figures import Comparison, Metrics, at_least, ratio_at_least
from benchmarks.payloads import FLAT
from benchmarks.peers import roles, server
from benchmarks.peers.zpipe import pipeline
from benchmarks.processes import end, wait_until

CONFIG = """\
[pipeline]
name = "bench"

[stages.source]
plugin = "generate"
options = {{ count = {count}, {fields} }}

[stages.sink]
input = "source"
plugin = "./counting_sink.py"
link = {{ kind = "jetstream", servers = [{servers}] }}
options = {{ tally = "FOLDER/tally", stride = 1, timed = false }}
"""
SERVERS = 3
WINDOW = 256
STREAM = "each"


@contextmanager
def _cluster() -> Iterator[list[str]]:
    """The URLs of three servers that are one cluster and have a leader."""
    program = server.require("nats-server", "nats-server", "nats", "/usr/sbin/nats-server")
    ports, routes = ([server.free_port() for _ in range(SERVERS)] for _ in range(2))
    urls = [f"nats://127.0.0.1:{port}" for port in ports]
    with roles.folder() as folder, ExitStack() as stack:
        for number in range(SERVERS):
            own = folder / str(number)
            own.mkdir()
            words = {"n": f"s{number}", "a": "127.0.0.1", "p": ports[number], "sd": own, "-cluster_name": "bench"}
            words |= {"-cluster": f"nats://127.0.0.1:{routes[number]}"}
            words |= {"-routes": ",".join(f"nats://127.0.0.1:{port}" for port in routes)}
            command = [program, "-js", *(word for key, value in words.items() for word in (f"-{key}", str(value)))]
            stack.enter_context(_serving(command, own))
        wait_until(lambda: asyncio.run(_takes_streams(urls)), "all three servers keep a stream", 60.0, poll_s=0.1)
        yield urls


@contextmanager
def _serving(command: list[str], folder: Path) -> Iterator[None]:
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True)
    try:
        yield
    finally:
        end(process, grace_s=10)
        shutil.rmtree(folder, ignore_errors=True)


async def _connect(urls: list[str]) -> Any:
    import nats

    async def quiet(error: Exception) -> None:
        """It is raised anyway."""

    return await nats.connect(urls, allow_reconnect=False, error_cb=quiet)


async def _takes_streams(urls: list[str]) -> bool:
    try:
        client = await _connect(urls)
    except Exception:
        return False
    try:
        stream = client.jetstream(timeout=2)
        await stream.add_stream(name="probe", subjects=["probe"], num_replicas=SERVERS)
        await stream.delete_stream("probe")
    except Exception:
        return False
    finally:
        await client.close()
    return True


def _zpipe(effort: Effort) -> Metrics:
    count = 400_000 if effort.quick else 1_000_000
    with _cluster() as urls:
        servers = ", ".join(f'"{url}"' for url in urls)
        with pipeline(CONFIG.format(count=count, servers=servers, fields=FLAT.options())) as made:
            made.start()
            wait_until(lambda: made.tally.count == count, f"{count} messages at the sink", 120.0, poll_s=0.005)
            seconds = time.monotonic() - made.tally.first_at
            made.finish()
    return {"rate": count / seconds}


def _nats_py(effort: Effort) -> Metrics:
    count = 10_000 if effort.quick else 30_000
    with _cluster() as urls:
        return {"rate": asyncio.run(_each(urls, count))}


async def _each(urls: list[str], count: int) -> float:
    """Messages a second. One loop publishes and consumes, which spares the client a process, and costs the servers nothing."""
    from nats.js.api import RetentionPolicy

    client = await _connect(urls)
    stream = client.jetstream(timeout=10)
    await stream.add_stream(name=STREAM, subjects=[STREAM], retention=RetentionPolicy.WORK_QUEUE, num_replicas=SERVERS)
    subscription = await stream.pull_subscribe(STREAM, durable=STREAM)
    bodies = [cbor2.dumps({"id": n, **FLAT.constant()}) for n in range(count)]
    began = time.perf_counter()
    publishing = asyncio.create_task(_publish(stream, bodies))
    taken = 0
    while taken < count:
        for one in await subscription.fetch(WINDOW, timeout=10):
            cbor2.loads(one.data)
            await one.ack()
            taken += 1
    seconds = time.perf_counter() - began
    await publishing
    await client.close()
    return count / seconds


async def _publish(stream: Any, bodies: list[bytes]) -> None:
    for start in range(0, len(bodies), WINDOW):
        acks = [await stream.publish_async(STREAM, body) for body in bodies[start : start + WINDOW]]
        await asyncio.gather(*acks)


BENCHMARKS = (
    Benchmark(
        "jetstream",
        "a link through JetStream, three servers with three replicas",
        [Side("zpipe", _zpipe), Side("nats-py", _nats_py)],
        [
            Comparison("90-byte messages", "messages/s", ("zpipe", "rate"), ("nats-py", "rate"), ratio_at_least(5)),
            Comparison("90-byte messages alone", "messages/s", ("zpipe", "rate"), None, at_least(100_000)),
        ],
    ),
)
