"""Whoever looks on costs the pipeline nothing, whatever becomes of them: taps and monitors that come, go, or stand still."""

from __future__ import annotations

import json
import os
import signal
import statistics
from pathlib import Path

import pytest
from e2e_types import MakePipeline
from pipeline import Command, Pipeline, ids, send, wait_until

from zpipe.core.policy import TapPolicy
from zpipe.operate.watch import Watch
from zpipe.transport.operator_sockets import OperatorSockets
from zpipe.transport.sockets import Sockets

CONFIG = """
[pipeline]
name = "p"

[telemetry]
interval = "100ms"

[stages.read]
plugin = "generate"
options = {{ {options}, size = {size} }}

[stages.work]
input = "read"
plugin = "python"
options = {{ function = "work.py:work" }}

[stages.store]
input = "work"
plugin = "{sink}"
"""
SQLITE = """
batch = { messages = 500, timeout = "50ms" }
options = { path = "out.db", table = "t", key = "id", columns = { blob = "BLOB" } }
"""
WORK = "def work(payload):\n    return payload\n"


STAGES = ("read", "work", "store")


def watchers(pipeline: Pipeline, *stages: str) -> list[Command]:
    """A tap of each stage, and a monitor last."""
    taps = [("tap", str(pipeline.path), stage, "--where", "id=-1", "--timeout", "300") for stage in stages]
    return [pipeline.zpipe(*arguments) for arguments in (*taps, ("monitor", str(pipeline.path), "--json"))]


def test_watchers_that_stand_still_or_die_stop_nothing(make: MakePipeline) -> None:
    pipeline = make(CONFIG.format(options="rate = 2000", size=200, sink="sqlite") + SQLITE, work=WORK)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > 100, "the run is well under way")
    frozen, killed, kept = watchers(pipeline, *STAGES), watchers(pipeline, "work"), watchers(pipeline, "work")
    seen = pipeline.zpipe("tap", str(pipeline.path), "work", "--json", "--count", "100", "--timeout", "300")
    assert seen.wait() == 0, seen.stderr
    assert len(seen.stdout.splitlines()) == 100
    for command in frozen:
        send(command.pid, signal.SIGSTOP)
    for command in killed:
        command.process.kill()
    before = pipeline.count()
    wait_until(lambda: pipeline.count() > before + 4000, "the pipeline goes on")
    run.interrupt()
    ledger = run.ledger()
    done = ledger["stages"]["store"]["completed"]
    assert ledger["stages"]["read"]["redelivered"] == ledger["stages"]["work"]["redelivered"] == 0
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(done))
    for command in kept:
        assert command.wait() == 0, command.stderr
    for command in frozen:
        command.end()


def test_who_did_not_ask_for_a_topic_is_not_sent_it(home: Path) -> None:
    """Where it is published, not where it arrives: a monitor of a tapped pipeline costs what it cost before."""
    sockets, monitor, tap = Sockets(), OperatorSockets(b"snapshot"), OperatorSockets(b"snapshot", b"tap")
    try:
        control = f"ipc://{home}/control.sock"
        sockets.bind(f"ipc://{home}/inbox.sock", f"ipc://{home}/feedback.sock", control, 100)
        seen: dict[OperatorSockets, list[bytes]] = {monitor: [], tap: []}

        def both() -> bool:
            for topic in (b"tap", b"snapshot"):
                sockets.publish(topic, b"frame")
            for listener, topics in seen.items():
                listener.connect(control)
                topics += [frames[0] for frames in listener.read(0.01)]
            return all(len(topics) >= 20 for topics in seen.values())

        wait_until(both, "both are subscribed and hear")
        assert set(seen[monitor]) == {b"snapshot"}
        assert set(seen[tap]) == {b"snapshot", b"tap"}
    finally:
        for one in (monitor, tap, sockets):
            one.close()


def test_a_tap_follows_a_stage_through_its_death(make: MakePipeline) -> None:
    pipeline = make(CONFIG.format(options="rate = 500", size=10, sink="sqlite") + SQLITE, work=WORK)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > 100, "the run is well under way")
    tap = pipeline.zpipe("tap", str(pipeline.path), "work", "--json", "--rate", "1000", "--timeout", "300")

    def newest() -> int:
        lines = tap.stdout.splitlines(keepends=True)
        return max((int(json.loads(line)["payload"]["id"]) for line in lines if line.endswith("\n")), default=0)

    before = wait_until(newest, "the tap shows messages")
    pipeline.kill("work")
    wait_until(lambda: newest() > before + 1000, "it goes on with the next incarnation")
    run.interrupt()
    ledger = run.ledger()
    assert tap.wait() == 0, tap.stderr
    assert ledger["stages"]["work"]["restarts"] == 1


def cpu_s(watch: Watch) -> float:
    """Processor time of the daemons so far: unlike throughput, it does not depend on who else uses the machine."""
    fields = [
        Path(f"/proc/{watch.snapshots[stage, 1]['pid']}/stat").read_text().rpartition(") ")[2].split()
        for stage in STAGES
    ]
    return sum(int(row[11]) + int(row[12]) for row in fields) / os.sysconf("SC_CLK_TCK")


def rss_bytes(watch: Watch) -> dict[str, int]:
    return {stage: watch.snapshots[stage, 1]["rss_bytes"] for stage in STAGES}


class Meter:
    """Messages that the sink has done for a second of the daemons' processors, between calls."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._last = self._read()

    def _read(self) -> tuple[int, float]:
        self._watch.snapshots.clear()
        wait_until(lambda: self._watch.poll(0.1) and len(self._watch.snapshots) == 3, "a fresh snapshot of each")
        return self._watch.snapshots["store", 1]["completed"], cpu_s(self._watch)

    def over(self, messages: int) -> float:
        first = self._read()
        done = lambda: self._watch.snapshots["store", 1]["completed"] > first[0] + messages  # noqa: E731
        wait_until(lambda: self._watch.poll(0.1) and done(), "messages are done")
        last = self._read()
        return (last[0] - first[0]) / (last[1] - first[1])


@pytest.mark.stress
@pytest.mark.parametrize("stuck", [False, True], ids=["reading", "stuck"])
def test_a_tap_costs_nothing_measurable(make: MakePipeline, stuck: bool) -> None:
    """Messages for a second of processor, with and without, in turns of one run. Memory stays, too: what a stuck subscriber
    can make a daemon hold while others keep the tap open is what TapPolicy says."""
    pipeline = make(
        CONFIG.format(options='fields = { a = 1, b = "two", c = 3.5 }', size=100, sink="discard"), work=WORK
    )
    run = pipeline.run()
    without: list[float] = []
    with_: list[float] = []
    with pipeline.watch() as watch:
        wait_until(lambda: watch.poll(0.1) and len(watch.snapshots) == 3, "all are there")
        meter = Meter(watch)
        meter.over(200_000)
        before = rss_bytes(watch)
        for _ in range(5):
            without.append(meter.over(300_000))
            commands = [*watchers(pipeline, *STAGES), *(watchers(pipeline, *STAGES) if stuck else ())]
            wait_until(lambda commands=commands: all(c.stdout for c in commands[3::4]), "they look on")  # type: ignore[misc]
            for command in commands[4:]:
                send(command.pid, signal.SIGSTOP)
            with_.append(meter.over(300_000))
            for command in commands:
                command.end()
        grown = {stage: now - before[stage] for stage, now in rss_bytes(watch).items()}
    ratio = statistics.median(with_) / statistics.median(without)
    print(
        f"messages a processor-second, with {len(commands)} that look on against none: {ratio:.2f}; RSS grew by {grown}"
    )
    assert ratio > 0.8  # most of what is missing from 1 is that processes share the processors' caches
    assert max(grown.values()) < 8 * 2 * TapPolicy().bytes + (16 << 20)
    run.interrupt()
    assert run.wait() == 0
