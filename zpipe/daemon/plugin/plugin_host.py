"""The plugin of one instance: opening and closing it, its source's saved position, telling it of commits.

Calling open, close, total, commit and ack belongs here, each on a thread that is not the loop's, so that a plugin that hangs does
not hang the loop. Must not live here: process hooks, which are `Runner`'s, and iterating the source, which is `SourceThread`'s.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple

from zpipe.core.actions import LogEvent
from zpipe.daemon.plugin.async_thread import AsyncThread
from zpipe.daemon.plugin.service_wait import ServiceWait
from zpipe.daemon.service.limited_log import LimitedLog
from zpipe.daemon.storage.store import SavedPosition, Store
from zpipe.errors import Retry, Throttled
from zpipe.hookspecs import Context
from zpipe.plugin_loading import Plugin
from zpipe.runtime.exception_text import reason_of, traceback_of
from zpipe.runtime.logs import fields

CLOSE_S = 5.0


class Opened(NamedTuple):
    """What was found on opening: the source's saved position, whether this run has read it to its end, how much is left."""

    saved: SavedPosition
    complete: bool
    total: int | None


class PluginHost:
    """run         the run that this instance belongs to, "" outside one
    service_wait  waits when the plugin says that its service is not there
    in_process  the plugin is opened in this process
    """

    def __init__(
        self,
        plugin: Plugin,
        context: Context,
        store: Store,
        run: str,
        log: logging.Logger,
        async_thread: AsyncThread,
        service_wait: ServiceWait,
        in_process: bool = True,
    ) -> None:
        self.plugin = plugin
        self.context = context
        self._store = store
        self._run = run
        self._log = log
        self._commit_failures, self._ack_failures = LimitedLog(log), LimitedLog(log)  # a thread each
        self._outcome = async_thread.outcome
        self._service_wait = service_wait
        self._in_process = in_process
        self._opened = False
        self._acked: SimpleQueue[list[str] | None] = SimpleQueue()
        self._acking: threading.Thread | None = None

    def open(self, then: Callable[[], None], done: Callable[[Opened | BaseException], None]) -> None:
        """Opens the plugin on a thread of its own, then calls `then`, which may raise too, and `done`. Does not block."""
        threading.Thread(target=lambda: done(self._open(then)), name="zpipe-open", daemon=True).start()

    def _open(self, then: Callable[[], None]) -> Opened | BaseException:
        hooks = self.plugin.hooks
        try:
            if "zpipe_open" in hooks and self._in_process:
                self._call_open(hooks["zpipe_open"])
            then()
            if not self.plugin.is_source:
                return Opened(SavedPosition(), False, None)
            saved = self._position()
            if saved.completed_by:
                return Opened(saved, True, None)
            self.context.position = saved.position
            if self.context.stopping.is_set():
                return Opened(saved, False, None)
            total = hooks["zpipe_total"](self.context) if "zpipe_total" in hooks else None
        except BaseException as error:  # also sys.exit(): whoever waits must hear of it
            return error
        return Opened(saved, False, total)

    def _call_open(self, hook: Callable[[Context], Any]) -> None:
        """Calls it until it has worked, or the source is to end."""
        while not self._opened:
            try:
                self._outcome(hook(self.context))
            except (Throttled, Retry) as answer:
                self._service_wait.wait(answer, self.context.stopping)
                if self.context.stopping.is_set():
                    break
            else:
                self._opened = True
                self._service_wait.reached()

    def _position(self) -> SavedPosition:
        """Where to go on. A source that was read to its end starts over in the next run, but not when it is restarted within the
        run."""
        saved = self._store.saved()
        return SavedPosition() if saved.completed_by and saved.completed_by != self._run else saved

    def committed(self, position: Any) -> None:
        """On the store's thread: a position is durable."""
        hook = self.plugin.hooks.get("zpipe_commit")
        if hook is None:
            return
        try:
            self._outcome(hook(position, self.context))
        except BaseException as error:  # also sys.exit(): the position is committed, whatever the plugin makes of it
            self._commit_failures.write(_failed("commit.failed", error), time.monotonic())

    def acked(self, ids: list[str]) -> None:
        """Tells the source of finished messages, on a thread of its own. Does not block."""
        if self._acking is None:
            self._acking = threading.Thread(target=self._ack, name="zpipe-ack", daemon=True)
            self._acking.start()
        self._acked.put(ids)

    def _ack(self) -> None:
        while (ids := self._acked.get()) is not None:
            try:
                self._outcome(self.plugin.hooks["zpipe_ack"](ids, self.context))
            except BaseException as error:  # also sys.exit(): the others are to be told
                self._ack_failures.write(_failed("ack.failed", error, messages=len(ids)), time.monotonic())

    def close(self) -> None:
        """Closes the plugin. One that does not close in CLOSE_S seconds is left behind. Blocks for so long at most."""
        if self._acking is not None:
            self._acked.put(None)
            self._acking.join(CLOSE_S)
        unopened = "zpipe_open" in self.plugin.hooks and not self._opened
        if "zpipe_close" in self.plugin.hooks and self._in_process and not unopened:
            closing = threading.Thread(target=self._close, name="zpipe-close", daemon=True)
            closing.start()
            closing.join(CLOSE_S)

    def _close(self) -> None:
        try:
            self._outcome(self.plugin.hooks["zpipe_close"](self.context))
        except BaseException as error:
            self._log.error(fields(event="close.failed", reason=reason_of(error)))


def _failed(event: str, error: BaseException, **more: Any) -> LogEvent:
    """The log event of a hook that failed. It would fail with each call, so equal failures are logged once a minute."""
    reason = reason_of(error)
    return LogEvent(event, {"reason": reason, **more}, alike=reason.partition(":")[0], traceback=traceback_of(error))
