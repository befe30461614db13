"""The hooks a plugin may implement: the whole contract between zpipe and a stage's code.

A plugin is a module or an object whose hooks carry ``@zpipe.hookimpl``. It implements exactly one of
`zpipe_source`, or `zpipe_process` and/or `zpipe_process_batch`; everything else is optional. A hook may leave out
trailing arguments it does not need. Hooks never run on the daemon's loop thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy

from zpipe.messages import Message, Position

hookspec = pluggy.HookspecMarker("zpipe")
hookimpl = pluggy.HookimplMarker("zpipe")


@dataclass
class Context:
    """What a hook may know of where it runs. The same object for every call of one life of an instance.

    options     an instance of what `zpipe_options` returned, filled from the config; None without that hook
    config_dir  the folder of the config file: what relative paths are relative to
    log         for people: one event a line, on the stage's stderr. `zpipe run` shows warnings and errors, and with
                `--log-level info` also `log.info`
    state_dir   a folder of the plugin's own, one for each instance, that outlives it; `--fresh` empties it
    position    (sources) the committed position to resume after; None: from the start
    last        no stage reads what this one makes (its dead letters aside), so what its process hook returns is ignored
    batching    the stage has a `batch` table, so `zpipe_process_batch` is called
    stopping    set when a source is to end early; a source that waits must wait on it
    scratch     the plugin's own place for what `zpipe_open` made
    """

    pipeline: str
    stage: str
    instance: int
    incarnation: str
    options: Any
    config_dir: Path
    state_dir: Path
    log: logging.Logger
    position: Position = None
    last: bool = False
    batching: bool = False
    stopping: threading.Event = field(default_factory=threading.Event)
    scratch: Any = None


@dataclass(frozen=True)
class Traits:
    """What zpipe has to know of a plugin besides its hooks.

    needs_network  it opens connections of its own, so its unit must not be cut off from the network
    writes         files or folders that it writes, relative ones to the folder of the config
    is_sink        nothing comes out of it, so a stage that reads it would wait for ever
    """

    needs_network: bool = False
    writes: tuple[Path | str, ...] = ()
    is_sink: bool = False


class Hooks:
    """The hook specifications, in the order of a stage's life."""

    @hookspec(firstresult=True)
    def zpipe_options(self) -> type | None:
        """The type of the stage's options: a dataclass. Called when a config is checked, before anything is started."""

    @hookspec(firstresult=True)
    def zpipe_outlets(self, options: Any) -> Sequence[str] | None:
        """Names of the outlets that messages may leave by besides the default one; None (or no hook): those that a stage reads.

        A message that names any other fails. Called when a config is checked, with the options that the stage is given.
        """

    @hookspec(firstresult=True)
    def zpipe_check(self, options: Any, config_dir: Path) -> Iterable[tuple[str, str]] | None:
        """What is wrong with the options that their types cannot say, as (option, a sentence). Called when a config is checked
        and before a start, which then does not begin; nothing may be opened, made or written."""

    @hookspec(firstresult=True)
    def zpipe_traits(self, options: Any, config_dir: Path) -> Traits | None:
        """What `zpipe check` and `zpipe units` have to know of the plugin with these options: see `Traits`. Without this hook it
        needs no network, writes nothing outside of its state folder, and is no sink."""

    @hookspec
    def zpipe_open(self, context: Context) -> None:
        """Once, before the first message, on the source's or a worker's thread. Raising fails the start of the stage."""

    @hookspec
    def zpipe_close(self, context: Context) -> None:
        """Once, after the last message, when the instance stops in order."""

    @hookspec(firstresult=True)
    def zpipe_source(self, context: Context) -> Iterator[Message | tuple[Position, Any]]:  # type: ignore[empty-body]
        """Yields ``(position, payload)``, or a Message with a position, from after `context.position` to the end.

        May block: it runs on a thread of its own. Positions must be the same at every start for the same message: ids are
        derived from them. When `context.stopping` is set the source should return soon.
        """

    @hookspec(firstresult=True)
    def zpipe_total(self, context: Context) -> int | None:
        """How many messages `zpipe_source` will yield from `context.position` on, or None if nobody knows."""

    @hookspec
    def zpipe_commit(self, position: Position, context: Context) -> None:
        """Everything up to and including `position` is finished: acked by every sink. Already durable in the state directory.

        On a thread that also writes positions and dead letters: what blocks here holds those up. `context.scratch` has what
        `zpipe_open` made, which other threads use at the same time.
        """

    @hookspec(firstresult=True)
    def zpipe_process(self, message: Message, context: Context) -> Any:
        """One message in; a payload, a Message, or `zpipe.DROP` out; many out of a generator (or any other iterator), or
        `zpipe.many(iterable)`. The type of what is returned decides, never its content: a list or a tuple is one payload.

        May be ``async def``. May block (a worker's thread). An exception has the message tried again, then makes it a dead
        letter.
        """

    @hookspec(firstresult=True)
    def zpipe_process_batch(self, messages: list[Message], context: Context) -> Any:
        """A batch in. A list or a tuple of the same length is one to one, its entries are as from `zpipe_process`. A generator
        (or any other iterator), or `zpipe.many(iterable)`, is many to many: each output is derived from the whole batch.
        `zpipe.DROP` alone is for all of them. Anything else is an error, but for a last stage, where it is ignored.

        May be ``async def``.
        """
