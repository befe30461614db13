"""`kafka` against the mock cluster of librdkafka: Kafka's protocol on real sockets, by a process of its own. It keeps its
messages in memory, so instead of being killed it closes all connections and takes none for a while. It knows no credentials:
`kafka_login.py` stands for a broker that does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kafka_login
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


def test_two_members_of_one_group(kafka: Kafka, make: Make) -> None:
    count = 20_000
    kafka.do("topic", "two", 4)
    run_divided(make(divided(PLUGIN, put(kafka, "two"), take(kafka, "two"), count, 1000)), count)


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


def test_wrong_credentials(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "a wrong one")
    login = f'security = "sasl_plaintext", mechanism = "PLAIN", username = "zpipe", password = "${{{PASSWORD}}}"'
    with kafka_login.refusing() as server:
        where = f'servers = ["{server}"], {login}'
        for text in (
            only_put(PLUGIN, f'{where}, topic = "t"', 10),
            only_take(PLUGIN, f'{where}, topics = ["t"]'),
        ):
            pipeline = make(text)
            said = fails_saying(pipeline, "Kafka refuses", kafka_login.REFUSAL)
            assert "a wrong one" not in said
            shutil.rmtree(pipeline.folder)
    assert b"\0zpipe\0a wrong one" in kafka_login.Login.seen


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


def test_throughput_of_the_source(kafka: Kafka, make: Make, compare: Callable[..., None], tmp_path: Path) -> None:
    """Into a file of NDJSON, by whose size one sees how far it is. The mock cluster keeps 5 MB of a partition."""
    from confluent_kafka import Consumer, Producer

    count, partitions, turn = 200_000, 4, iter(range(100))
    kafka.do("topic", "read", partitions)
    producer = Producer({"bootstrap.servers": kafka.servers, "queue.buffering.max.messages": count})
    for number in range(count):
        producer.produce("read", json.dumps({"id": 1_000_000 + number}).encode(), partition=number % partitions)
    producer.flush()
    line = len('{"id":1000000}\n')
    text = only_take(PLUGIN, take(kafka, "read"), end_s=6).replace(
        'plugin = "discard"', 'plugin = "ndjson"\nbatch = { messages = 1000 }\noptions = { path = "out.ndjson" }'
    )
    pipeline = make(text)
    written = pipeline.folder / "out.ndjson"

    def ours() -> float:
        written.unlink(missing_ok=True)
        pipeline.path.write_text(text.replace("topics =", f'group = "ours{next(turn)}", topics ='))

        def progress() -> int:
            return written.stat().st_size // line if written.is_file() else 0

        measured = rate_of_run(pipeline, progress, count)
        assert sorted(one["id"] for one in pipeline.lines("out.ndjson")) == list(range(1_000_000, 1_000_000 + count))
        return measured

    def plain() -> float:
        """From the first messages on: to become a member of a group takes as long for both."""
        settings = {"bootstrap.servers": kafka.servers, "auto.offset.reset": "earliest", "enable.auto.commit": False}
        consumer = Consumer({**settings, "group.id": f"plain{next(turn)}"})
        consumer.subscribe(["read"])
        first = done = 0
        began = 0.0
        with (tmp_path / "plain.ndjson").open("w") as out:
            while done < count:
                found = consumer.consume(1000, 1.0)
                out.write("".join(json.dumps(json.loads(message.value())) + "\n" for message in found))
                out.flush()
                os.fsync(out.fileno())
                done += len(found)
                if found:
                    consumer.commit()
                    if not first:
                        first, began = done, time.monotonic()
        took = time.monotonic() - began
        consumer.close()
        return (done - first) / took

    compare("kafka source", ours, plain)
