"""JetStream links against three real nats-servers, which are killed and restarted like the stages."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from nats_cluster import ClusterNats, NatsCluster, running_cluster
from pipeline import Command, Pipeline, wait_until
from rows import DEADLINE_S, wait_for_progress

from zpipe.runtime.places import MARK

MESSAGES = 20_000
KILL_MESSAGES = 50_000
"""What the source owes after an election comes at once, so the stream has to last for longer than all of them."""
STRESS_MESSAGES = 200_000
PASSWORD = "NATS_PASSWORD"
Make = Callable[..., Pipeline]

HALF = """
def half(payload):
    return {**payload, "half": payload["id"] / 2}


def same(payload):
    return payload
"""

HALTS = """
import time
from pathlib import Path

GO = Path(__file__).with_name("go")


def half(payload):
    while payload["id"] >= 2500 and not GO.exists():
        time.sleep(0.01)
    return {**payload, "half": payload["id"] / 2}
"""
"""Goes no further than that before a file is there."""


@pytest.fixture(scope="module")
def cluster_of_module() -> Iterator[NatsCluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(cluster_of_module: NatsCluster, monkeypatch: pytest.MonkeyPatch) -> NatsCluster:
    monkeypatch.setenv(PASSWORD, cluster_of_module.password)
    cluster_of_module.start()
    return cluster_of_module


def link(cluster: NatsCluster, more: str = "") -> str:
    servers = ", ".join(f'"{url}"' for url in cluster.urls)
    return f'link = {{ kind = "jetstream", servers = [{servers}], max_bytes = "64MiB"{more} }}'


def security(cluster: NatsCluster) -> str:
    return f'[security.nats]\nusername = "{cluster.username}"\npassword = "${{{PASSWORD}}}"\n'


def config(cluster: NatsCluster, name: str, count: int, rate: int | None = None) -> str:
    paced = f", rate = {rate}" if rate else ""
    return f"""
[pipeline]
name = "{name}"

[stages.make]
plugin = "generate"
options = {{ count = {count}{paced} }}

[stages.half]
input = "make"
plugin = "python"
instances = 2
{link(cluster)}
options = {{ function = "half:half" }}

[stages.store]
input = "half"
plugin = "sqlite"
{link(cluster)}
batch = {{ messages = 500, timeout = "50ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}

{security(cluster)}
"""


def output(pipeline: Pipeline, *arguments: str) -> str:
    """What a command prints that ends well."""
    command = pipeline.zpipe(*arguments)
    assert command.wait() == 0, command.stdout + command.stderr
    return command.stdout


def assert_each_once(pipeline: Pipeline, count: int) -> None:
    rows = pipeline.query("SELECT count(*), min(id), max(id), sum(half) FROM t", "out.db")
    assert list(map(tuple, rows)) == [(count, 0, count - 1, count * (count - 1) / 4)]


def kill_everything_in_turn(run: Command, pipeline: Pipeline, cluster: NatsCluster, count: int) -> None:
    """The leader of a stream, each stage, each server, and all servers at once."""

    def restart(server: ClusterNats) -> None:
        server.kill()
        server.start()

    kills: list[Callable[[], object]] = [  # from the head on: each is done when the stream has what it made
        lambda: pipeline.kill("make"),
        lambda: restart(cluster.leader_of(f"zpipe+{pipeline.config.name}+make+=+half")),
        lambda: pipeline.kill("half"),
        lambda: pipeline.kill("half", 2),
        lambda: pipeline.kill("store"),
        *(lambda server=server: restart(server) for server in cluster.servers),
        lambda: [server.kill() for server in cluster.servers] and cluster.start(),
    ]
    for number, kill in enumerate(kills, 1):
        wait_for_progress(run, pipeline.count, count * number // (len(kills) + 1))
        kill()


def run_with_kills(make: Make, cluster: NatsCluster, name: str, count: int, rate: int) -> None:
    pipeline = make(config(cluster, name, count, rate), half=HALF)
    run = pipeline.run()
    kill_everything_in_turn(run, pipeline, cluster, count)
    ledger = run.ledger(2 * DEADLINE_S)  # nine kills, after each of which a stream has to find a leader
    assert not any(row["dead"] for row in ledger["stages"].values()), ledger
    assert_each_once(pipeline, count)
    for upstream, consumer in (("make", "half"), ("half", "store")):
        assert cluster.stream(f"zpipe+{name}+{upstream}+=+{consumer}").messages == 0


@pytest.mark.timeout(300)
def test_each_message_is_stored_once_while_servers_and_stages_are_killed(cluster: NatsCluster, make: Make) -> None:
    run_with_kills(make, cluster, "kills", KILL_MESSAGES, 1000)


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_each_of_many_messages_is_stored_once_while_servers_and_stages_are_killed(
    cluster: NatsCluster, make: Make
) -> None:
    run_with_kills(make, cluster, "many", STRESS_MESSAGES, 4000)


# ---- what somebody deletes


ENDLESS = 1_000_000
"""A run of so many is stopped by its test once what is waited for has happened, however long that takes."""


def delete(cluster: NatsCluster, what: Callable[[Any], Awaitable[object]]) -> None:
    async def asked(client: Any, jetstream: Any) -> None:
        await what(jetstream)

    cluster.servers[0].do(asked)


def stop(run: Command) -> int:
    """Drains it. How many messages were made."""
    run.interrupt()
    return int(run.ledger(DEADLINE_S)["stages"]["make"]["completed"])


def test_what_somebody_deletes_is_made_anew_and_nothing_that_is_held_is_lost(cluster: NatsCluster, make: Make) -> None:
    """The bucket, and a consumer with parcels under way, while messages pass."""
    pipeline = make(config(cluster, "deleted", ENDLESS, 1000), half=HALF)
    run = pipeline.run()
    stream, bucket = "zpipe+deleted+half+=+store", "zpipe-deleted"
    wait_for_progress(run, pipeline.count, 1000)
    delete(cluster, lambda jetstream: jetstream.delete_consumer(stream, "zpipe+store"))
    wait_until(lambda: f"somebody has deleted the consumer zpipe+store of {stream}" in run.stderr, "it is said")
    delete(cluster, lambda jetstream: jetstream.delete_stream(f"KV_{bucket}"))
    wait_until(lambda: f"somebody has deleted the bucket {bucket}" in run.stderr, "it is said")
    wait_for_progress(run, pipeline.count, pipeline.count() + 1000)
    assert_each_once(pipeline, stop(run))


def test_a_stream_that_somebody_deletes_is_made_anew_with_numbers_of_its_own(cluster: NatsCluster, make: Make) -> None:
    """What is in it is gone. What comes after it is not taken for something that was acked before."""
    pipeline = make(config(cluster, "anew", ENDLESS, 1000), half=HALF)
    run = pipeline.run()
    stream = "zpipe+anew+make+=+half"
    wait_for_progress(run, pipeline.count, 1000)
    before = cluster.stream(stream).last_seq
    delete(cluster, lambda jetstream: jetstream.delete_stream(stream))
    wait_until(lambda: f"somebody has deleted the stream {stream}" in run.stderr, "it is said")
    wait_for_progress(run, pipeline.count, pipeline.count() + 1000)
    made = stop(run)
    assert cluster.stream(stream).first_seq > before
    [stored] = pipeline.query("SELECT count(*), count(DISTINCT id), max(id) FROM t", "out.db")
    assert stored[0] == stored[1] and stored[2] == made - 1


def test_a_stream_that_is_full_is_no_outage_and_nothing_is_sent_twice(cluster: NatsCluster, make: Make) -> None:
    text = config(cluster, "full", ENDLESS, 200).replace("rate = 200", "rate = 200, size = 100_000")
    pipeline = make(text.replace("64MiB", "16MiB"), half=HALF)
    run = pipeline.run()
    wait_until(pipeline.count, "messages are stored")
    output(pipeline, "pause", str(pipeline.path), "half")
    wait_until(lambda: 'reason="the stream is full' in run.stderr, "the stream is full")
    shown = json.loads(output(pipeline, "monitor", str(pipeline.path), "--once", "--json"))
    assert not shown["stages"]["make"]["held_by"], "it waits for its consumers"
    output(pipeline, "resume", str(pipeline.path), "half")
    run.interrupt()
    ledger = run.ledger(DEADLINE_S)
    assert ledger["stages"]["make"]["redelivered"] == 0 or "no answer in" in run.stderr
    assert_each_once(pipeline, ledger["stages"]["make"]["completed"])


# ---- beside links of another kind


def mixed(cluster: NatsCluster) -> str:
    """make -(ZeroMQ)-> half -(disk)-> keep -(JetStream)-> store."""
    text = config(cluster, "mixed", 1_000_000, 2000)
    first, _, third = text.partition(f"instances = 2\n{link(cluster)}")
    keep = """
buffer = { kind = "disk", bytes = "64MiB" }

[stages.keep]
input = "half"
plugin = "python"
options = { function = "half:same" }
"""
    return first + third.replace(
        'options = { function = "half:half" }', f'options = {{ function = "half:half" }}{keep}'
    ).replace('[stages.store]\ninput = "half"', '[stages.store]\ninput = "keep"')


def test_links_of_all_kinds_drain_head_first_with_one_ledger_on_one_screen(cluster: NatsCluster, make: Make) -> None:
    pipeline = make(mixed(cluster), half=HALF)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > 3000, "messages are stored")

    def shown_flowing() -> dict[str, Any] | None:
        """What is shown, once something has passed by each link in one interval."""
        shown: dict[str, Any] = json.loads(output(pipeline, "monitor", str(pipeline.path), "--once", "--json"))
        return shown if all(one["depth"] is not None and one["rate"] for one in shown["links"]) else None

    shown = wait_until(shown_flowing, "messages pass by all links")
    assert shown is not None
    assert [(one["from"], one["to"]) for one in shown["links"]] == [
        ("make", "half"),
        ("half", "keep"),
        ("keep", "store"),
    ]
    assert {name: one["state"] for name, one in shown["stages"].items()} == dict.fromkeys(shown["stages"], "RUNNING")
    run.interrupt()
    ledger = run.ledger(DEADLINE_S)
    made = ledger["stages"]["make"]["completed"]
    assert [(row["sent"], row["acked"]) for row in ledger["links"]] == [(made, made)] * 3
    assert_each_once(pipeline, made)
    stopped = [
        json.loads((pipeline.home / "s" / f"mixed.{stage}.1" / MARK).read_text())["at"]
        for stage in ("make", "half", "keep", "store")
    ]
    assert stopped == sorted(stopped), "from the head on"


def test_depth_is_exact_while_the_consumer_is_paused(cluster: NatsCluster, make: Make) -> None:
    pipeline = make(config(cluster, "depth", 5000, 1000), half=HALTS)
    run = pipeline.run()
    wait_until(pipeline.count, "messages are stored")
    output(pipeline, "pause", str(pipeline.path), "store")
    (pipeline.folder / "go").touch()
    name = "zpipe+depth+half+=+store"

    def as_shown() -> dict[str, int]:
        shown = json.loads(output(pipeline, "monitor", str(pipeline.path), "--once", "--json"))
        [row] = [one for one in shown["links"] if one["to"] == "store"]
        row["left"] = 5000 - pipeline.count()
        return row  # type: ignore[no-any-return]

    wait_until(lambda: (row := as_shown())["depth"] == row["left"] > 0, "the depth is what is not stored")
    figures = cluster.stream(name)
    assert figures.messages > 0 and all(int(subject.rpartition(".")[2]) > 0 for subject in figures.subjects or {})
    output(pipeline, "resume", str(pipeline.path), "store")
    run.ledger(DEADLINE_S)
    assert_each_once(pipeline, 5000)


# ---- what people are told


def test_the_doctor_names_what_is_not_safe(cluster: NatsCluster, make: Make) -> None:
    pipeline = make(config(cluster, "doctor", 10).replace('max_bytes = "64MiB"', "replicas = 1"), half=HALF)
    said = output(pipeline, "doctor", str(pipeline.path), "--timeout", "100ms")
    assert "has JetStream, version" in said
    assert "two minutes" in said and "sync_interval: always" in said
    assert "make -> half: 1 of 3 replicas" in said
    checked = pipeline.zpipe("check", str(pipeline.path))
    assert checked.wait() == 0
    assert "stages.half.link.replicas: is 1" in checked.stderr


def test_wrong_credentials_are_said_by_the_doctor_and_by_whoever_waits(
    cluster: NatsCluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, "a wrong one")
    pipeline = make(config(cluster, "wrong", 10), half=HALF)
    doctor = pipeline.zpipe("doctor", str(pipeline.path), "--timeout", "100ms")
    assert doctor.wait() == 1
    assert "cannot be reached" in doctor.stdout and "Authorization Violation" in doctor.stdout
    run = pipeline.run()
    wait_until(
        lambda: "event=jetstream.trouble" in run.stderr and "Authorization Violation" in run.stderr, "it is said"
    )
    assert "a wrong one" not in run.stderr + doctor.stdout
    assert "Traceback" not in run.stderr
