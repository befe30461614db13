"""What the plugin and the threads of an instance do in a simulation, in the way `zpipe.daemon` does it, and what is on disk.

A payload is [[[id, path], ...], padding]: a sink stores each [id, path], so tests see by which way every message came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zpipe.core.actions import Action
from zpipe.core.downstream.outgoing_link import OutgoingLink
from zpipe.core.policy import StagePolicy
from zpipe.core.upstream.incoming_link import IncomingLink
from zpipe.core.upstream.upstreams import SuspectedCalls
from zpipe.core.wire import section
from zpipe.core.work.task import Chunk, Failure, HeldKey, Releases, Result, Task

Plan = Callable[[str, int], list[str]]
"""What a stage makes of a message: (its id, attempt) to the ids of its outputs. Raises ValueError to fail."""

SECTION_MESSAGES = 16

Heard = Callable[[float, Callable[[], Iterable[Action]]], None]
"""After so many seconds the stage is told that a link has heard something, by a `LinkHeard` event."""


class SimulatedLinks(NamedTuple):
    """Of one instance. `perform`: what the shell of that name is asked for."""

    outgoing: Sequence[OutgoingLink] = ()
    incoming: Sequence[IncomingLink] = ()
    perform: Callable[[str, Any], None] = lambda shell, what: None


@dataclass
class Spec:
    """One stage of a simulated pipeline.

    seconds   of a worker a message, by the number of the instance
    messages  (heads) how many records the source has;  bad: those that cannot be read
    route     the outlet of an output, by its id;  size: bytes of padding, by the id
    merge     (batches) one output is made of the whole batch
    early     workers pass half of a task's outputs on before it is done
    poison    ids whose call ends the process
    record_s  (heads) seconds that the source takes for a record
    section   (heads) records are taken in when so many have come, as busy daemons do
    ahead_s   by how much the clocks of its machines are ahead of the others'
    window    messages are held, and one output is made of so many of them, or of all that are held at a tick or a flush
    make_links  by the instance's number and how its links hear: those of its links that do not run over ZeroMQ
    make_source, make_workers  in the place of those that are simulated, such as ones that call a real plugin
    """

    name: str
    inputs: tuple[tuple[str, str], ...] = ()
    instances: int = 1
    policy: StagePolicy = field(default_factory=StagePolicy)
    seconds: Callable[[int], float] = lambda instance: 0.001
    plan: Plan = lambda id, attempt: [id]
    messages: int = 0
    bad: Callable[[str], bool] = lambda id: False
    route: Callable[[str], str] = lambda id: ""
    size: Callable[[str], int] = lambda id: 0
    merge: bool = False
    early: bool = False
    poison: Callable[[str], bool] = lambda id: False
    record_s: float = 0.0
    section: int = 1
    ahead_s: float = 0.0
    window: int = 0
    make_links: Callable[[int, Heard], SimulatedLinks] | None = None
    make_source: Callable[..., Any] | None = None
    make_workers: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Disk:
    """What an instance finds when it starts again."""

    position: Any = 0
    completed: bool = False
    suspects: SuspectedCalls = field(default_factory=dict)


class Stored(NamedTuple):
    """A message that a sink has stored. `path`: the stages it came by, joined by ">"."""

    stage: str
    id: str
    path: str
    instance: int
    at: float


class Outputs:
    """Outputs of a stage by outlet, encoded in small sections."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._by_outlet: dict[str, section.Columns] = {}
        self._owners: dict[str, list[int]] = {}

    def add(self, id: str, origin: float, items: list[Any], owner: int = 0) -> None:
        columns = self._by_outlet.setdefault(self._spec.route(id), section.plain([], [], []))
        self._owners.setdefault(self._spec.route(id), []).append(owner)
        columns.ids.append(id)
        columns.origins.append(origin)
        columns.payloads.append([items, "." * self._spec.size(id)])

    def chunks(self, of_all: bool = False) -> list[Chunk]:
        """`of_all`: each output was made from every input."""
        made: list[Chunk] = []
        for outlet, columns in self._by_outlet.items():
            for start in range(0, len(columns.ids), SECTION_MESSAGES):
                part = columns.part(start, start + SECTION_MESSAGES)
                owners = None if of_all else self._owned(outlet, slice(start, start + SECTION_MESSAGES))
                made.append(Chunk(outlet, len(part.ids), section.encode(*part, self._spec.policy.link.codec), owners))
        return made

    def _owned(self, outlet: str, part: slice) -> Sequence[int]:
        owners = self._owners[outlet][part]
        run = range(owners[0], owners[0] + len(owners))
        return run if list(run) == owners else owners


class Held(NamedTuple):
    """A message in a window. `items` as in a payload."""

    key: HeldKey
    id: str
    origin: float
    items: list[Any]


class SimulatedTask:
    """One call of the plugin: what comes of a task. `stored`: the [id, path] that a sink keeps; `window`: what is held."""

    def __init__(self, task: Task, spec: Spec, sink: bool, window: list[Held]) -> None:
        self.task = task
        self.result = Result([])
        self.stored: list[Any] = []
        self._spec = spec
        self._sink = sink
        self._merged: list[Any] = []
        self._outputs = Outputs(spec)
        for index, (id, origin, payload) in enumerate(messages(task)):
            try:
                made = spec.plan(id, task.attempt)
            except ValueError as error:
                self.result.failures.append(Failure(index, str(error)))
                continue
            items = [[i, f"{path}>{spec.name}"] for i, path in payload[0]]
            if spec.window:
                window.append(Held((task.number, index), id, origin, items))
                self.result.held = [*self.result.held, index]
            else:
                self._take(index, id, origin, items, made)
        if spec.window:
            self._release(window)
        if task.batch and self.result.failures:  # a batch fails as a whole: which message was bad, nobody knows
            reason = self.result.failures[0].reason
            self.result = Result([], failures=[Failure(index, reason) for index in range(task.count)])
            self.stored = []
            return
        if self._merged:
            first, origin, _ = messages(task)[0]
            self._outputs.add(f"{first}~{task.count}.0", origin, self._merged)
        self.result.chunks = self._outputs.chunks(of_all=bool(self._merged))

    def _release(self, window: list[Held]) -> None:
        """Windows that are full; all that is held in a call for no message."""
        made = Outputs(self._spec)
        groups: list[list[HeldKey]] = []
        while window and (self.task.hook or len(window) >= self._spec.window):
            group = window[: self._spec.window]
            del window[: len(group)]
            items = [item for held in group for item in held.items]
            if self._sink:
                self.stored += items
            else:
                made.add(f"{group[0].id}~{len(group)}.0", group[0].origin, items, len(groups))
            groups.append([held.key for held in group])
        if groups:
            self.result.releases = Releases(groups, made.chunks(), set(), [])

    def _take(self, index: int, id: str, origin: float, items: list[Any], made: list[str]) -> None:
        if self._sink:
            self.stored += items
        elif not made:
            self.result.filtered += 1
        elif self._spec.merge:
            self._merged += items
        else:
            for one in made:
                self._outputs.add(one, origin, items if one == id else [[one, path] for _, path in items], index)


def messages(task: Task) -> list[tuple[str, float, Any]]:
    """(id, origin, payload) of each message of the task."""
    found: list[tuple[str, float, Any]] = []
    for piece in task.slices:
        columns = piece.columns()
        found += zip(columns.ids, columns.origins, columns.payloads, strict=True)
    return found


class SimulatedWorkers:
    """As many tasks at a time as the policy says. `later` lets time pass for the instance they belong to.

    A worker that has passed outputs on goes on when the gate is open.
    """

    def __init__(
        self,
        spec: Spec,
        instance: int,
        sink: bool,
        later: Callable[[float, Callable[[], None]], None],
        emitted: Callable[[Task, list[Chunk]], None],
        done: Callable[[SimulatedTask], None],
        died: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._seconds = spec.seconds(instance)
        self._sink = sink
        self._later = later
        self._emitted = emitted
        self._done = done
        self._died = died
        self._calls: dict[int, tuple[Task, int | None]] = {}
        self._idle = spec.policy.workers
        self._tasks: deque[Task] = deque()
        self._window: list[Held] = []
        self._at_gate: list[Callable[[], None]] = []
        self._open = False

    def put(self, task: Task) -> None:
        self._tasks.append(task)
        self._next()

    def set_gate(self, open: bool) -> None:
        self._open = open
        if open:
            waiting, self._at_gate = self._at_gate, []
            for go_on in waiting:
                self._later(0.0, go_on)

    def _next(self) -> None:
        while self._idle and self._tasks:
            self._idle -= 1
            task = self._tasks.popleft()
            self._calls[task.number] = (task, None if task.batch else 0)
            self._later(self._seconds * task.count / 2, lambda task=task: self._first_half(task))  # type: ignore[misc]

    def suspects(self) -> SuspectedCalls:
        """What the call journal says: of each task the message that the plugin is called for, or the whole batch."""
        found: SuspectedCalls = {}
        messages = [
            task.at(n) for task, at in self._calls.values() for n in (range(task.count) if at is None else [at])
        ]
        for piece in messages:
            producer, number = piece.delivery.producer, piece.section.first + piece.start
            assert producer is not None, "no letters are replayed here"
            _, rows = found.setdefault(producer[:3], (producer.sequence, []))
            rows.append([number, number + 1, int(len(messages) == 1)])
        return found

    def _first_half(self, task: Task) -> None:
        poisoned = next((n for n, (id, *_) in enumerate(messages(task)) if self._spec.poison(id)), None)
        if poisoned is not None:
            self._calls[task.number] = (task, None if task.batch else poisoned)
            self._died()
            return
        run = SimulatedTask(task, self._spec, self._sink, self._window)
        run.result.seconds = self._seconds * task.count
        chunks = run.result.chunks
        if self._spec.early and chunks:
            early = -(-len(chunks) // 2)
            run.result.chunks = chunks[early:]
            self._emitted(task, chunks[:early])
            self._later(0.0, lambda: self._wait(run))  # in the next turn: this one has to set the gate
        else:
            self._second_half(run)

    def _wait(self, run: SimulatedTask) -> None:
        if self._open:
            self._second_half(run)
        else:
            self._at_gate.append(lambda: self._second_half(run))

    def _second_half(self, run: SimulatedTask) -> None:
        self._later(self._seconds * run.task.count / 2, lambda: self._end(run))

    def _end(self, run: SimulatedTask) -> None:
        self._idle += 1
        del self._calls[run.task.number]
        self._done(run)
        self._next()
