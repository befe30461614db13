"""Plugins as classes: a base class for each kind, whose methods are the hooks, so that editors and type checkers know them.

A plugin derives from `Source`, `Map`, `BatchMap` or `Sink`. One of the latter three may derive from `Source` too, and is a source
in a stage without an input, and from `Wrapper`, to be for the `use` of other stages as well. The method `process` is the hook
`zpipe_process`, and so for every other. Must not live here: calling a hook, and choosing the class of a module, which is
`plugin_loading`'s.

Type checkers compare a method with that of its base class, so they find wrong arguments and wrong types by themselves. A method
whose name is misspelt is a new one to them, unless it is marked with `zpipe.override`. `problems` finds it in any case, since
a public method must not have nearly the name of a hook.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_origin

from zpipe.errors import Answer
from zpipe.hookspecs import Context, OptionsT, PositionT, Traits
from zpipe.messages import Message

NEAR = 0.8
"""How like a hook's name another name may be. "closed" and "proces" are too near, "parse" and "sources_of" are not."""


class PluginClass(ABC, Generic[OptionsT]):
    """What all kinds of plugins have. One object is made of the class for each instance of a stage, without arguments."""

    def outlets(self, options: OptionsT) -> Sequence[str] | None:
        """The names of the outlets by which messages may leave, besides the default one; None: those that a stage reads."""
        return None

    def check(self, options: OptionsT, config_dir: Path) -> Iterable[tuple[str, str]] | None:
        """What is wrong with the options although their types are right, as (option, sentence). It must make nothing."""
        return None

    def traits(self, options: OptionsT, config_dir: Path) -> Traits | None:
        """What `zpipe check` and `zpipe units` have to know about the plugin with these options."""
        return None

    def open(self, context: Context[OptionsT]) -> Awaitable[None] | None:
        """Called once, before the first message. If it raises, the stage does not start."""
        return None

    def close(self, context: Context[OptionsT]) -> Awaitable[None] | None:
        """Called once, after the last message, when the instance stops in order."""
        return None


class Source(PluginClass[OptionsT], Generic[OptionsT, PositionT]):
    """Reads from somewhere, and gives messages with positions."""

    @abstractmethod
    def source(
        self, context: Context[OptionsT, PositionT]
    ) -> Iterator[Message | tuple[PositionT, Any]] | AsyncIterator[Message | tuple[PositionT, Any]]:
        """Yields ``(position, payload)``, or a Message with a position, for each message after `context.position`."""

    def total(self, context: Context[OptionsT, PositionT]) -> int | None:
        """How many messages `source` will yield after `context.position`, or None if that is not known."""
        return None

    def ack(self, ids: list[str], context: Context[OptionsT, PositionT]) -> Awaitable[None] | None:
        """Called with ids of messages that are finished, in any order."""
        return None

    def commit(self, position: PositionT, context: Context[OptionsT, PositionT]) -> Awaitable[None] | None:
        """Called when everything up to and including `position` is finished, that is, acked by every sink."""
        return None


class Worker(PluginClass[OptionsT]):
    """What all kinds have that take messages.

    payload_function  set by `open` where `process` would do no more than call this with a message's payload, and return what it
                      returns: it is then called in place of `process`
    batch_function    set by `open` where `process_batch` needs nothing of the messages but their payloads and ids: it is then
                      called with these, `batch_function(payloads, ids)`, in place of `process_batch`, and what it returns
                      means the same
    """

    payload_function: Callable[[Any], Any] | None = None
    batch_function: Callable[[list[Any], list[str]], Any] | None = None

    def tick(self, context: Context[OptionsT]) -> Any:
        """Called every `tick` of the stage's config. It may return or yield what `context.release` gives."""
        return None

    def flush(self, context: Context[OptionsT]) -> Any:
        """Called when nothing more comes: at the end of the stream, or when this instance leaves. It may emit as `tick` does."""
        return None


class Map(Worker[OptionsT]):
    """Makes something of each message."""

    @abstractmethod
    def process(self, message: Message, context: Context[OptionsT]) -> Any:
        """Returns a payload, a Message or `zpipe.DROP`; many by a generator or `zpipe.many(iterable)`."""


class BatchMap(Worker[OptionsT]):
    """Makes something of a batch of messages."""

    @abstractmethod
    def process_batch(self, messages: list[Message], context: Context[OptionsT]) -> Any:
        """Returns a list of the same length, an entry for each message; or what all were made into, by a generator."""

    def process(self, message: Message, context: Context[OptionsT]) -> Any:
        """For a stage without a `batch` table, which needs this or `process_each`."""
        raise NotImplementedError

    def process_each(self, messages: list[Message], context: Context[OptionsT]) -> Any:
        """For a stage without a `batch` table: what a worker has at once. Returns a list of the same length."""
        raise NotImplementedError


class Sink(Worker[OptionsT]):
    """Takes messages, and gives none. It has one of the methods, or several. What it has returned from is acked."""

    def process(self, message: Message, context: Context[OptionsT]) -> Awaitable[None] | None:
        """Stores one message, durably."""
        raise NotImplementedError

    def process_batch(
        self, messages: list[Message], context: Context[OptionsT]
    ) -> Awaitable[Sequence[Answer | None] | None] | Sequence[Answer | None] | None:
        """Stores a batch, durably. It may return a list with an entry for each message: None, or what is to become of it."""
        raise NotImplementedError

    def process_each(self, messages: list[Message], context: Context[OptionsT]) -> Any:
        """Stores what a worker has at once, in a stage without a `batch` table. Returns a list of the same length, with None
        for each message that is stored."""
        raise NotImplementedError


class Wrapper(PluginClass[OptionsT]):
    """For the `use` of stages: something around each call of their process hooks."""

    @abstractmethod
    def wrap(self, call: Callable[[list[Message]], Any], messages: list[Message], context: Context[OptionsT]) -> Any:
        """Called in the place of each call. ``call(messages)`` makes it, and gives what the hook returned."""


KINDS: tuple[type[PluginClass[Any]], ...] = (Source, Map, BatchMap, Sink, Wrapper)


def _methods(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}


def hooks_of(plugin: PluginClass[Any]) -> dict[str, Any]:
    """The hooks that the plugin's class implements, by hook name, as bound methods."""
    cls = type(plugin)
    known = {name: getattr(kind, name) for kind in _kinds_of(cls) for name in _methods(kind)}
    return {f"zpipe_{name}": getattr(plugin, name) for name in sorted(known) if getattr(cls, name) is not known[name]}


def problems_of(cls: type) -> list[str]:
    """What is wrong with the names of the class's methods. [] where nothing is."""
    kinds = _kinds_of(cls)
    takers = [kind for kind in kinds if issubclass(kind, Worker)]
    if len(kinds) != 1 and len(takers) != 1:
        names = ", zpipe.".join(kind.__name__ for kind in KINDS)
        return [
            f"{cls.__name__} derives from {len(kinds)} of zpipe.{names}, not from one of them, nor from one that takes "
            "messages with Source or Wrapper"
        ]
    known, shown = set[str]().union(*map(_methods, kinds)), " and zpipe.".join(kind.__name__ for kind in kinds)
    problems = []
    for name, value in _own(cls).items():
        if name.startswith("_") or name in known or not (inspect.isroutine(value)):
            continue
        others = [kind.__name__ for kind in KINDS if name in _methods(kind)]
        if others:
            problems.append(f"{name} is a hook of zpipe.{' and zpipe.'.join(others)}, not of zpipe.{shown}")
        elif near := _near(name, known):
            problems.append(
                f"{shown} has no hook {name!r} (did you mean {near!r}?); a method that is no hook "
                f"needs another name, such as _{name}"
            )
    return problems


def missing(cls: type) -> str:
    """The hook that the class has to implement and does not, or ""."""
    if issubclass(cls, Sink) and not {"process", "process_batch", "process_each"} & set(_own(cls)):
        return "process or process_batch"
    return " and ".join(sorted(getattr(cls, "__abstractmethods__", ())))


def _kinds_of(cls: type) -> list[type[PluginClass[Any]]]:
    return [kind for kind in KINDS if issubclass(cls, kind)]


def options_of(cls: type) -> Any:
    """The type that stands for the options in ``Map[Options]``; None if there is none, or it is None."""
    found = _argument(cls)
    return None if isinstance(found, TypeVar) or found in (None, type(None), Any) else found


def _own(cls: type) -> Mapping[str, Any]:
    """What the author's classes have, and not those of this module."""
    return {name: value for c in reversed(cls.__mro__) if c.__module__ != __name__ for name, value in vars(c).items()}


def _near(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # only classes with methods of their own need it

    bare = name.lower().removeprefix("zpipe_").removeprefix("on_")
    found = get_close_matches(bare, known, n=1, cutoff=NEAR)
    return found[0] if found else ""


def _argument(cls: Any) -> Any:
    """What the first parameter of PluginClass is in `cls`, looked for through classes that are generic themselves."""
    for base in vars(cls).get("__orig_bases__", cls.__bases__):
        origin = get_origin(base) or base
        if not (isinstance(origin, type) and issubclass(origin, PluginClass)):
            continue
        if origin.__module__ == __name__:
            return get_args(base)[0] if get_args(base) else None
        found = _argument(origin)
        if isinstance(found, TypeVar) and get_args(base):
            parameters: Any = origin.__parameters__  # type: ignore[attr-defined]
            found = get_args(base)[parameters.index(found)]
        return found
    return None
