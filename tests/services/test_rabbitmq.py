"""`rabbitmq` against a real RabbitMQ."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from broker_rows import (
    PASSWORD,
    assert_all_stored,
    divided,
    only_put,
    only_take,
    plain_rate,
    run_divided,
    stored,
    there_and_back,
)
from broker_servers import RabbitMQ
from pipeline import Pipeline, wait_until
from rows import DEADLINE_S, committed, fails_saying, rate_of_run, run_with_kills, run_without_service, waits_saying
from server import running

PLUGIN = "rabbitmq"
PACE = 2500
"""Slower than other rows: the client library itself takes two to five thousand a second."""
BATCH = 500
Make = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def rabbitmq_of_module() -> Iterator[RabbitMQ]:
    with running(RabbitMQ) as server:
        yield server


@pytest.fixture
def rabbitmq(rabbitmq_of_module: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> RabbitMQ:
    monkeypatch.setenv(PASSWORD, rabbitmq_of_module.password)
    rabbitmq_of_module.start()
    return rabbitmq_of_module


def link(rabbitmq: RabbitMQ) -> str:
    return f'url = "{rabbitmq.url}", password = "${{{PASSWORD}}}"'


def put(rabbitmq: RabbitMQ, queue: str) -> str:
    return f'{link(rabbitmq)}, routing_key = "{queue}"'


def take(rabbitmq: RabbitMQ, queue: str) -> str:
    return f'{link(rabbitmq)}, queue = "{queue}"'


def make_queue(rabbitmq: RabbitMQ, name: str, **arguments: Any) -> None:
    async def made(channel: Any) -> None:
        await channel.declare_queue(name, durable=True, arguments=arguments)

    rabbitmq.do(made)
    wait_until(lambda: rabbitmq.keeps(name), f"RabbitMQ keeps the queue {name}")


def held(rabbitmq: RabbitMQ, name: str) -> int:
    async def asked(channel: Any) -> int:
        return int((await channel.declare_queue(name, passive=True)).declaration_result.message_count)

    return rabbitmq.do(asked)


def test_nothing_is_lost_when_stages_and_rabbitmq_are_killed(rabbitmq: RabbitMQ, make: Make) -> None:
    make_queue(rabbitmq, "kills")
    pipeline = make(there_and_back(PLUGIN, put(rabbitmq, "kills"), take(rabbitmq, "kills"), rate=PACE))
    run_with_kills(pipeline, lambda: stored(pipeline), server=rabbitmq)
    assert_all_stored(pipeline)
    assert held(rabbitmq, "kills") == 0, "every message was acknowledged"


def test_two_consumers_of_one_queue(rabbitmq: RabbitMQ, make: Make) -> None:
    count = 10_000
    make_queue(rabbitmq, "two")
    run_divided(make(divided(PLUGIN, put(rabbitmq, "two"), take(rabbitmq, "two"), count, PACE)), count)


def test_they_wait_while_rabbitmq_is_away(rabbitmq: RabbitMQ, make: Make) -> None:
    count = 4000
    make_queue(rabbitmq, "away")
    pipeline = make(there_and_back(PLUGIN, put(rabbitmq, "away"), take(rabbitmq, "away"), count, 1500))
    run_without_service(pipeline, "take", rabbitmq, lambda: stored(pipeline), 1000, "waits")
    assert_all_stored(pipeline, count)


def test_a_full_queue_is_waited_for(rabbitmq: RabbitMQ, make: Make) -> None:
    make_queue(rabbitmq, "full", **{"x-max-length": 100, "x-overflow": "reject-publish"})
    pipeline = make(only_put(PLUGIN, put(rabbitmq, "full"), count=200))
    run = pipeline.run()
    waits_saying(pipeline, run, "put", "basic.nack")

    async def empty(channel: Any) -> None:
        queue = await channel.declare_queue("full", passive=True)
        await queue.purge()

    rabbitmq.do(empty)
    assert run.ledger(DEADLINE_S)["stages"]["put"]["completed"] == 200


def test_what_nobody_mends_by_waiting(rabbitmq: RabbitMQ, make: Make) -> None:
    fails_saying(make(only_take(PLUGIN, take(rabbitmq, "nowhere"))), "RabbitMQ refuses", "NOT_FOUND")


def test_wrong_credentials(rabbitmq: RabbitMQ, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "a wrong one")
    said = fails_saying(make(only_put(PLUGIN, put(rabbitmq, "wrong"), 10)), "RabbitMQ refuses the credentials")
    assert "a wrong one" not in said


def test_throughput_of_the_sink(rabbitmq: RabbitMQ, make: Make, compare: Callable[..., None]) -> None:
    import aio_pika

    count = 10_000
    make_queue(rabbitmq, "fast")
    pipeline = make(only_put(PLUGIN, put(rabbitmq, "fast"), count))

    async def empty(channel: Any) -> None:
        await (await channel.declare_queue("fast", passive=True)).purge()

    def ours() -> float:
        rabbitmq.do(empty)
        # To ask the broker takes a connection each time. What the source has committed is confirmed by the broker.
        rate = rate_of_run(pipeline, committed(pipeline, "make"), count)
        assert held(rabbitmq, "fast") == count
        return rate

    async def plain(channel: Any) -> None:
        for start in range(0, count, BATCH):
            sent = []
            for number in range(start, start + BATCH):
                body = json.dumps({"id": number, "word": "räksmörgås", "flag": True}).encode()
                message = aio_pika.Message(body, message_id=str(number), delivery_mode=2)
                sent.append(channel.default_exchange.publish(message, "fast", mandatory=True))
            await asyncio.gather(*sent)

    compare("rabbitmq sink", ours, lambda: plain_rate(lambda: rabbitmq.do(plain), count))


def test_throughput_of_the_source(rabbitmq: RabbitMQ, make: Make, compare: Callable[..., None]) -> None:
    import aio_pika

    count = 20_000
    make_queue(rabbitmq, "read")
    pipeline = make(only_take(PLUGIN, take(rabbitmq, "read")))

    async def fill(channel: Any) -> None:
        for start in range(0, count, BATCH):
            body = json.dumps({"id": 1, "word": "räksmörgås", "flag": True}).encode()
            numbers = range(start, start + BATCH)
            messages = [aio_pika.Message(body, message_id=str(number), delivery_mode=2) for number in numbers]
            await asyncio.gather(*[channel.default_exchange.publish(message, "read") for message in messages])

    def ours() -> float:
        rabbitmq.do(fill)

        def progress() -> int | None:
            position = pipeline.position("take")
            return position and int(position) + 1

        measured = rate_of_run(pipeline, progress, count)
        assert held(rabbitmq, "read") == 0
        return measured

    async def read(channel: Any) -> float:
        await channel.set_qos(prefetch_count=5000)
        queue = await channel.declare_queue("read", passive=True)
        seen, began = 0, time.monotonic()
        async with queue.iterator() as messages:
            async for message in messages:
                json.loads(message.body)
                await message.ack()
                seen += 1
                if seen == count:
                    return count / (time.monotonic() - began)
        raise AssertionError("it ended")

    def plain() -> float:
        rabbitmq.do(fill)
        return rabbitmq.do(read)

    compare("rabbitmq source", ours, plain)
