"""A connection to a service, opened when it is used and opened again after a fault: the one way of all plugins that have one.

`Reconnect` is for clients that block, `Reconnects` has one for each worker, and `AsyncReconnect` is for those of asyncio. Must
not live here: which exceptions of a client are faults of its connection, which each plugin says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Generic, TypeVar

from zpipe import Throttled

C = TypeVar("C")
Faults = tuple[type[BaseException], ...]
FIRST_S = 0.5
MAX_S = 30.0


class _BackOff:
    """When the next try is due: after twice as long each time, until one has worked."""

    def __init__(self, first_s: float, max_s: float) -> None:
        self._first_s = self._next_s = first_s
        self._max_s = max_s
        self._due_at = 0.0
        self._words = ""

    def check(self) -> None:
        """Raises what the last try has come to, for calls that come before the next is due: not each of them is a try."""
        left_s = self._due_at - time.monotonic()
        if left_s > 0:
            raise Throttled(left_s, self._words)

    def failed(self, fault: BaseException) -> Throttled:
        """What to raise. Of several calls that meet one fault, the first counts."""
        self._words = words_of(fault)
        now = time.monotonic()
        if now >= self._due_at:
            self._due_at = now + self._next_s
            self._next_s = min(self._next_s * 2, self._max_s)
        return Throttled(self._due_at - now, self._words)

    def worked(self) -> None:
        self._next_s, self._due_at = self._first_s, 0.0


def words_of(fault: BaseException) -> str:
    """What the service or its client says, on one line; the exception's type where that is nothing."""
    return " ".join(str(fault).split()) or type(fault).__name__


class Reconnect(Generic[C]):
    """A connection that may be used by several threads, one at a time.

    connect  opens one;  close: closes it, and may raise anything
    faults   exceptions that say that the connection or its service does not work. Any other is the caller's, and leaves the
             connection as it is
    first_s, max_s  between two tries
    """

    def __init__(
        self,
        connect: Callable[[], C],
        close: Callable[[C], object],
        faults: Faults,
        first_s: float = FIRST_S,
        max_s: float = MAX_S,
    ) -> None:
        self._connect = connect
        self._close = close
        self._faults = faults
        self._back_off = _BackOff(first_s, max_s)
        self._connection: C | None = None
        self._lock = threading.RLock()

    @contextmanager
    def use(self) -> Iterator[C]:
        """The connection, opened if there is none. On a fault, within or on opening, it is dropped, and Throttled raised."""
        with self._lock:
            try:
                if self._connection is None:
                    self._back_off.check()
                    self._connection = self._connect()
                yield self._connection
            except self._faults as fault:
                self.close()
                raise self._back_off.failed(fault) from fault
            self._back_off.worked()

    def close(self) -> None:
        """Closes the connection, if there is one. The next use opens another."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(Exception):  # it may be what is broken
                    self._close(connection)


class Reconnects(Generic[C]):
    """As `Reconnect`, with as many connections as threads use one at the same time."""

    def __init__(self, connect: Callable[[], C], close: Callable[[C], object], faults: Faults) -> None:
        self._make = partial(Reconnect, connect, close, faults)
        self._all: list[Reconnect[C]] = []
        self._free: list[Reconnect[C]] = []

    @contextmanager
    def use(self) -> Iterator[C]:
        """One that no other thread uses. A fault concerns that one only: the others meet it by themselves, if they do."""
        try:
            one = self._free.pop()
        except IndexError:
            one = self._make()
            self._all.append(one)
        try:
            with one.use() as connection:
                yield connection
        finally:
            self._free.append(one)

    def close(self) -> None:
        """Closes all of them. The next use opens another."""
        for one in self._all:
            one.close()


class AsyncReconnect(Generic[C]):
    """As `Reconnect`, for asyncio. The connection may be used by many calls at once; a fault in one drops it for all."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[C]],
        close: Callable[[C], Awaitable[object]],
        faults: Faults,
        first_s: float = FIRST_S,
        max_s: float = MAX_S,
    ) -> None:
        import asyncio  # plugins that block do without

        self._connect = connect
        self._close = close
        self._faults = faults
        self._back_off = _BackOff(first_s, max_s)
        self._connection: C | None = None
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def use(self) -> AsyncIterator[C]:
        """The connection, opened if there is none. On a fault, within or on opening, it is dropped, and Throttled raised."""
        connection: C | None = None
        try:
            async with self._opening:
                if self._connection is None:
                    self._back_off.check()
                    self._connection = await self._connect()
                connection = self._connection
            yield connection
        except self._faults as fault:
            if connection is self._connection:  # else another call has met the fault before
                await self.close()
            raise self._back_off.failed(fault) from fault
        self._back_off.worked()

    async def close(self) -> None:
        """Closes the connection, if there is one. The next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it may be what is broken
                await self._close(connection)
