"""The hooks that a plugin may implement. They are the whole contract between zpipe and the code of a stage.

A plugin is a module or an object whose hooks are marked with ``@zpipe.hookimpl``, or a class of `plugin_classes`. It implements
either `zpipe_source`, or some of `zpipe_process`, `zpipe_process_each` and `zpipe_process_batch`. One that implements both kinds
is a source in a stage without `input`. All other hooks are optional. A hook may leave out arguments that it does not need. Hooks
never run on the thread of the daemon's loop.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

import pluggy

from zpipe.errors import OperatorError
from zpipe.messages import Message, Position, Release
from zpipe.plugin_metrics import Metrics

hookspec = pluggy.HookspecMarker("zpipe")
hookimpl = pluggy.HookimplMarker("zpipe")

# Type checkers take what a Context leaves out for Any. Python's own TypeVar has that default from 3.13 on only.
if TYPE_CHECKING:
    from typing_extensions import TypeVar

    OptionsT = TypeVar("OptionsT", default=Any)
    PositionT = TypeVar("PositionT", default=Any)
else:
    from typing import TypeVar

    OptionsT = TypeVar("OptionsT")
    PositionT = TypeVar("PositionT")


@dataclass
class Holds:
    """The messages that a plugin holds, for the daemon.

    new      in calls that are under way;  kept: by calls that are over, each with its task's number and its index there
    refusal  why no message may be held, if that is so
    """

    new: dict[int, Message] = field(default_factory=dict)
    kept: dict[int, tuple[Message, tuple[int, int]]] = field(default_factory=dict)
    refusal: str = ""


class Stopping(threading.Event):
    """`context.stopping`. A source waits for it between two messages, mostly for a moment. That takes 40 µs of CPU time by an
    event, and 15 by a sleep (measured)."""

    MOMENT_S = 0.01

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is None or timeout > self.MOMENT_S:
            return super().wait(timeout)
        if timeout > 0 and not self.is_set():
            time.sleep(timeout)
        return self.is_set()


@dataclass
class Context(Generic[OptionsT, PositionT]):
    """What a hook can know about where it runs. One life of an instance has one such object, which every call gets.

    It is generic in the type of the options, and in that of a source's position: ``Context[Options]`` says the first alone.

    instance    the number of this one, from 1;  instances: how many the config has, among which a source may divide what it reads
    options     an object of the type that `zpipe_options` returned, filled from the config; None without that hook
    config_dir  the folder of the config file, to which relative paths refer
    log         for messages to people, one event a line, on the stage's stderr. `zpipe run` shows warnings and errors, and with
                `--log-level info` also `log.info`
    state_dir   a folder that only this plugin uses, one for each instance. It outlives the instance; `--fresh` empties it
    position    (sources) the position after which to continue: the committed one, or where the source was when it said by
                `Throttled` that its service is not there; None: begin at the start
    last        no stage reads the outputs of this one (its dead letters aside), so what its process hook returns is ignored
    batching    the stage has a `batch` table, so `zpipe_process_batch` is called
    stopping    set when a source shall end early. A source that waits for something must wait for this, too
    leaving     this instance alone is to go, so what it does not finish comes to a sibling or to its next life
    scratch     free for the plugin, to keep what `zpipe_open` made
    metrics     counters, gauges and histograms of the plugin's own: ``context.metrics.counter("hits").inc()``
    holds       what `hold` and `release` keep; it is not for plugins
    """

    pipeline: str
    stage: str
    instance: int
    incarnation: str
    options: OptionsT
    config_dir: Path
    state_dir: Path
    log: logging.Logger
    position: PositionT | None = None
    instances: int = 1
    last: bool = False
    batching: bool = False
    stopping: threading.Event = field(default_factory=Stopping)
    leaving: bool = False
    scratch: Any = None
    metrics: Metrics = field(default_factory=Metrics, repr=False)
    holds: Holds = field(default_factory=Holds, repr=False)

    def hold(self, message: Message) -> None:
        """Keeps this message of the call under way: it is not acked before `release` says what it was made into.

        It stays in process meanwhile, so it takes room in the queue. If this instance dies, it is delivered again.
        """
        if self.holds.refusal:
            raise OperatorError(self.holds.refusal)
        if id(message) not in self.holds.kept:
            self.holds.new[id(message)] = message

    def release(self, output: Any, messages: Iterable[Message]) -> Release:
        """To be returned or yielded: an output that was made from held messages, which are acked once it is. A generator or
        `zpipe.many(...)` gives several outputs of the same messages, `zpipe.DROP` none."""
        return Release(output, list(messages))

    if not TYPE_CHECKING:

        def __class_getitem__(cls, types):
            return super().__class_getitem__(types if isinstance(types, tuple) else (types, Any))


@dataclass(frozen=True)
class Traits:
    """What zpipe has to know about a plugin besides its hooks.

    needs_network  it opens connections of its own, so its unit must not be cut off from the network
    writes         files or folders that it writes to. Relative paths refer to the folder of the config
    is_sink        nothing comes out of it, so a stage that reads from it would wait for ever
    services       what it connects to, as URLs or HOST:PORT: `zpipe doctor` looks whether somebody listens there
    divides        (sources) several instances divide what is read, by `context.instance` and `context.instances`
    """

    needs_network: bool = False
    writes: tuple[Path | str, ...] = ()
    is_sink: bool = False
    divides: bool = False
    services: tuple[str, ...] = ()


class Hooks:
    """The hook specifications, in the order of a stage's life."""

    @hookspec(firstresult=True)
    def zpipe_options(self) -> type | None:
        """Returns the type of the stage's options, a dataclass. Called when a config is checked, before anything is started."""

    @hookspec(firstresult=True)
    def zpipe_outlets(self, options: Any) -> Sequence[str] | None:
        """Returns the names of the outlets by which messages may leave, besides the default one. None, or no hook: those outlets
        that a stage reads.

        A message that names another outlet fails. Called when a config is checked, with the options that the stage is given.
        """

    @hookspec(firstresult=True)
    def zpipe_check(self, options: Any, config_dir: Path) -> Iterable[tuple[str, str]] | None:
        """Returns what is wrong with the options although their types are right, as (option, sentence). Called when a config is
        checked, and before a start, which fails if anything is wrong. It must not open, make or write anything."""

    @hookspec(firstresult=True)
    def zpipe_traits(self, options: Any, config_dir: Path) -> Traits | None:
        """Returns what `zpipe check` and `zpipe units` have to know about the plugin with these options: see `Traits`. Without
        this hook, a plugin needs no network, writes nothing outside of its state folder, and is no sink."""

    @hookspec
    def zpipe_open(self, context: Context) -> None:
        """Called once, before the first message, on the thread of the source or of a worker. If it raises, the stage does not
        start."""

    @hookspec
    def zpipe_close(self, context: Context) -> None:
        """Called once, after the last message, when the instance stops in order."""

    @hookspec(firstresult=True)
    def zpipe_source(self, context: Context) -> Iterator[Message | tuple[Position, Any]]:  # type: ignore[empty-body]
        """Yields ``(position, payload)``, or a Message with a position, for each message after `context.position`.

        It has a thread of its own, so it may block. A message must have the same position at every start, since its id is
        derived from it. The source should return soon after `context.stopping` is set.
        """

    @hookspec(firstresult=True)
    def zpipe_total(self, context: Context) -> int | None:
        """Returns how many messages `zpipe_source` will yield after `context.position`, or None if that is not known."""

    @hookspec
    def zpipe_commit(self, position: Position, context: Context) -> None:
        """Called when everything up to and including `position` is finished, that is, acked by every sink. The position is
        durable in the state directory already.

        It runs on the thread that writes positions and dead letters, so it holds these up while it blocks. Other threads may use
        what is in `context.scratch` at the same time.
        """

    @hookspec
    def zpipe_ack(self, ids: list[str], context: Context) -> None:
        """Called with ids of messages that are finished, in any order, for a source that acknowledges single messages to where
        they come from. If it raises, that is logged; the service then gives the messages again.

        It runs on a thread of its own, and may be ``async def``.
        """

    @hookspec(firstresult=True)
    def zpipe_process(self, message: Message, context: Context) -> Any:
        """Takes one message and returns a payload, a Message or `zpipe.DROP`. A generator (or any other iterator) or
        `zpipe.many(iterable)` gives many. Only the type of what is returned decides, never its content: a list or a tuple is one
        payload.

        It may be ``async def``, and it may block, since it runs on the thread of a worker. If it raises, the message is tried
        again, and becomes a dead letter in the end.
        """

    @hookspec(firstresult=True)
    def zpipe_process_each(self, messages: list[Message], context: Context) -> Any:
        """Takes the messages that a worker was handed together, in a stage without a `batch` table, in place of a call of
        `zpipe_process` for each. It returns a list of the same length: for each message what `zpipe_process` would return.

        How many there are is up to zpipe: about 5 ms of work, and one while little is to be done. They are no batch, so nothing
        waits for them to become more. It is for plugins that hand messages on to something which is quicker with many at once.
        If it raises, each of the messages is tried again, alone. It may be ``async def``.
        """

    @hookspec(firstresult=True)
    def zpipe_process_batch(self, messages: list[Message], context: Context) -> Any:
        """Takes a batch. If a list or a tuple of the same length is returned, each entry answers one message, as if returned from
        `zpipe_process`. With a generator (or any other iterator) or `zpipe.many(iterable)`, each output is derived from the whole
        batch. `zpipe.DROP` alone drops the whole batch. Anything else is an error; in a last stage it is ignored.

        It may be ``async def``.
        """

    @hookspec(firstresult=True)
    def zpipe_wrap(self, call: Callable[[list[Message]], Any], messages: list[Message], context: Context) -> Any:
        """(A plugin for the `use` of other stages) called in the place of each call of a process hook. ``call(messages)`` makes
        it, and gives what the hook returned, which may be anything that a process hook may return: an awaitable and a generator,
        too. What this returns counts.

        messages  one for `zpipe_process`, several for the others. They may be changed, and others given to `call`
        context   with the wrapper's own options

        It may be ``async def``.
        """

    @hookspec
    def zpipe_tick(self, context: Context) -> Any:
        """Called every `tick` of the stage's config, between other calls. It may return or yield what `context.release` gives, or
        a Message with an id of its own. If it raises, that is logged, and the next tick comes as usual.

        It may be ``async def``.
        """

    @hookspec
    def zpipe_flush(self, context: Context) -> Any:
        """Called when nothing more comes: at the end of the stream, or when this instance leaves (`context.leaving`). It may emit
        as `zpipe_tick` does. What is still held after it goes back when the instance leaves, and is waited for at the end of
        the stream.

        It may be ``async def``.
        """
