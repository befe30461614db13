"""`redis_stream` against a real Redis."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator

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
from broker_servers import Redis
from pipeline import Pipeline, send, wait_until
from rows import DEADLINE_S, MESSAGES, fails_saying, rate_of_run, run_with_kills, run_without_service, waits_saying
from server import running

PLUGIN = "redis_stream"
BATCH = 500
Make = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def redis_of_module() -> Iterator[Redis]:
    with running(Redis) as server:
        yield server


@pytest.fixture
def redis(redis_of_module: Redis, monkeypatch: pytest.MonkeyPatch) -> Redis:
    monkeypatch.setenv(PASSWORD, redis_of_module.password)
    redis_of_module.start()
    return redis_of_module


def put(redis: Redis, stream: str, more: str = "") -> str:
    return f'url = "{redis.url}", password = "${{{PASSWORD}}}", stream = "{stream}"{more}'


def take(redis: Redis, stream: str, more: str = "") -> str:
    return f'{put(redis, stream)}, group = "g"{more}'


def test_nothing_is_lost_when_stages_and_redis_are_killed(redis: Redis, make: Make) -> None:
    pipeline = make(
        there_and_back(PLUGIN, put(redis, "kills", ', field = "json"'), take(redis, "kills", ', field = "json"'))
    )
    run_with_kills(pipeline, lambda: stored(pipeline), server=redis)
    assert_all_stored(pipeline)
    [group] = redis.client().xinfo_groups("kills")
    assert (group["pending"], group["lag"]) == (0, 0), "every entry was acknowledged"


def test_two_consumers_of_one_group(redis: Redis, make: Make) -> None:
    count = 20_000
    field = ', field = "json"'
    run_divided(make(divided(PLUGIN, put(redis, "two", field), take(redis, "two", field), count)), count)


def test_what_a_consumer_held_that_is_gone_is_claimed_by_the_other(redis: Redis, make: Make) -> None:
    """It is killed, and nobody starts it again."""
    count = 20_000
    field = ', field = "json"'
    text = divided(PLUGIN, put(redis, "gone", field), take(redis, "gone", f'{field}, claim_idle = "1s"'), count)
    pipeline = make(text)
    for stage, instance in (("make", 1), ("put", 1), ("take", 1), ("take", 2), ("store", 1)):
        pipeline.stage(stage, instance)
    wait_until(lambda: stored(pipeline) >= count // 4, "some are stored", DEADLINE_S)
    store = pipeline.pid("store")
    send(store, signal.SIGSTOP)

    def held() -> int:
        consumers = {one["name"]: one["pending"] for one in redis.client().xinfo_consumers("gone", "g")}
        return int(consumers[b"redis-stream.take.2"])

    wait_until(held, "it holds some", DEADLINE_S)
    pipeline.kill("take", 2)
    send(store, signal.SIGCONT)
    wait_until(lambda: stored(pipeline) == count, "all are stored", DEADLINE_S)
    assert_all_stored(pipeline, count)
    wait_until(lambda: redis.client().xinfo_groups("gone")[0]["pending"] == 0, "every entry is acknowledged")


def test_they_wait_while_redis_is_away(redis: Redis, make: Make) -> None:
    count = 5000
    text = there_and_back(
        PLUGIN, put(redis, "away", ', field = "json"'), take(redis, "away", ', field = "json"'), count, 2000
    )
    pipeline = make(text)
    run_without_service(pipeline, "take", redis, lambda: stored(pipeline), 1000, "Connection refused")
    assert_all_stored(pipeline, count)


def test_a_full_redis_is_waited_for(redis: Redis, make: Make) -> None:
    pipeline = make(only_put(PLUGIN, put(redis, "full"), count=1000))
    redis.client().config_set("maxmemory", 1)
    try:
        run = pipeline.run()
        waits_saying(pipeline, run, "put", "command not allowed when used memory > 'maxmemory'")
    finally:
        redis.client().config_set("maxmemory", 0)
    ledger = run.ledger(DEADLINE_S)
    assert ledger["stages"]["put"]["completed"] == redis.client().xlen("full") == 1000


def test_what_nobody_mends_by_waiting_ends_the_stage(redis: Redis, make: Make) -> None:
    redis.client().set("text", "no stream")
    fails_saying(make(only_put(PLUGIN, put(redis, "text"), count=10)), "WRONGTYPE")


def test_wrong_credentials(redis: Redis, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "a wrong one")
    said = fails_saying(
        make(only_take(PLUGIN, take(redis, "wrong"))), "Redis refuses the credentials", "invalid username-password"
    )
    assert "a wrong one" not in said


def test_throughput_of_the_sink(redis: Redis, make: Make, compare: Callable[..., None]) -> None:
    client = redis.client()
    pipeline = make(only_put(PLUGIN, put(redis, "fast", ', field = "json"'), MESSAGES))

    def ours() -> float:
        client.delete("fast")
        return rate_of_run(pipeline, lambda: client.xlen("fast"), MESSAGES)

    def plain() -> None:
        for start in range(0, MESSAGES, BATCH):
            pipe = client.pipeline(transaction=True)
            for number in range(start, start + BATCH):
                pipe.xadd("plain", {"json": json.dumps({"id": number, "word": "räksmörgås", "flag": True})})
            pipe.execute()

    compare("redis_stream sink", ours, lambda: plain_rate(plain, MESSAGES))


def test_throughput_of_the_source(redis: Redis, make: Make, compare: Callable[..., None]) -> None:
    client = redis.client()
    pipe = client.pipeline()
    for number in range(MESSAGES):
        pipe.xadd("fast-source", {"json": json.dumps({"id": number, "word": "räksmörgås", "flag": True})})
    pipe.execute()
    client.xgroup_create("fast-source", "g", "0")
    client.xgroup_create("fast-source", "plain", "0")
    pipeline = make(only_take(PLUGIN, take(redis, "fast-source", ', field = "json"')))

    def ours() -> float:
        client.xgroup_setid("fast-source", "g", "0", entries_read=0)

        def finished() -> int:
            group = next(group for group in client.xinfo_groups("fast-source") if group["name"] == b"g")
            return int(group["entries-read"] or 0) - int(group["pending"])

        return rate_of_run(pipeline, finished, MESSAGES)

    def plain() -> None:
        client.xgroup_setid("fast-source", "plain", "0", entries_read=0)
        done = 0
        while done < MESSAGES:
            [[_, entries]] = client.xreadgroup("plain", "c", {"fast-source": ">"}, count=BATCH)
            found = [json.loads(fields[b"json"]) for _, fields in entries]
            client.xack("fast-source", "plain", *(entry for entry, _ in entries))
            done += len(found)

    compare("redis_stream source", ours, lambda: plain_rate(plain, MESSAGES))
