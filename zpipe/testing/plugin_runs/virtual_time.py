"""An event loop on which waiting takes no time. Must not live here: what runs on it."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`asyncio.sleep` and timeouts are over at once, and the loop's clock says that they took their time.

    Where something from outside is waited for as well (a connection, a thread), time passes as it does.
    """

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self.in_threads = 0
        super().__init__(_SkippingSelector(self))

    def time(self) -> float:
        return super().time() + self._ahead_s

    def skip(self, seconds: float) -> None:
        self._ahead_s += seconds

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        call = super().run_in_executor(executor, func, *args)
        self.in_threads += 1
        call.add_done_callback(self._came_back)
        return call

    def _came_back(self, call: asyncio.Future[Any]) -> None:
        self.in_threads -= 1


class _SkippingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        # The loop watches one descriptor for itself.
        if ready or timeout is None or timeout <= 0 or len(self.get_map()) > 1 or self._loop.in_threads:
            return ready if ready else super().select(timeout)
        self._loop.skip(timeout)
        return []
