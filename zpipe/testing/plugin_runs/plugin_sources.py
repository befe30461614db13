"""Heads of a simulated pipeline: one that gives what a test sends, and one that reads a real source. Must not live here: what
becomes of their messages."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from typing import Any

from zpipe.core.events import SourceYielded
from zpipe.core.policy import LinkPolicy
from zpipe.daemon.plugin.source_thread import batch_of
from zpipe.messages import Message
from zpipe.testing.clock import NEVER
from zpipe.testing.plugin_runs.plugin_workers import Life

SILENT_S = 3600.0
"""By the clock of the event loop, on which waiting takes no time."""
MESSAGE_BYTES = 100
"""About so large messages are in tests."""


class Head:
    """What both have in common: items that wait, a limit, and an end. `singly`: it hears of single messages."""

    def __init__(self, stage: str, policy: LinkPolicy, outlets: Collection[str] = (), singly: bool = False) -> None:
        self._singly = singly
        self.over = False
        self._stage = stage
        self._policy = policy
        self._outlets = outlets
        self._given = 0
        self._limit = 0
        self._closing = False
        self._items: deque[Message] = deque()

    def given(self, now: float) -> int:
        return self._given + len(self._items)

    def set_limit(self, limit: int) -> None:
        self._limit = limit

    def close(self) -> None:
        self._closing = True

    def committed(self, position: Any) -> None:
        """Nobody wants to know."""

    def acked(self, ids: list[str]) -> None:
        """Nor that."""

    @property
    def ready_at(self) -> float:
        if self.over:
            return NEVER
        return 0.0 if self._closing or (self._items and self._given < self._limit) else NEVER

    def ends(self) -> bool:
        self.over = self._closing and not self._items
        return self.over

    def read(self, most: int, now: float) -> SourceYielded:
        count = max(0, min(most, len(self._items), self._limit - self._given))
        items = [self._items.popleft() for _ in range(count)]
        self._given += count
        return batch_of(items, self._stage, self._outlets, self._policy, MESSAGE_BYTES, self._singly, now)


class SentByTest(Head):
    """Gives what a test sends, and ends when it is closed."""

    def send(self, message: Message) -> None:
        self._items.append(message)


class ReadFromPlugin(Head):
    """Reads a real source, which runs in a thread that has its turn only while the simulation waits for it.

    `stopping.wait(seconds)` of the source takes so many seconds of the virtual clock, which `now` tells.
    """

    def __init__(
        self, life: Life, stage: str, policy: LinkPolicy, outlets: Collection[str], now: Callable[[], float]
    ) -> None:
        super().__init__(stage, policy, outlets, singly="zpipe_ack" in life.hooks)
        self._life = life
        self._now = now
        self._ended = False
        self._sleeps_until = 0.0
        self._error: BaseException | None = None
        self._turn = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        life.context.stopping = _VirtualStopping(self._sleep)
        self._thread = threading.Thread(target=self._run, name="zpipe-test-source", daemon=True)
        self._thread.start()

    # ---- in the source's thread

    def _run(self) -> None:
        self._turn.acquire()
        try:
            for message in self._messages():
                self._items.append(message)
                self._hand_back()
                if self._closing:
                    break
        except BaseException as error:
            self._error = error
        self._ended = True
        self._back.release()

    def _messages(self) -> Iterator[Message]:
        yield from read_messages(self._life)

    def _hand_back(self) -> None:
        self._back.release()
        self._turn.acquire()

    def _sleep(self, seconds: float) -> None:
        self._sleeps_until = self._now() + seconds
        self._hand_back()

    # ---- in the simulation

    def _go_on(self) -> None:
        """Until it has given one more, waits, or has ended. Raises what the source has raised."""
        self._turn.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error

    @property
    def ready_at(self) -> float:
        if self.over:
            return NEVER
        if self._closing or self._ended:
            return 0.0
        return self._sleeps_until if self._given + len(self._items) < self._limit else super().ready_at

    def read(self, most: int, now: float) -> SourceYielded:
        room = min(most, self._limit - self._given)
        while not (self._ended or self._closing) and self._sleeps_until <= now and len(self._items) < room:
            self._go_on()
        return super().read(most, now)

    def close(self) -> None:
        super().close()
        self._life.context.stopping.set()
        self._items.clear()
        self._end()

    def _end(self) -> None:
        while not self._ended:
            self._go_on()

    def ends(self) -> bool:
        self.over = (self._closing or self._ended) and not self._items
        return self.over

    def committed(self, position: Any) -> None:
        self._life.call("zpipe_commit", position, self._life.context)

    def acked(self, ids: list[str]) -> None:
        self._life.call("zpipe_ack", ids, self._life.context)


class _VirtualStopping(threading.Event):
    def __init__(self, sleep: Callable[[float], None]) -> None:
        super().__init__()
        self._sleep = sleep

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            self._sleep(86_400.0 if timeout is None else timeout)
        return self.is_set()


def _awaited(made: AsyncIterator[Any], life: Life) -> Iterator[Any]:
    """The items of an async source, one after the other. One that gives nothing for SILENT_S has nothing more."""
    while True:
        try:
            yield life.wait_for(asyncio.wait_for(anext(made), SILENT_S))
        except (StopAsyncIteration, TimeoutError):
            return


def read_messages(life: Life) -> Iterator[Message]:
    """What the source gives, as messages with positions."""
    made = life.hooks["zpipe_source"](life.context)
    for item in _awaited(made, life) if isinstance(made, AsyncIterator) else made:
        if type(item) is Message:
            yield item
        elif type(item) is tuple and len(item) == 2:
            yield Message(item[1], position=item[0])
        else:
            raise TypeError(f"zpipe_source yields (position, payload) or a Message, not {type(item).__name__}")
