from __future__ import annotations

import datetime
import itertools
import threading
import time
from typing import Any

import pytest

from zpipe import Message
from zpipe_plugins import generate
from zpipe_plugins.discard import Discard
from zpipe_plugins.generate import Generate, Options


def test_payloads_and_positions(make_context: Any) -> None:
    context = make_context(Options(count=3, fields={"a": 1}, size=2))
    assert list(Generate().source(context)) == [(n, {"id": n, "a": 1, "blob": b"\0\0"}) for n in range(3)]
    assert list(Generate().source(make_context(Options(count=1)))) == [(0, {"id": 0})]


@pytest.mark.parametrize("rate", [None, 1e6])
@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
def test_every_number_once_whatever_the_count(make_context: Any, count: int, rate: float | None) -> None:
    whole = list(Generate().source(make_context(Options(count=count, rate=rate))))
    assert [position for position, _ in whole] == list(range(count))
    for position in {0, count // 2, count - 1} & set(range(count)):
        context = make_context(Options(count=count, rate=rate), position=position)
        assert list(Generate().source(context)) == whole[position + 1 :]
        assert Generate().total(context) == count - position - 1


def test_endless(make_context: Any) -> None:
    context = make_context(Options())
    assert Generate().total(context) is None
    source = Generate().source(context)
    assert [n for n, _ in itertools.islice(source, 5000)] == list(range(5000))
    context.stopping.set()
    assert len(list(source)) < 1000


def test_rate_is_kept_without_drift(make_context: Any) -> None:
    start = time.monotonic()
    assert len(list(Generate().source(make_context(Options(count=201, rate=1000))))) == 201
    assert time.monotonic() - start >= 0.2


def test_a_stall_is_caught_up_by_a_second_at_most(make_context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now

    class Stopping(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now
            now += timeout or 0
            return False

    monkeypatch.setattr(generate, "time", Clock)
    source = Generate().source(make_context(Options(rate=10), stopping=Stopping()))
    assert [next(source)[0] for _ in range(11)] == list(range(11))
    assert now == pytest.approx(1.0)
    now = 1000.0
    for _ in range(11):
        next(source)
    assert now == 1000.0
    next(source)
    assert now == pytest.approx(1000.1)


def test_a_moment_of_waiting_tells_whether_to_stop(make_context: Any) -> None:
    stopping = make_context(Options()).stopping
    assert not stopping.wait(0.001)
    assert not stopping.wait(-1)
    stopping.set()
    assert stopping.wait(0.001) and stopping.wait(1000) and stopping.wait()


def test_stopping_ends_a_wait(make_context: Any) -> None:
    context = make_context(Options(rate=0.001))
    source = Generate().source(context)
    next(source)
    threading.Timer(0.05, context.stopping.set).start()
    assert list(source) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"count": -1}, "count is -1: allowed is 0 or more"),
        ({"rate": 0}, "rate is 0: allowed is any number above 0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"fields": {"id": 1}}, "'id', which generate sets"),
        ({"fields": {"blob": 1}, "size": 1}, "'blob', which generate sets"),
        ({"fields": {"when": [datetime.date(2024, 1, 1)]}}, "fields.when has a list"),
    ],
)
def test_wrong_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Options(**options)


def test_fast_enough_for_any_queue(make_context: Any) -> None:
    """A guard against something slow per message, far below the 3 M/s measured, as other tests run beside it."""
    fields = {f"field{n}": n for n in range(6)}
    source = Generate().source(make_context(Options(count=100_000, fields=fields)))
    start = time.process_time()
    for _ in source:
        pass
    assert time.process_time() - start < 0.5


def test_discard(make_context: Any) -> None:
    context = make_context()
    assert Discard().process(Message(1), context) is None  # type: ignore[func-returns-value]
    assert Discard().process_batch([Message(1)], context) is None  # type: ignore[func-returns-value]
