"""The main program of a worker process: opens the plugin, runs the tasks it is given one at a time, closes the plugin.

It is started by `WorkerProcess`, with descriptors of the pipe, the call note, a file for tracebacks, and a pipe that tells
whether the daemon lives. What this module imports is what every start of a worker costs, so it must not grow.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zpipe import plugin_loading
from zpipe.config.loading import read_options
from zpipe.core.policy import LinkPolicy
from zpipe.core.work.task import Result, Task
from zpipe.daemon.plugin.runner import Runner
from zpipe.daemon.plugin.task_run import StageLinks
from zpipe.daemon.plugin.wrapping import wrapped
from zpipe.daemon.service.process_memory import tune_garbage_collector
from zpipe.daemon.storage.call_journal import NONE
from zpipe.daemon.workers import task_exchange
from zpipe.daemon.workers.task_exchange import CallNote, Pipe
from zpipe.errors import OperatorError, PluginError
from zpipe.hookspecs import Context, Holds
from zpipe.runtime import logs
from zpipe.runtime.exception_text import reason_of
from zpipe.runtime.logs import fields
from zpipe.runtime.signals import default_in_forks

if TYPE_CHECKING:
    import asyncio


class WorkerMain:
    def __init__(self, pipe: Pipe, note: CallNote, start: dict[str, Any]) -> None:
        self._pipe = pipe
        self._note = note
        known = start["context"]
        self._log = logs.start(f"{known['stage']}.{known['instance']}", start["level"], os.environ)
        self._start = start
        self._pid = os.getpid()
        self._tasks = task_exchange.TaskReader()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hooks: Any = {}

    def run(self) -> None:
        """Works until the daemon has it end."""
        try:
            self._open()
        except BaseException as error:  # also sys.exit(): whoever waits must hear of it
            known = isinstance(error, OperatorError | PluginError)
            reason = str(error) if known else reason_of(error)
            if not known:
                self._log.error(fields(event="open.failed", reason=reason), exc_info=error)
            self._send([task_exchange.FAILED, reason])
            return
        tune_garbage_collector()
        self._send([task_exchange.READY, self._context.metrics.changes()])
        while True:
            value, bodies = self._pipe.receive()
            if value[0] == task_exchange.CLOSE:
                break
            task = self._tasks.task(value, bodies)
            result = self._work(task)
            self._send(*task_exchange.result_frame(task, result, self._context.metrics.changes()))
        self._close()

    def _send(self, value: list[Any], bodies: Sequence[bytes] = ()) -> None:
        """Ends a process that the plugin has forked and that returned from the hook: it must not answer in place of this one."""
        if os.getpid() != self._pid:
            os._exit(1)
        self._pipe.send(value, bodies)

    def _open(self) -> None:
        start = self._start
        path = Path(start["config"])
        plugin = plugin_loading.load(start["plugin"], path.parent)
        options, uses = read_options(start["text"], path, os.environ, start["context"]["stage"], plugin)
        self._context = Context(
            **start["context"],
            options=options,
            config_dir=path.parent,
            state_dir=Path(start["state_dir"]),
            log=self._log.getChild("plugin"),
            holds=Holds(refusal=start["hold_refusal"]),
        )
        self._hooks = wrapped(plugin, uses, self._context).hooks
        self._runner = Runner(self._hooks, self._context, LinkPolicy(**start["link"]), StageLinks(**start["links"]))
        if "zpipe_open" in self._hooks:
            self._outcome(self._hooks["zpipe_open"](self._context))

    def _work(self, task: Task) -> Result:
        self._note.note[0] = NONE
        work = self._runner.begin(task, self._note)
        step = work.advance()
        while not isinstance(step, Result):
            if isinstance(step, list):
                self._send(*task_exchange.early_frame(task, step))
                self._pipe.receive()
                step = work.advance()
                continue
            try:
                answer = self._wait_for(step)
            except BaseException as error:  # whatever a plugin raises is its message's failure
                step = work.advance(error=error)
            else:
                step = work.advance(answer)
        return step

    def _outcome(self, made: Any) -> Any:
        return self._wait_for(made) if isinstance(made, Awaitable) else made

    def _wait_for(self, step: Any) -> Any:
        """One call at a time, on an event loop that stays: what the plugin made on it in one call can be used in the next."""
        import asyncio  # only async plugins need it

        from zpipe.daemon.workers.event_loop import run_on

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        return run_on(self._loop, step)

    def _close(self) -> None:
        if "zpipe_close" in self._hooks:
            try:
                self._outcome(self._hooks["zpipe_close"](self._context))
            except BaseException as error:
                self._log.error(fields(event="close.failed", reason=reason_of(error)))
        if self._loop is not None:
            self._loop.close()


def _end_with_daemon(fd: int) -> None:
    """Has the kernel kill this process when the daemon's end of the pipe `fd` is gone, whatever it is doing. Also in a call into
    C that never comes back, where no thread of Python would notice."""
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_RDONLY | os.O_ASYNC | os.O_NONBLOCK)
    try:
        if not os.read(fd, 1):
            os._exit(1)  # it was gone before
    except BlockingIOError:
        return


def main() -> None:
    """`sys.argv`: a name for people, then descriptors of the pipe, the call note, the traceback file, and the daemon's pipe."""
    end, note, traceback, alive = given = tuple(map(int, sys.argv[2:]))
    for fd in given:
        os.set_inheritable(fd, False)  # what a plugin starts must not keep them open
    _end_with_daemon(alive)
    faulthandler.enable(traceback)
    faulthandler.register(task_exchange.DUMP, traceback)
    for number in task_exchange.NOT_FOR_WORKERS:
        # Neither ignored nor left blocked: the plugin's own processes would inherit both.
        signal.signal(number, lambda *_: None)
    default_in_forks(task_exchange.NOT_FOR_WORKERS)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, task_exchange.NOT_FOR_WORKERS)
    pipe = Pipe(socket.socket(fileno=end))
    try:
        value, _ = pipe.receive()
        calls = CallNote(note)
        # A process that the plugin forks shares the note. Once it is released there, the runner raises in that process, and calls
        # no hook for the next message.
        os.register_at_fork(after_in_child=calls.note.release)
        WorkerMain(pipe, calls, value[1]).run()
    except (EOFError, OSError):
        return  # the daemon is gone
    finally:
        with suppress(OSError, ValueError):  # a plugin may have closed it
            sys.stdout.flush()
