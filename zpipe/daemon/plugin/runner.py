"""Running a plugin's hooks on a task: messages in, outputs and failures out.

Calling process hooks belongs here, and telling the kinds of their answers apart. Must not live here: a thread, a socket, an event
loop. If a task has to wait for something, that is a step of its `Work`, and whoever runs the work waits for it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Protocol

from zpipe.core.policy import LinkPolicy
from zpipe.core.wire import section
from zpipe.core.wire.section import Columns
from zpipe.core.work.task import Chunk, Failure, Result, Task
from zpipe.daemon.plugin.failures import failure_of
from zpipe.daemon.plugin.task_run import (
    PLAIN,
    Group,
    NoOutput,
    StageLinks,
    TaskRun,
    WrongAnswers,
    WrongBatch,
    messages_of,
    outputs_inside,
)
from zpipe.daemon.service.process_memory import LARGE_MESSAGE_BYTES
from zpipe.daemon.storage.call_journal import ALL, NONE, Note
from zpipe.errors import Answer, PeerError
from zpipe.hookspecs import Context
from zpipe.messages import DROP, Message
from zpipe.plugin_classes import Worker
from zpipe.runtime.exception_text import reason_of, traceback_of

_NOTHING = PLAIN | {type(None)}
_FAILED = object()
_FIRST = slice(0, 1)

Step = Any
"""What a task needs next. A list of chunks is to be passed on early. An awaitable, or an async iterator, is to be waited for. A
Result is the end."""
_Steps = Generator[Any, Any, None]
_TaskSteps = Generator[Any, Any, Result]


class Calls(Protocol):
    """Where a worker writes down which message it calls the plugin for, in case that ends the process (`call_journal`).

    note  `note[0]` is the number of that message in its task, from 1 on
    """

    @property
    def note(self) -> Note: ...

    def begin(self, task: Task, named: slice) -> None:
        """Messages of these slices are called for next. The note is NONE."""


class Work:
    """One task under way, a step at a time. `begin` makes its first calls: it returns the result, or the steps that are left."""

    __slots__ = ("_begin", "_calls", "_steps", "task")

    def __init__(self, task: Task, calls: Calls, begin: Callable[[Task, Calls], Result | _TaskSteps]) -> None:
        self.task = task
        self._calls = calls
        self._begin = begin
        self._steps: _TaskSteps | None = None

    def advance(self, answer: Any = None, error: BaseException | None = None) -> Step:
        """The next step, given what came of the one before. Blocks as long as the plugin does; raises nothing."""
        try:
            if self._steps is None:
                begun = self._begin(self.task, self._calls)
                if isinstance(begun, Result):
                    return begun
                self._steps = begun
            return self._steps.send(answer) if error is None else self._steps.throw(error)
        except StopIteration as end:
            return end.value
        except BaseException as wrong:  # a plugin's generator may raise even GeneratorExit
            reason, text = reason_of(wrong), traceback_of(wrong)
            return Result([], failures=[Failure(index, reason, text) for index in range(self.task.count)])


class Runner:
    """One stage's process hooks, ready to run tasks."""

    def __init__(
        self,
        hooks: Mapping[str, Callable[..., Any]],
        context: Context,
        policy: LinkPolicy,
        links: StageLinks,
    ) -> None:
        self._process = hooks.get("zpipe_process")
        self._worker = _plugin_of(self._process)
        self._process_each = hooks.get("zpipe_process_each")
        self._process_batch = hooks.get("zpipe_process_batch")
        self._batch_worker = _plugin_of(self._process_batch)
        self._hooks = hooks
        self._context = context
        self._policy = policy
        self._links = links

    def begin(self, task: Task, calls: Calls) -> Work:
        """Nothing is called before the first `advance`."""
        return Work(task, calls, self._run)

    def _run(self, task: Task, calls: Calls) -> Result | _TaskSteps:
        began = time.perf_counter()
        if task.hook:
            return self._call_hook(self._begin(task), task.hook, began)
        alone = task.count == 1 and not task.batch and self._process_each is None
        if alone and task.slices[0].size < LARGE_MESSAGE_BYTES:
            return self._one(task, calls, began)
        return self._timed(self._groups(self._begin(task), calls), began)

    def _timed(self, steps: _TaskSteps, began: float) -> _TaskSteps:
        result = yield from steps
        result.seconds = time.perf_counter() - began
        return result

    def _begin(self, task: Task) -> TaskRun:
        return TaskRun(task, self._context.last, self._policy, self._links, self._context.holds)

    def _one(self, task: Task, calls: Calls, began: float) -> Result | _TaskSteps:
        """Runs a task of one message. The usual answer, a plain payload, needs no `TaskRun`, and takes half as long without. With
        any other answer the message is treated as a run of one."""
        piece, note, function = task.slices[0], calls.note, self._payload_function
        try:
            columns = piece.columns()
        except PeerError:  # `_groups` makes a failure of it
            return self._timed(self._groups(self._begin(task), calls), began)
        message = messages_of(task, piece, columns, self._links)[0] if function is None else None
        made, failure = None, None
        calls.begin(task, _FIRST)
        called = time.perf_counter()
        note[0] = 1
        try:
            made = function(columns.payloads[0]) if function is not None else self._process(message, self._context)  # type: ignore[misc]
        except BaseException as error:  # sys.exit() in a plugin must not end the worker
            failure = error
        calls_s = time.perf_counter() - called
        if failure is None and self._is_plain((made,)) and (chunks := self._chunks(columns, made)) is not None:
            note[0] = NONE
            piece.forget_columns()
            age = max(0.0, time.time() - columns.origins[0])
            return Result(chunks, seconds=time.perf_counter() - began, ages=[age], calls_s=calls_s)
        return self._timed(self._look_at_one(task, message, made, failure, called, note), began)

    def _look_at_one(
        self, task: Task, message: Message | None, made: Any, failure: BaseException | None, called: float, note: Note
    ) -> _TaskSteps:
        """Takes the answer for a single message where that is not a plain payload."""
        calls_s = time.perf_counter() - called
        run = self._begin(task)
        group = next(run.groups())
        run.decode(group)
        messages = run.messages(group, message)
        if failure is not None:
            run.fail(0, failure)
        else:
            yield from self._take_each(run, group, messages, [made], note)
            calls_s = time.perf_counter() - called  # a generator runs in `_take_each`
        result = run.result()
        result.calls_s = calls_s
        note[0] = NONE
        task.slices[0].forget_columns()
        return result

    def _chunks(self, columns: Columns, made: Any) -> list[Chunk] | None:
        """The output for a single message, from a plain payload. None: it cannot be sent, or is too large for a parcel."""
        if self._context.last:
            return []
        try:
            body = section.encode(columns.ids, columns.origins, [made], columns.headers, self._policy.codec)
        except ValueError:
            return None
        return [Chunk("", 1, body, range(1))] if len(body) <= self._policy.parcel_bytes else None

    def _groups(self, run: TaskRun, calls: Calls) -> Generator[Any, Any, Result]:
        task, note, calls_s, function = run.task, calls.note, 0.0, self._payload_function
        for group in run.groups():
            decoded = run.decode(group)
            calls.begin(task, slice(group.first, group.stop))
            called = time.perf_counter()
            if decoded and task.batch:
                note[0] = ALL
                yield from self._batch(run, group)
            elif decoded and self._process_each is not None:
                note[0] = ALL
                yield from self._each_at_once(run, group, run.messages(group), note)
            elif decoded and function is not None:
                yield from self._each_payload(run, group, function, note)
            elif decoded:
                yield from self._each(run, group, run.messages(group), note)
            calls_s += time.perf_counter() - called
            note[0] = NONE
            run.end(group)
        result = run.result()
        result.calls_s = calls_s
        return result

    @property
    def _payload_function(self) -> Callable[[Any], Any] | None:
        """The plugin's `payload_function`, to be called in place of `process`; None if it has none."""
        return self._worker.payload_function if self._worker is not None else None

    @property
    def _batch_function(self) -> Callable[[list[Any], list[str]], Any] | None:
        """The plugin's `batch_function`, to be called in place of `process_batch`; None if it has none."""
        return self._batch_worker.batch_function if self._batch_worker is not None else None

    def _call_hook(self, run: TaskRun, hook: str, began: float) -> Generator[Any, Any, Result]:
        """A tick or a flush. What it released before it failed stays released."""
        failures = []
        self._context.leaving = run.task.leaving
        try:
            made = self._hooks[f"zpipe_{hook}"](self._context)
            if isinstance(made, Awaitable | AsyncIterator):
                made = yield made
            run.take_hook(made)
        except BaseException as error:  # sys.exit() in a plugin must not end the worker
            failures = [failure_of(0, error)]
        result = run.result()
        result.failures = failures
        result.seconds = result.calls_s = time.perf_counter() - began
        return result

    def _each(self, run: TaskRun, group: Group, messages: list[Message], note: Note) -> _Steps:
        """Makes all calls first, then looks at the answers together: if all are plain payloads, none is looked at by itself."""
        process, context = self._process, self._context
        made: list[Any] = []
        keep = made.append
        for number, message in enumerate(messages, group.indexes.start + 1):
            note[0] = number
            try:
                keep(process(message, context))  # type: ignore[misc]
            except BaseException as error:  # sys.exit() in a plugin must not end the worker
                run.fail(number - 1, error)
                keep(_FAILED)
        yield from self._take(run, group, messages, made, note)

    def _each_payload(self, run: TaskRun, group: Group, function: Callable[[Any], Any], note: Note) -> _Steps:
        """As `_each`, with payloads. Messages are made only if answers must be looked at: that takes as long as all else here."""
        made: list[Any] = []
        keep = made.append
        for number, payload in enumerate(run.payloads(), group.indexes.start + 1):
            note[0] = number
            try:
                keep(function(payload))
            except BaseException as error:  # sys.exit() in a plugin must not end the worker
                run.fail(number - 1, error)
                keep(_FAILED)
        if not self._take_plain(run, group, made):
            yield from self._take_each(run, group, run.messages(group), made, note)

    def _each_at_once(self, run: TaskRun, group: Group, messages: list[Message], note: Note) -> _Steps:
        assert self._process_each is not None
        try:
            made = self._process_each(messages, self._context)
            if isinstance(made, Awaitable):
                made = yield made
            if not isinstance(made, list) or len(made) != len(messages):
                raise WrongAnswers(made, len(messages))
        except BaseException as error:  # sys.exit() in a plugin must not end the worker
            run.fail_group(group, error)
        else:
            yield from self._take(run, group, messages, made, note)

    def _take(self, run: TaskRun, group: Group, messages: list[Message], made: list[Any], note: Note) -> _Steps:
        if not self._take_plain(run, group, made):
            yield from self._take_each(run, group, messages, made, note)

    def _take_plain(self, run: TaskRun, group: Group, made: Sequence[Any]) -> bool:
        """Takes the answers if all are plain payloads. False if one is not."""
        plain = self._is_plain(made)
        if plain and not self._context.last:
            run.take_plain(group, made)
        return plain

    def _is_plain(self, made: Sequence[Any]) -> bool:
        return not self._context.holds.new and set(map(type, made)) <= (_NOTHING if self._context.last else PLAIN)

    def _take_each(self, run: TaskRun, group: Group, messages: list[Message], made: list[Any], note: Note) -> _Steps:
        for index, message, one in zip(group.indexes, messages, made, strict=True):
            if one is _FAILED:
                continue
            note[0] = index + 1  # a generator runs only now
            try:
                if isinstance(one, Awaitable | AsyncIterator):
                    one = yield one
                yield from run.take(index, message, one)
            except BaseException as error:  # sys.exit() in a plugin must not end the worker
                run.fail(index, error)

    def _batch(self, run: TaskRun, group: Group) -> _Steps:
        """Where the plugin takes payloads, messages are made only if what came back is to be looked at."""
        assert self._process_batch is not None
        function, context = self._batch_function, self._context
        messages = run.messages(group) if function is None else []
        try:
            made = self._process_batch(messages, context) if function is None else function(run.payloads(), run.ids())
            if isinstance(made, Awaitable | AsyncIterator):
                made = yield made
            if isinstance(made, Answer):
                raise made
            is_each = isinstance(made, list | tuple) and len(made) == len(group.indexes)
            if (is_each and self._take_plain(run, group, made)) or (made is None and context.last):
                return
            messages = messages or run.messages(group)
            if made is DROP:
                run.drop_all()
            elif isinstance(made, Iterator):
                yield from run.take_many(messages, made)
            elif is_each:
                yield from run.take_each(messages, made)
            elif made is None and len(context.holds.new) >= len(messages):
                pass  # all are held
            # A list with answers in it may not be ignored by a last stage: that would ack what was meant to be rejected.
            elif not context.last or outputs_inside(made):
                raise NoOutput if made is None else WrongBatch(made, len(messages))
        except BaseException as error:  # sys.exit() in a plugin must not end the worker
            run.fail_group(group, error)


def _plugin_of(hook: Callable[..., Any] | None) -> Worker | None:
    """The plugin whose method the hook is. A hook with a `use` plugin around it is no method of the plugin's, so that is never
    passed by."""
    plugin = getattr(hook, "__self__", None)
    return plugin if isinstance(plugin, Worker) else None
