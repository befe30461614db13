"""The one event loop of an instance, in a thread of its own, and how other threads run coroutines on it.

Every async hook of a plugin runs on it, so what `open` makes there can be used in all of them. It is started when the first of
them is called, since asyncio is 6 MiB that other plugins do not need. Must not live here: timeouts, and how many calls may be
under way.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from zpipe.hookspecs import Context
from zpipe.runtime.exception_text import reason_of
from zpipe.runtime.logs import fields

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

MOST_ITEMS = 256
"""Items that an async source may be ahead of the thread that takes them, so that waking it once brings many."""


class AsyncThread:
    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any] | None:
        """From any thread: has the coroutine run. Does not block. None after `close`."""
        import asyncio

        with self._lock:
            if self._closed:
                coroutine.close()
                return None
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._run, args=[self._loop], name="zpipe-asyncio", daemon=True).start()
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def outcome(self, made: Any) -> Any:
        """What a hook returned; if that is an awaitable, its result. Blocks, so it must not be called on the loop's thread."""
        if not isinstance(made, Awaitable):
            return made
        future = self.submit(_awaited(made))
        return future.result() if future is not None else None

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._closed:  # a plugin may call stop()
            try:
                loop.run_forever()
            except BaseException as error:
                # asyncio lets SystemExit and KeyboardInterrupt of a task through, also if a plugin has made the task. A call that
                # waits for that task hears of it as well; all other calls must go on.
                self._log.error(fields(event="event_loop.ended", reason=reason_of(error)))
        loop.close()

    def cancel_all(self) -> None:
        """Cancels what is under way. Does not wait for it."""
        with self._lock:
            if self._loop is not None and not self._closed:
                self._loop.call_soon_threadsafe(self._cancel)

    def close(self) -> None:
        """Cancels what is under way, and ends the thread. Does not wait for it."""
        with self._lock:
            if self._loop is not None and not self._closed:
                self._loop.call_soon_threadsafe(self._stop)
            self._closed = True

    def _cancel(self) -> None:
        import asyncio

        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _stop(self) -> None:
        assert self._loop is not None
        self._cancel()
        self._loop.call_soon(self._loop.stop)


async def _awaited(made: Awaitable[Any]) -> Any:
    return await made


class AsyncSource:
    """An async `zpipe_source` as an iterator for the source's thread, which may call it again once it has ended."""

    def __init__(self, source: Callable[[Context], AsyncIterator[Any]], thread: AsyncThread) -> None:
        self._source = source
        self._thread = thread
        self._items: deque[Any] = deque()
        self._changed = threading.Condition()
        self._go_on: Callable[[], object] | None = None
        self._over = False
        self._error: BaseException | None = None
        self._pumping: Future[Any] | None = None

    def interrupt(self) -> None:
        """From any thread: cancels the source where it waits."""
        if self._pumping is not None:
            self._pumping.cancel()
        self._end(None)

    def __call__(self, context: Context) -> Iterator[Any]:
        self._begin()
        self._pumping = self._thread.submit(self._pump(context))
        if context.stopping.is_set():
            self.interrupt()  # it may have been called before there was anything to cancel
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._over)
            while self._items:
                yield self._items.popleft()
                if (go_on := self._go_on) is not None and len(self._items) <= MOST_ITEMS // 2:
                    self._go_on = None
                    go_on()
            if self._over:
                break
        if self._error is not None:
            raise self._error

    async def _pump(self, context: Context) -> None:
        import asyncio

        room, loop = asyncio.Event(), asyncio.get_running_loop()
        items = self._source(context)
        try:
            async for item in items:
                self._items.append(item)
                if len(self._items) == 1:
                    with self._changed:
                        self._changed.notify()
                if len(self._items) >= MOST_ITEMS:
                    room.clear()
                    self._go_on = lambda: loop.call_soon_threadsafe(room.set)
                    if len(self._items) > MOST_ITEMS // 2:  # else the thread has taken them before it could see this
                        await room.wait()
        except asyncio.CancelledError:
            self._end(None)
            raise
        except BaseException as error:
            self._end(error)
        finally:
            self._end(None)
            if (close := getattr(items, "aclose", None)) is not None:
                await close()

    def _begin(self) -> None:
        with self._changed:
            self._over, self._error, self._go_on = False, None, None

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._error = self._error or error
            self._over = True
            self._changed.notify()
