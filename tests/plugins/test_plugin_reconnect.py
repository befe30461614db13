"""Connections that are opened again after a fault: when, how often, and what is raised meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from zpipe import Throttled
from zpipe_plugins.reconnect import AsyncReconnect, Reconnect, Reconnects


class Service:
    """Counts connections; `down` is what a connection meets."""

    def __init__(self) -> None:
        self.down = ""
        self.opened = self.closed = 0

    def connect(self) -> int:
        if self.down:
            raise ConnectionError(self.down)
        self.opened += 1
        return self.opened

    def close(self, connection: int) -> None:
        self.closed += 1
        raise RuntimeError("it is closed already")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def delay(reconnect: Reconnect[int]) -> float:
    with pytest.raises(Throttled) as raised, reconnect.use():
        raise ConnectionError("reset by\n  peer")
    assert raised.value.retry_after is not None
    return raised.value.retry_after


def test_one_connection_serves_until_a_fault_drops_it(clock: list[float]) -> None:
    service = Service()
    reconnect = Reconnect(service.connect, service.close, (ConnectionError,))
    assert service.opened == 0, "it is opened when it is used"
    for _ in range(3):
        with reconnect.use() as connection:
            assert connection == 1
    with pytest.raises(ValueError, match="the caller's"), reconnect.use():
        raise ValueError("the caller's")
    assert (service.opened, service.closed) == (1, 0), "that was no fault of the connection"
    with pytest.raises(Throttled, match=r"reset by peer: retry after 0\.5 s"), reconnect.use():
        raise ConnectionError("reset by\n  peer")
    assert service.closed == 1
    clock[0] += 0.5
    with reconnect.use() as connection:
        assert connection == 2
    reconnect.close()
    reconnect.close()
    assert service.closed == 2


def test_each_try_waits_twice_as_long_up_to_the_most_and_work_begins_anew(clock: list[float]) -> None:
    service = Service()
    reconnect = Reconnect(service.connect, service.close, (ConnectionError,), first_s=1.0, max_s=5.0)
    delays = []
    for _ in range(5):
        delays.append(delay(reconnect))
        clock[0] += delays[-1]
    assert delays == [1.0, 2.0, 4.0, 5.0, 5.0]
    with reconnect.use():
        pass
    assert delay(reconnect) == 1.0


def test_calls_before_the_next_try_is_due_do_not_knock(clock: list[float]) -> None:
    service = Service()
    service.down = "refused"
    reconnect = Reconnect(service.connect, service.close, (ConnectionError,), first_s=2.0)
    for left in (2.0, 1.5, 1.0):
        with pytest.raises(Throttled, match="refused") as raised, reconnect.use():
            pass
        assert raised.value.retry_after == left
        service.down = ""  # it would work by now
        clock[0] += 0.5
    assert service.opened == 0
    clock[0] += 0.5
    with reconnect.use() as connection:
        assert connection == 1


def test_a_fault_without_words_is_named_by_its_type() -> None:
    reconnect = Reconnect(lambda: 1, lambda _: None, (TimeoutError,))
    with pytest.raises(Throttled, match="TimeoutError: retry"), reconnect.use():
        raise TimeoutError


def test_asyncio_many_calls_meet_one_fault_and_open_one_connection(clock: list[float]) -> None:
    service = Service()

    async def connect() -> int:
        await asyncio.sleep(0)
        return service.connect()

    async def close(connection: int) -> None:
        service.close(connection)

    async def use() -> None:
        reconnect = AsyncReconnect(connect, close, (ConnectionError,))
        broken = asyncio.Event()

        async def call(number: int) -> float | None:
            try:
                async with reconnect.use() as connection:
                    assert connection == service.opened
                    await broken.wait()
                    raise ConnectionError("gone")
            except Throttled as throttled:
                return throttled.retry_after

        calls = [asyncio.create_task(call(number)) for number in range(5)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert service.opened == 1
        broken.set()
        assert await asyncio.gather(*calls) == [0.5] * 5
        assert (service.opened, service.closed) == (1, 1)
        clock[0] += 0.5
        async with reconnect.use() as connection:
            assert connection == 2
        await reconnect.close()
        assert service.closed == 2

    asyncio.run(use())


def test_each_that_is_used_at_one_time_is_a_connection_of_its_own() -> None:
    service = Service()
    each = Reconnects(service.connect, service.close, (ConnectionError,))
    with each.use() as first, each.use() as second:
        assert {first, second} == {1, 2}
    with each.use(), each.use():
        assert service.opened == 2, "those that are free are used again"
    with pytest.raises(Throttled), each.use():
        raise ConnectionError("reset by peer")
    assert service.closed == 1
    each.close()
    assert service.closed == 2
