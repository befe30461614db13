"""Tasks whose hooks are async, and the timeout of a call. Must not live here: how many calls may be under way."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from zpipe.daemon.plugin.async_thread import AsyncThread
from zpipe.daemon.plugin.runner import Step, Work
from zpipe.errors import OperatorError, Retry
from zpipe.runtime.logs import fields

if TYPE_CHECKING:
    import asyncio


GRACE_S = 1.0
"""How long a cancelled call has to end."""
MOST_ABANDONED = 10
"""So many calls that go on although they were cancelled end the stage: each may hold memory and connections."""


class EventLoop:
    """Waits for awaitables, and goes on with their work while that only has to wait for more of them. Then it calls `resume`."""

    def __init__(
        self,
        timeout_s: float | None,
        resume: Callable[[Work, Step], None],
        thread: AsyncThread,
        log: logging.Logger,
    ) -> None:
        self._log = log
        self._timeout_s = timeout_s
        self._resume = resume
        self._thread = thread
        self._closed = False
        self._abandoned = 0

    def begin(self, work: Work, first: Callable[[], Step]) -> None:
        """From any thread: `first` is called on the event loop, which then waits for what it returned. Does not block."""
        if not self._closed:
            self._thread.submit(self._go_on(work, first))

    def wait_for(self, work: Work, step: Step) -> None:
        """From any thread: `step` is what the work waits for. Does not block."""
        self.begin(work, lambda: step)

    def close(self) -> None:
        """Cancels what is under way. Nobody hears of its results. Does not wait for it."""
        self._closed = True
        self._thread.cancel_all()

    async def _go_on(self, work: Work, first: Callable[[], Step]) -> None:
        step = first()
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
        if self._timeout_s is None:
            return await outcome_of(step)
        import asyncio

        # A task of its own: a call that ignores that it was cancelled is left behind, and its message goes on.
        call = asyncio.ensure_future(outcome_of(step))
        try:
            done, _ = await asyncio.wait({call}, timeout=self._timeout_s)
            if done:
                return call.result()
        except asyncio.CancelledError:
            call.cancel()
            raise
        call.cancel()
        done, _ = await asyncio.wait({call}, timeout=GRACE_S)
        if done:
            _look_at(call)
        else:
            self._abandon(call)
        raise Retry(reason=f"the call outlived the timeout of {self._timeout_s:g} s")

    def _abandon(self, call: asyncio.Future[Any]) -> None:
        """Raises OperatorError, the end of the stage, when too many go on."""
        self._abandoned += 1
        call.add_done_callback(self._came_late)
        self._log.error(
            fields(event="call.abandoned", hint="it goes on, though it was cancelled", calls=self._abandoned)
        )
        if self._abandoned >= MOST_ABANDONED:
            raise OperatorError(
                f"{self._abandoned} calls go on after their timeout of {self._timeout_s:g} s: the plugin must let "
                f"asyncio.CancelledError through"
            )

    def _came_late(self, call: asyncio.Future[Any]) -> None:
        self._abandoned -= 1
        _look_at(call)


def _look_at(call: asyncio.Future[Any]) -> None:
    """Takes the outcome of a call that nobody waits for: asyncio would log an exception that is never looked at."""
    if not call.cancelled():
        call.exception()


def run_on(loop: asyncio.AbstractEventLoop, made: Any) -> Any:
    """Runs an awaitable on an event loop that nobody else runs, and returns its outcome. Blocks. Raises what the call does.

    A SystemExit in a task that the plugin made interrupts the loop before the call hears of it. So the loop is run again until
    the call has ended: otherwise it would go on during the next message's call, and raise it there.
    """
    call = loop.create_task(_outcome_or_error(made))
    while not call.done():
        try:
            loop.run_until_complete(call)
        except BaseException:
            if loop.is_closed():
                raise
    answer, error = call.result()
    if error is not None:
        raise error
    return answer


async def _outcome_or_error(made: Any) -> tuple[Any, BaseException | None]:
    try:
        return await outcome_of(made), None
    except BaseException as error:
        return None, error


async def outcome_of(made: Any) -> Any:
    """The result of an awaitable; for an async iterator, an iterator of all that it gave."""
    if isinstance(made, AsyncIterator):
        return iter([one async for one in made])
    return await made
