"""What a plugin counts and measures itself."""

from __future__ import annotations

import threading

import pytest

from zpipe.plugin_metrics import MOST, Metrics


def test_one_of_each_kind_by_its_name() -> None:
    metrics = Metrics()
    assert metrics.figures() == {}
    metrics.counter("hits").inc()
    metrics.counter("hits").inc(2)
    metrics.gauge("open").set(5)
    metrics.gauge("open").inc(-1)
    for value in (0.75, 1.0, 3, 0, 1e20):
        metrics.histogram("size").observe(value)
    assert metrics.figures() == {
        "plugin_counters": {"hits": 3.0},
        "plugin_gauges": {"open": 4.0},
        "plugin_histograms": {
            "size": {"buckets": [[2.0**-13, 1], [1.0, 2], [4.0, 1], [2.0**33, 1]], "messages": 5, "sum_s": 1e20 + 4.75}
        },
    }


def test_what_is_a_mistake() -> None:
    metrics = Metrics()
    with pytest.raises(ValueError, match="only grows"):
        metrics.counter("hits").inc(-1)
    with pytest.raises(ValueError, match="'hits' is a counter already"):
        metrics.gauge("hits")
    with pytest.raises(ValueError, match="no name of a metric"):
        metrics.counter("user:5")
    for n in range(MOST - 1):
        metrics.counter(f"c{n}")
    with pytest.raises(ValueError, match="the most a plugin may have"):
        metrics.counter("one_more")
    assert metrics.counter("c0") is metrics.counter("c0")


def test_what_has_changed_is_told_once_and_adds_up_elsewhere() -> None:
    here, there = Metrics(), Metrics()
    assert here.changes() == []
    for value in (0.75, 3):
        here.counter("hits").inc(value)
        here.histogram("size").observe(value)
        here.gauge("open").inc(value)
        there.gauge("open").inc(100)
        changes = here.changes()
        assert [row[:2] for row in changes] == [["counter", "hits"], ["histogram", "size"], ["gauge", "open"]]
        for row in changes:
            there.add(*row)
        assert here.changes() == []
    assert there.figures() == here.figures() | {"plugin_gauges": {"open": 203.75}}
    here.gauge("open").set(7)
    here.gauge("open").inc(-2)
    [change] = here.changes()
    assert change == ["gauge", "open", [7.0, -2.0]]
    there.add(*change)
    assert there.figures() == here.figures()
    here.gauge("open").set(5)
    assert here.changes() == [["gauge", "open", [5.0, 0.0]]], "also the same value is news where another has set it"
    with pytest.raises(ValueError, match="'hits' is a counter already"):
        there.add("gauge", "hits", [1.0, 0.0])


def test_threads_lose_no_count() -> None:
    counter = Metrics().counter("n")
    threads = [threading.Thread(target=lambda: [counter.inc() for _ in range(20_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.value == 80_000
