"""Workers that call a real plugin, in this thread, on the virtual clock. Must not live here: what a pipeline does around them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from zpipe.core.policy import StagePolicy
from zpipe.core.upstream.upstreams import SuspectedCalls
from zpipe.core.work.task import Chunk, Result, Task, Verdict
from zpipe.daemon.plugin.runner import Runner
from zpipe.daemon.plugin.task_run import StageLinks
from zpipe.daemon.workers.event_loop import run_on
from zpipe.errors import OperatorError
from zpipe.hookspecs import Context
from zpipe.messages import Message
from zpipe.plugin_loading import Plugin

CALL_S = 0.0001
"""How long a call takes for one message, by the virtual clock."""
PROCESS_HOOKS = ("zpipe_process", "zpipe_process_each", "zpipe_process_batch")


class _NoJournal:
    """What is called for needs no note here: `suspects` knows it."""

    def __init__(self) -> None:
        self.note = memoryview(bytearray(4)).cast("I")

    def begin(self, task: Task, named: slice) -> None:
        pass


class Life:
    """One life of a stage's plugin: it is opened, called, and closed unless it is killed.

    calls  how often the plugin was called for a message, by its id, in all lives;  received: the messages of those calls
    """

    def __init__(
        self,
        plugin: Plugin,
        context: Context,
        calls: Counter[str],
        received: list[Message],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.plugin = plugin
        self.context = context
        self._loop = loop
        self.hooks = dict(plugin.hooks)
        self._calls = calls
        self._received = received
        for name in PROCESS_HOOKS:
            if name in self.hooks:
                self.hooks[name] = self._counted(self.hooks[name])
        self.call("zpipe_open", context)

    def _counted(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def counted(given: Any, context: Context) -> Any:
            messages = given if isinstance(given, list) else [given]
            self._calls.update(message.id for message in messages)
            self._received.extend(messages)
            return hook(given, context)

        return counted

    def call(self, name: str, *arguments: Any) -> Any:
        """A hook that is called once, if the plugin has it."""
        if name not in self.hooks:
            return None
        made = self.hooks[name](*arguments)
        return run_on(self._loop, made) if asyncio.iscoroutine(made) else made

    def wait_for(self, step: Any) -> Any:
        return run_on(self._loop, step)

    def close(self) -> None:
        self.call("zpipe_close", self.context)


class PluginTask:
    """What came of a task. `stored` is what a sink of the simulation would keep."""

    def __init__(self, task: Task, result: Result) -> None:
        self.task = task
        self.result = result
        self.stored: list[Any] = []


class PluginWorkers:
    """As many tasks at a time as the policy says, of which each is called for at once, and over a little later."""

    def __init__(
        self,
        life: Life,
        policy: StagePolicy,
        links: StageLinks,
        later: Callable[[float, Callable[[], None]], None],
        emitted: Callable[[Task, list[Chunk]], None],
        done: Callable[[Any], None],
    ) -> None:
        self._life = life
        self._runner = Runner(life.hooks, life.context, policy.link, links)
        self._later = later
        self._emitted = emitted
        self._done = done
        self._idle = policy.workers
        self._waiting: deque[Task] = deque()
        self._under_way: dict[int, Task] = {}

    def put(self, task: Task) -> None:
        self._waiting.append(task)
        self._next()

    def set_gate(self, open: bool) -> None:
        """A call is over at once, so that it never waits for room in the outputs."""

    def suspects(self) -> SuspectedCalls:
        """What the call journal would say if the process were killed now."""
        found: SuspectedCalls = {}
        for task in self._under_way.values():
            for piece in task.slices:
                if (producer := piece.delivery.producer) is not None:
                    _, rows = found.setdefault(producer[:3], (producer.sequence, []))
                    first = piece.section.first + piece.start
                    rows.append([first, first + piece.count, int(task.count == 1)])
        return found

    def _next(self) -> None:
        while self._idle and self._waiting:
            self._idle -= 1
            task = self._waiting.popleft()
            self._under_way[task.number] = task
            self._later(0.0, lambda task=task: self._call(task))  # type: ignore[misc]

    def _call(self, task: Task) -> None:
        work = self._runner.begin(task, _NoJournal())
        step = work.advance()
        while not isinstance(step, Result):
            if isinstance(step, list):
                self._emitted(task, step)
                step = work.advance()
                continue
            try:
                answer = self._life.wait_for(step)
            except BaseException as error:  # whatever a plugin raises is its message's failure
                step = work.advance(error=error)
            else:
                step = work.advance(answer)
        for failure in step.failures:
            if failure.verdict is Verdict.FAIL:
                raise OperatorError(failure.reason)
        result = replace(step, seconds=CALL_S * task.count)
        self._later(result.seconds, lambda: self._end(task, result))

    def _end(self, task: Task, result: Result) -> None:
        self._idle += 1
        del self._under_way[task.number]
        self._done(PluginTask(task, result))
        self._next()


class Collector:
    """The workers of a stage that only keeps what it is given."""

    def __init__(
        self,
        kept: list[Message],
        later: Callable[[float, Callable[[], None]], None],
        done: Callable[[Any], None],
    ) -> None:
        self._kept = kept
        self._later = later
        self._done = done

    def put(self, task: Task) -> None:
        self._later(CALL_S, lambda: self._keep(task))

    def _keep(self, task: Task) -> None:
        self._kept += messages_of(task)
        self._done(PluginTask(task, Result([], seconds=CALL_S)))

    def set_gate(self, open: bool) -> None:
        """It has no outputs."""

    def suspects(self) -> SuspectedCalls:
        return {}


def messages_of(task: Task) -> list[Message]:
    """The task's messages, each with the outlet by which it came."""
    found: list[Message] = []
    for piece in task.slices:
        source = piece.delivery.source
        attempt = piece.section.attempt + task.attempt - 1
        found += piece.columns().messages(source.partition(".")[2], attempt, source)
    return found
