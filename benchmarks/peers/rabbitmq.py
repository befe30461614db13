"""RabbitMQ by pika: prefetch of 1,024, an ack for every 256 messages.

Published without confirms, since pika's blocking channel waits for each of them: so it promises less here than zpipe
does. Who publishes waits while a queue holds more than BOUND. Each message is CBOR.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cbor2

from benchmarks.benchmark import Unavailable
from benchmarks.peers import roles, server
from benchmarks.processes import end
from benchmarks.touch import touch
from benchmarks.window import Load, Running

BATCH = 256
BOUND = 20_000
PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"
"""Debian's wrapper in /usr/sbin changes the user, and writes to the machine's own folders."""


class RabbitMQ:
    name = "RabbitMQ"

    @contextmanager
    def running(self, load: Load) -> Iterator[Running]:
        program = server.require("rabbitmq-server", "rabbitmq-server", "pika", PROGRAM)
        with roles.role_processes("benchmarks.peers.rabbitmq", load) as processes:
            port, folder = server.free_port(), processes.folder
            env = _environment(folder, port)
            with _port_mapper(env), server.serving([program], folder, port, env) as pid:
                channel = _connect(port)
                for queue in ("a", "b"):
                    channel.queue_declare(queue)
                for role in ("sink", "map", "source"):
                    processes.start(role, port=port)
                yield server.Served(processes, pid)
                processes.end()


def _environment(folder: Path, port: int) -> dict[str, str]:
    (folder / "plugins").write_text("[].\n")
    return {
        **os.environ,
        "HOME": str(folder),  # where Erlang keeps its cookie
        "ERL_EPMD_PORT": str(server.free_port()),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"bench{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(server.free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_CONFIG_FILE": str(folder / "config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
    }


@contextmanager
def _port_mapper(env: dict[str, str]) -> Iterator[None]:
    """Erlang's epmd, which it would otherwise start by itself and leave behind."""
    try:
        process = subprocess.Popen(["epmd"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        raise Unavailable("no epmd (on Debian: apt install erlang-base)") from None
    try:
        yield
    finally:
        end(process)


def _connect(port: int) -> Any:
    import pika

    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port)).channel()


def _publish(channel: Any, queue: str, bodies: list[bytes]) -> None:
    for body in bodies:
        channel.basic_publish("", queue, body)
    while channel.queue_declare(queue, passive=True).method.message_count > BOUND:
        time.sleep(0.002)


def source(folder: Path, load: Load, port: int) -> None:
    channel, messages = _connect(port), roles.messages(load)
    batch = 1 if load.rate else BATCH
    while True:
        _publish(channel, "a", [cbor2.dumps(next(messages)) for _ in range(batch)])


def transform(folder: Path, load: Load, port: int) -> None:
    channel, out = _connect(port), _connect(port)
    for bodies in _consume(channel, "a", load):
        _publish(out, "b", [cbor2.dumps(touch(cbor2.loads(body))) for body in bodies])


def sink(folder: Path, load: Load, port: int) -> None:
    channel, take = _connect(port), roles.sink(folder, load)
    for bodies in _consume(channel, "b", load):
        for body in bodies:
            take(cbor2.loads(body))


def _consume(channel: Any, queue: str, load: Load) -> Iterator[list[bytes]]:
    """Batches of bodies, each acked when the next one is asked for. At a low rate a batch is one message."""
    channel.basic_qos(prefetch_count=4 * BATCH)
    batch, bodies = 1 if load.rate else BATCH, []
    for method, _, body in channel.consume(queue, inactivity_timeout=0.05):
        if method is not None:
            bodies.append(body)
            last = method.delivery_tag
        if bodies and (method is None or len(bodies) >= batch):
            yield bodies
            channel.basic_ack(last, multiple=True)
            bodies = []


if __name__ == "__main__":
    import pika.exceptions

    with suppress(pika.exceptions.AMQPError):  # the server goes first when a run is stopped
        roles.main({"source": source, "map": transform, "sink": sink})
