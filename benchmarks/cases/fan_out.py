"""N13: the middle stage in 1, 16 and 64 instances: what a message costs, and the memory of a session at each end."""

from __future__ import annotations

import time

from benchmarks.benchmark import Benchmark, Effort, Side
from benchmarks.figures import Comparison, Metrics, Source, ratio_at_most
from benchmarks.peers.by_hand import ByHand
from benchmarks.peers.zpipe import Zpipe
from benchmarks.processes import rss_kib, wait_until
from benchmarks.window import Load, Running, measure, wait_for_first

INSTANCES = (1, 16, 64)
LIGHT = Load(rate=500)


def _started(running: Running, instances: int) -> None:
    wait_for_first(running)
    wait_until(lambda: len(running.pids().get("map", [])) == instances, f"{instances} instances")
    time.sleep(instances / 20)  # a start takes two cores so long; then all have said hello


def _zpipe(effort: Effort) -> Metrics:
    metrics: dict[str, float] = {}
    for instances in INSTANCES:
        with Zpipe(instances=instances).running(Load()) as running:
            _started(running, instances)
            found = measure(running, effort.warm_up_s, effort.window_s)
        metrics |= {f"cpu_{instances}_us": found["cpu_us"], f"rate_{instances}": found["rate"]}
    return metrics


def _memory(effort: Effort) -> Metrics:
    """What source and sink take for each session that they have more than in the run before, under a light load, when their
    queues are empty."""
    ends_kib: list[int] = []
    for instances in INSTANCES:
        with Zpipe(instances=instances).running(LIGHT) as running:
            _started(running, instances)
            time.sleep(effort.warm_up_s)
            pids = running.pids()
            ends_kib.append(sum(map(rss_kib, (*pids["source"], *pids["sink"]))))
    return {
        f"session_{INSTANCES[n]}_kib": (ends_kib[n] - ends_kib[n - 1]) / (2 * (INSTANCES[n] - INSTANCES[n - 1]))
        for n in (1, 2)
    }


def _by_hand(effort: Effort) -> Metrics:
    metrics: dict[str, float] = {}
    for instances in INSTANCES:
        with ByHand(instances=instances).running(Load()) as running:
            found = measure(running, effort.warm_up_s, effort.window_s)
        metrics |= {f"cpu_{instances}_us": found["cpu_us"], f"rate_{instances}": found["rate"]}
    return metrics


def _cpu(side: str, instances: int) -> Source:
    return side, f"cpu_{instances}_us"


BENCHMARKS = (
    Benchmark(
        "N13.cpu",
        "fan-out to 1, 16 and 64 instances",
        [Side("zpipe", _zpipe), Side("pyzmq + cbor2", _by_hand)],
        [
            *(
                Comparison(
                    f"{n} instances against 1", "us CPU/message", _cpu("zpipe", n), _cpu("zpipe", 1), ratio_at_most(1.5)
                )
                for n in INSTANCES[1:]
            ),
            *(
                Comparison(f"{n} instances", "us CPU/message", _cpu("zpipe", n), _cpu("pyzmq + cbor2", n))
                for n in INSTANCES
            ),
        ],
    ),
    Benchmark(
        "N13.memory",
        "memory of a session at both its ends",
        [Side("zpipe", _memory)],
        [
            Comparison(
                "memory a session, 64 against 16",
                "KiB",
                ("zpipe", "session_64_kib"),
                ("zpipe", "session_16_kib"),
                ratio_at_most(1.25),
            )
        ],
    ),
)
