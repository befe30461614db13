"""`nats` against a real server with JetStream."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
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
from broker_servers import Nats
from pipeline import Pipeline
from rows import DEADLINE_S, MESSAGES, fails_saying, rate_of_run, run_with_kills, run_without_service, waits_saying
from server import running

PLUGIN = "nats"
BATCH = 500
Make = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def nats_of_module() -> Iterator[Nats]:
    with running(Nats) as server:
        yield server


@pytest.fixture
def nats(nats_of_module: Nats, monkeypatch: pytest.MonkeyPatch) -> Nats:
    monkeypatch.setenv(PASSWORD, nats_of_module.password)
    nats_of_module.start()
    return nats_of_module


def link(nats: Nats) -> str:
    return f'servers = ["{nats.url}"], username = "{nats.username}", password = "${{{PASSWORD}}}"'


def put(nats: Nats, stream: str) -> str:
    return f'{link(nats)}, subject = "{stream}.{{word}}", stream = "{stream}"'


def take(nats: Nats, stream: str) -> str:
    return f'{link(nats)}, stream = "{stream}", ack_wait = "2s"'


def make_stream(nats: Nats, name: str, **more: Any) -> None:
    async def made(client: Any, jetstream: Any) -> None:
        await jetstream.add_stream(name=name, subjects=[f"{name}.>"], **more)

    nats.do(made)


def held(nats: Nats, stream: str) -> int:
    async def asked(client: Any, jetstream: Any) -> int:
        return int((await jetstream.stream_info(stream)).state.messages)

    return nats.do(asked)


def test_nothing_is_lost_or_doubled_when_stages_and_nats_are_killed(nats: Nats, make: Make) -> None:
    make_stream(nats, "kills")
    pipeline = make(there_and_back(PLUGIN, put(nats, "kills"), take(nats, "kills")))
    run_with_kills(pipeline, lambda: stored(pipeline), server=nats)
    assert_all_stored(pipeline)
    assert held(nats, "kills") == MESSAGES, "what was published again was known by its id"

    async def left(client: Any, jetstream: Any) -> tuple[int, int]:
        found = await jetstream.consumer_info("kills", "nats-take")
        return found.num_ack_pending, found.num_pending

    assert nats.do(left) == (0, 0), "every message was acknowledged"


def test_two_instances_of_one_consumer(nats: Nats, make: Make) -> None:
    count = 20_000
    make_stream(nats, "two")
    run_divided(make(divided(PLUGIN, put(nats, "two"), take(nats, "two"), count)), count)


def test_they_wait_while_nats_is_away(nats: Nats, make: Make) -> None:
    count = 5000
    make_stream(nats, "away")
    pipeline = make(there_and_back(PLUGIN, put(nats, "away"), take(nats, "away"), count, 2000))
    run_without_service(pipeline, "take", nats, lambda: stored(pipeline), 1000, "nats")
    assert_all_stored(pipeline, count)


def test_a_full_stream_is_waited_for(nats: Nats, make: Make) -> None:
    make_stream(nats, "full", max_msgs=100, discard="new")
    pipeline = make(only_put(PLUGIN, put(nats, "full"), count=1000))
    run = pipeline.run()
    waits_saying(pipeline, run, "put", "maximum messages exceeded")

    async def grow(client: Any, jetstream: Any) -> None:
        await jetstream.update_stream(name="full", subjects=["full.>"], max_msgs=10_000, discard="new")

    nats.do(grow)
    ledger = run.ledger(DEADLINE_S)
    assert ledger["stages"]["put"]["completed"] == held(nats, "full") == 1000


def test_a_message_that_is_too_large_is_a_dead_letter(nats: Nats, make: Make) -> None:
    make_stream(nats, "small", max_msg_size=100)
    text = only_put(PLUGIN, put(nats, "small"), count=200).replace("fields = {", 'size = "200B", fields = {')
    pipeline = make(text.replace("batch = {", "dead = { storm = 1 }\nbatch = {"))
    run = pipeline.run()
    assert run.wait(DEADLINE_S) == 0, run.stderr
    assert "maximum" in run.stderr and held(nats, "small") == 0
    assert json.loads(run.stdout.splitlines()[-1])["stages"]["put"]["dead"] == 200


def test_wrong_credentials(nats: Nats, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "a wrong one")
    said = fails_saying(make(only_put(PLUGIN, put(nats, "wrong"), 10)), "NATS refuses the credentials")
    assert "a wrong one" not in said


def test_a_stream_that_is_not_there(nats: Nats, make: Make) -> None:
    fails_saying(make(only_take(PLUGIN, take(nats, "nowhere"))), "NATS refuses: stream not found")


def test_throughput_of_the_sink(nats: Nats, make: Make, compare: Callable[..., None]) -> None:
    pipeline = make(only_put(PLUGIN, put(nats, "fast"), MESSAGES))

    def ours() -> float:
        anew(nats, "fast")
        return rate_of_run(pipeline, lambda: held(nats, "fast"), MESSAGES)

    async def plain(client: Any, jetstream: Any) -> None:
        for start in range(0, MESSAGES, BATCH):
            waiting = []
            for number in range(start, start + BATCH):
                body = json.dumps({"id": number, "word": "räksmörgås", "flag": True}).encode()
                headers = {"Nats-Msg-Id": str(number)}
                waiting.append(await jetstream.publish_async("fast.a", body, stream="fast", headers=headers))
            for acknowledged in waiting:
                await acknowledged

    def all_of_it() -> float:
        anew(nats, "fast")
        return plain_rate(lambda: nats.do(plain), MESSAGES)

    compare("nats sink", ours, all_of_it)


def anew(nats: Nats, stream: str) -> None:
    async def delete(client: Any, jetstream: Any) -> None:
        await jetstream.delete_stream(stream)

    with suppress(Exception):  # there is none yet
        nats.do(delete)
    make_stream(nats, stream)


def test_throughput_of_the_source(nats: Nats, make: Make, compare: Callable[..., None]) -> None:
    make_stream(nats, "read")
    turn = iter(range(100))

    async def fill(client: Any, jetstream: Any) -> None:
        for start in range(0, MESSAGES, BATCH):
            for number in range(start, start + BATCH):
                body = json.dumps({"id": number, "word": "räksmörgås", "flag": True}).encode()
                acknowledged = await jetstream.publish_async("read.a", body)
            await acknowledged

    nats.do(fill)

    def ours() -> float:
        consumer = f"ours{next(turn)}"
        text = only_take(PLUGIN, f'{take(nats, "read")}, consumer = "{consumer}"')
        pipeline.path.write_text(text)

        async def finished(client: Any, jetstream: Any) -> int:
            return int((await jetstream.consumer_info("read", consumer)).ack_floor.stream_seq)

        def progress() -> int:
            try:
                return nats.do(finished)
            except Exception:
                return 0  # the consumer is not made yet

        return rate_of_run(pipeline, progress, MESSAGES)

    async def plain(client: Any, jetstream: Any) -> None:
        subscription = await jetstream.pull_subscribe("read.>", durable=f"plain{next(turn)}", stream="read")
        done = 0
        while done < MESSAGES:
            found = await subscription.fetch(BATCH)
            assert [json.loads(message.data) for message in found]
            for message in found:
                await message.ack()
            done += len(found)

    pipeline = make(only_take(PLUGIN, take(nats, "read")))
    compare("nats source", ours, lambda: plain_rate(lambda: nats.do(plain), MESSAGES))
