"""`kafka` against the mock cluster of librdkafka: Kafka's protocol on real sockets, by a process of its own. It knows no
credentials, and keeps its messages in memory, so instead of being killed it closes all connections and takes none for a while."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broker_rows import assert_all_stored, only_put, plain_rate, stored, there_and_back
from pipeline import Pipeline, wait_until
from rows import (
    DEADLINE_S,
    MESSAGES,
    fails_saying,
    rate_of_run,
    run_with_kills,
    wait_for_progress,
    waits_saying,
)

PLUGIN = "kafka"
BATCH = 500
TOPIC_AUTHORIZATION_FAILED = 29
PRODUCE = 0
Make = Callable[..., Pipeline]


class Kafka:
    def __init__(self) -> None:
        script = Path(__file__).with_name("kafka_mock.py")
        words = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, str(script)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.servers = self._process.stdout.readline().strip()

    def do(self, *words: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == "done\n"

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def held(self, topic: str) -> int:
        """How many messages the topic has."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "look"})
        try:
            partitions = consumer.list_topics(topic, timeout=DEADLINE_S).topics[topic].partitions
            return sum(consumer.get_watermark_offsets(TopicPartition(topic, one))[1] for one in partitions)
        finally:
            consumer.close()

    def committed(self, group: str, topic: str) -> int:
        """The sum of a group's offsets."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": group})
        try:
            found = consumer.committed([TopicPartition(topic, one) for one in range(4)], timeout=DEADLINE_S)
            return sum(max(0, one.offset) for one in found)
        finally:
            consumer.close()


@pytest.fixture
def kafka() -> Iterator[Kafka]:
    server = Kafka()
    yield server
    server.end()


def put(kafka: Kafka, topic: str) -> str:
    return f'servers = ["{kafka.servers}"], topic = "{topic}", key = "{{id}}", timeout = "3s"'


def take(kafka: Kafka, topic: str) -> str:
    return f'servers = ["{kafka.servers}"], topics = ["{topic}"], settings = {{ "session.timeout.ms" = 6000 }}'


def test_nothing_is_lost_when_stages_are_killed(kafka: Kafka, make: Make) -> None:
    kafka.do("topic", "kills", 4)
    # A member that was killed keeps its partitions until its session is over, so the others must have work for longer than that.
    pipeline = make(there_and_back(PLUGIN, put(kafka, "kills"), take(kafka, "kills"), rate=1000))
    run_with_kills(pipeline, lambda: stored(pipeline))
    assert_all_stored(pipeline)
    wait_until(lambda: kafka.committed("kafka.take", "kills") == kafka.held("kills"), "all offsets are committed")


def test_they_wait_while_no_broker_answers(kafka: Kafka, make: Make) -> None:
    count = 5000
    kafka.do("topic", "away", 4)
    pipeline = make(there_and_back(PLUGIN, put(kafka, "away"), take(kafka, "away"), count, 2000))
    run = pipeline.run()
    wait_for_progress(run, lambda: stored(pipeline), 1000)
    kafka.do("down")
    waits_saying(pipeline, run, "take", "Kafka")
    waits_saying(pipeline, run, "put", "Kafka")
    kafka.do("up")
    ledger = run.ledger(DEADLINE_S)
    assert all(row["restarts"] == row["dead"] == 0 for row in ledger["stages"].values()), (ledger, run.stderr)
    assert_all_stored(pipeline, count)


def test_a_refusal_ends_the_stage(kafka: Kafka, make: Make) -> None:
    kafka.do("topic", "refused", 1)
    kafka.do("fail", PRODUCE, TOPIC_AUTHORIZATION_FAILED, 50)
    said = fails_saying(
        make(only_put(PLUGIN, put(kafka, "refused"), 10)), "Kafka refuses", "TOPIC_AUTHORIZATION_FAILED"
    )
    assert "event=message.dead" not in said


def test_throughput_of_the_sink(kafka: Kafka, make: Make, compare: Callable[..., None]) -> None:
    from confluent_kafka import Producer

    turn = iter(range(100))
    pipeline = make(only_put(PLUGIN, put(kafka, "fast"), MESSAGES))

    def ours() -> float:
        topic = f"ours{next(turn)}"
        kafka.do("topic", topic, 4)
        pipeline.path.write_text(only_put(PLUGIN, put(kafka, topic), MESSAGES))
        return rate_of_run(pipeline, lambda: kafka.held(topic), MESSAGES)

    def plain() -> None:
        topic = f"plain{next(turn)}"
        kafka.do("topic", topic, 4)
        producer = Producer({"bootstrap.servers": kafka.servers, "enable.idempotence": True, "linger.ms": 5})
        failed: list[Any] = []
        for start in range(0, MESSAGES, BATCH):
            for number in range(start, start + BATCH):
                body = json.dumps({"id": number, "word": "räksmörgås", "flag": True}).encode()
                headers = {"zpipe-id": str(number)}
                told = lambda error, message: failed.append(error) if error else None  # noqa: E731
                producer.produce(topic, body, key=str(number), headers=headers, on_delivery=told)
            producer.flush()
        assert not failed

    compare("kafka sink", ours, lambda: plain_rate(plain, MESSAGES))
