"""The benchmarks, a file each (or a few that share their pipeline), in the order of the table."""

from __future__ import annotations

from benchmarks.benchmark import Benchmark
from benchmarks.cases import (
    acks,
    backlog,
    disk_buffer,
    fan_out,
    idle,
    jetstream_link,
    keys,
    latency,
    monitor,
    programs,
    sharing,
    stages,
    stall,
    start,
    throughput,
)

ALL: tuple[Benchmark, ...] = (
    *throughput.BENCHMARKS,
    *latency.BENCHMARKS,
    *sharing.BENCHMARKS,
    *idle.BENCHMARKS,
    *stall.BENCHMARKS,
    *backlog.BENCHMARKS,
    *monitor.BENCHMARKS,
    *stages.BENCHMARKS,
    *start.BENCHMARKS,
    *fan_out.BENCHMARKS,
    *disk_buffer.BENCHMARKS,
    *jetstream_link.BENCHMARKS,
    *keys.BENCHMARKS,
    *acks.BENCHMARKS,
    *programs.BENCHMARKS,
)
