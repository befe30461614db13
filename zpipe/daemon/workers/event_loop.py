"""The event loop that async hooks run on: one thread for all that is under way.

May live here: asyncio, and the timeout of a call. How many may be under way is the pool's.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from zpipe.daemon.runner import Step, Work
from zpipe.errors import Retry

if TYPE_CHECKING:
    import asyncio


class EventLoop:
    """Settles awaitables and goes on with their work as long as it only waits for more of them; then `resume` is called."""

    def __init__(self, timeout_s: float | None, resume: Callable[[Work, Step], None]) -> None:
        self._timeout_s = timeout_s
        self._resume = resume
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._closed = False

    def begin(self, work: Work, first: Callable[[], Step]) -> None:
        """From any thread: `first` is called on the loop, then it is settled. Does not block."""
        self._submit(self._begin(work, first))

    def settle(self, work: Work, step: Step) -> None:
        """From any thread. `step` is what the work waits for. Does not block."""
        self._submit(self._settle(work, step))

    def _submit(self, coroutine: Coroutine[Any, Any, None]) -> None:
        import asyncio  # 6 MiB that only async plugins need

        with self._lock:
            if self._closed:
                coroutine.close()
                return
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._run, args=[self._loop], name="zpipe-asyncio", daemon=True).start()
            asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        loop.run_forever()
        loop.close()

    def close(self) -> None:
        """Cancels what is under way: nobody hears of its results. Does not wait for it."""
        with self._lock:
            self._closed = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        import asyncio

        assert self._loop is not None
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.call_soon(self._loop.stop)

    async def _begin(self, work: Work, first: Callable[[], Step]) -> None:
        await self._settle(work, first())

    async def _settle(self, work: Work, step: Step) -> None:
        while isinstance(step, Awaitable | AsyncIterator):
            try:
                answer = await self._in_time(step)
            except BaseException as error:  # whatever a plugin raises is its message's failure
                if self._closed:
                    raise
                step = work.advance(error=error)
            else:
                step = work.advance(answer)
        self._resume(work, step)

    async def _in_time(self, step: Any) -> Any:
        import asyncio

        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                return await settled(step)
        except TimeoutError:
            if limit.expired():
                raise Retry(reason=f"the call outlived the timeout of {self._timeout_s:g} s") from None
            raise


async def settled(made: Any) -> Any:
    """The result of an awaitable, or of an async iterator: an iterator of what it gave."""
    if isinstance(made, AsyncIterator):
        return iter([one async for one in made])
    return await made
