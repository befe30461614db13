"""CPU-bound work gets as many cores as there are."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pools import bench, task

SOURCE = """
from zpipe import hookimpl


@hookimpl
def zpipe_process(message):
    return sum(i * i for i in range(100_000))
"""


def rate(folder: Path, count: int, tasks: int) -> float:
    with bench(folder, SOURCE, f'kind = "process", count = {count}') as pool:
        for _ in range(count):
            pool.run(task([0]))
        began = time.perf_counter()
        for _ in range(tasks):
            pool.pool.put(task([0]))
        for _ in range(tasks):
            pool.result()
        return tasks / (time.perf_counter() - began)


@pytest.mark.stress
@pytest.mark.needs("two cores")
def test_four_workers_on_two_cores_do_nearly_twice_the_work_of_one(tmp_path: Path) -> None:
    ratios = sorted(rate(tmp_path, 4, 400) / rate(tmp_path, 1, 400) for _ in range(3))
    assert ratios[1] >= 1.8, ratios
