"""What a mesh without a broker costs at rest, by the number of instances of its stages: the figures of docs/scaling.md.

    python -m benchmarks.scaling [--real N]

The virtual-clock harness has a stage of one instance with up to a thousand idle consumers, and measures what the cores of both
ends take for a session and a second. `--real N` has a real producer with N real consumers, whose sockets cost more than their
cores. Everything else is reckoned from these.
"""

from __future__ import annotations

import argparse
import gc
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.peers.zpipe import Pipeline, pipeline
from benchmarks.processes import cpu_s, rss_kib, wait_until
from zpipe.core.policy import MIB, Bound, ConsumerPolicy, StagePolicy
from zpipe.core.stage import Stage
from zpipe.core.wire import frames
from zpipe.testing import Simulation, Spec

CONSUMERS = (10, 100, 1000)
SIMULATED_S = 3.0
REAL_S = 12.0
SIZES = (1, 10, 30, 100, 300, 1000)
STAGES = 100
CORE_CALLS = ("handle", "pass_on", "tell")
DESCRIPTORS_A_SESSION, CONNECTIONS_A_SESSION = 4, 3
"""Of a producer; and a consumer has as many connections: its inbox, and those to feedback and control."""
CONFIG = """\
[pipeline]
name = "bench"

[stages.source]
plugin = "generate"
options = {{ rate = 0.01 }}

[stages.sink]
input = "source"
plugin = "discard"
instances = {consumers}
"""


class _Stopwatch:
    """What the cores take of the processor, by stage, of what the harness does, which checks every identity all the time."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def of(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(stage: Stage, *arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return call(stage, *arguments, **named)
            finally:
                self.seconds[stage.me.stage] += time.thread_time() - began

        return timed


def simulated(consumers: int) -> tuple[float, float, float]:
    """For a session and a second: microseconds of the producer's core, and of the consumer's with all that it does by itself; and
    KiB of both."""
    policy = StagePolicy(queue=Bound(4096, 64 * MIB), consumers={"b": ConsumerPolicy(most=consumers)})
    gc.collect()
    tracemalloc.start()
    sim = Simulation(
        [
            Spec("a", messages=10**9, record_s=1e9, policy=policy),
            Spec("b", (("a", ""),), consumers, policy),
        ]
    )
    sim.run(lambda: False, seconds=2.0)
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    producer = sim.nodes["a", 1].stage
    assert sum(1 for outlet in producer.sessions.outlets for _ in outlet.sessions) == consumers
    watch = _Stopwatch()
    kept = {name: getattr(Stage, name) for name in CORE_CALLS}
    try:
        for name, call in kept.items():
            setattr(Stage, name, watch.of(call))
        sim.run(lambda: False, seconds=SIMULATED_S)
    finally:
        for name, call in kept.items():
            setattr(Stage, name, call)
    producer_us, consumer_us = (watch.seconds[name] / SIMULATED_S / consumers * 1e6 for name in ("a", "b"))
    return producer_us, consumer_us, memory / consumers / 1024


def real(consumers: int) -> tuple[float, float, float]:
    """Microseconds a second of the producer's CPU, of a consumer's, and KiB of the producer, for a session."""
    cost = {}
    for many in (1, consumers):
        with pipeline(CONFIG.format(consumers=many)) as made:
            made.start()
            wait_until(partial(_all_in_session, made, many), "all consumers are in session", 60.0, poll_s=0.5)
            [source], sinks = (made.instances()[name] for name in ("source", "sink"))
            before = cpu_s(source), sum(map(cpu_s, sinks))
            time.sleep(REAL_S)
            after = cpu_s(source), sum(map(cpu_s, sinks))
            used = [(b - a) / REAL_S * 1e6 for a, b in zip(before, after, strict=True)]
            cost[many] = used[0], used[1] / many, float(rss_kib(source))
            made.end()
    more = consumers - 1
    return (
        (cost[consumers][0] - cost[1][0]) / more,
        cost[consumers][1],
        (cost[consumers][2] - cost[1][2]) / more,
    )


def _all_in_session(made: Pipeline, many: int) -> bool:
    if len(made.instances().get("sink", ())) < many:
        return False
    instances = made.snapshot()["stages"]["source"].get("instances", [])
    return sum(len(link.get("consumers", ())) for one in instances for link in one["links"]) == many


def frame_bytes() -> int:
    """Of a session at rest, in a second: a statement, a confirm, an announcement."""
    session = bytes(frames.SECRET_BYTES)
    statement = frames.Statement(
        session, 10**6, 10**9, 10**12, 10**6, 10**9, 10**6, [], [], [], 1e5, True, False, False
    )
    confirm = frames.Confirm(session, 10**6, 10**6, 10**9, 10**12, 10**9, 0)
    announcement = frames.Announcement("pipeline", "stage", 1000, "0123456789ab", "RUNNING", False, False)
    return sum(len(frames.write(one)) for one in (statement, confirm, announcement))


def mesh(size: int, session_us: float, session_kib: float, bytes_a_s: int) -> str:
    """A row: a stage between two others, each with so many instances."""
    sessions = 2 * size
    links = STAGES - 1
    return (
        f"| {size:,} | {sessions:,} | {links * size * size:,} | {sessions * session_us / 1e4:.2f} % | "
        f"{sessions * session_kib / 1024:.1f} MiB | {DESCRIPTORS_A_SESSION * size + CONNECTIONS_A_SESSION * size:,} | "
        f"{sessions * bytes_a_s * 8 / 1e6:.2f} Mbit/s | {STAGES * size:,} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=int, metavar="N", help="with N real consumers, too")
    arguments = parser.parse_args()
    print(
        "| consumers of one producer | its core, a session and second | a consumer's core, a second | memory of both |"
    )
    print("|---|---|---|---|")
    for consumers in CONSUMERS:
        producer_us, consumer_us, kib = simulated(consumers)
        print(f"| {consumers:,} | {producer_us:.0f} µs | {consumer_us:.0f} µs | {kib:.1f} KiB |", flush=True)
    size = frame_bytes()
    print(f"\nframes of a session at rest: {size} bytes a second")
    if not arguments.real:
        return
    producer_us, consumer_us, producer_kib = real(arguments.real)
    print(
        f"real, {arguments.real} consumers: a session costs its producer {producer_us:.0f} µs a second, {producer_kib:.0f} KiB"
    )
    print(f"an idle consumer of one producer takes {consumer_us:.0f} µs a second\n")
    columns = "instances a stage|sessions of one|in all|its CPU at rest|memory|descriptors|frames|snapshots a second"
    print(f"| {columns.replace('|', ' | ')} |")
    print("|---|---|---|---|---|---|---|---|")
    for many in SIZES:
        print(mesh(many, producer_us, producer_kib, size))


if __name__ == "__main__":
    main()
