"""What one call does with held messages: which it holds from now on, and what it has made of some.

Reading `Context.hold` and `Context.release` back belongs here, and gathering released outputs. Must not live here: calling a
hook, and what holding means for acks, which is the core's.

An output that was made from held messages gets an id from the first of them and their number, as one from a whole batch does. So
a window of the same messages makes the same id again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from zpipe.core.policy import LinkPolicy
from zpipe.core.work.task import Failure, HeldKey, Releases, Task
from zpipe.daemon.plugin.outputs import OutputSections, encode_all
from zpipe.errors import OperatorError
from zpipe.hookspecs import Holds
from zpipe.messages import DROP, Message, Release


class CallReleases:
    """`decoded`: the task's messages in runs, each with the index of its first message; empty for a tick or a flush."""

    def __init__(self, task: Task, decoded: list[tuple[int, list[Message]]], holds: Holds) -> None:
        self._task = task
        self._decoded = decoded
        self._holds = holds
        self._groups: list[list[HeldKey]] = []
        self._dropped: set[int] = set()
        self._released_now: set[int] = set()
        self._outputs: dict[str, OutputSections] = {}

    def holds(self, message: Message) -> bool:
        """The call holds this message of its own."""
        return bool(self._holds.new) and id(message) in self._holds.new

    def begin(self, release: Release) -> tuple[int, Message, str]:
        """Begins a group: its index, a message that has what its outputs leave out, and what their ids begin with. Raises
        ValueError if a message is not held, and OperatorError if this stage may hold none."""
        messages = release.messages
        if messages and self._holds.refusal:
            raise OperatorError(self._holds.refusal)
        keys = [self._key(message) for message in messages]
        if len(set(keys)) < len(keys):
            raise ValueError("a message is released twice by one context.release(...)")
        for message, (number, index) in zip(messages, keys, strict=True):
            self._holds.kept.pop(id(message), None)
            if number == self._task.number:
                self._holds.new[id(message)] = message
                self._released_now.add(index)
        self._groups.append(keys)
        origin = min((message.origin for message in messages), default=0.0)
        first = f"{messages[0].id}~{len(messages)}" if messages else ""
        return len(self._groups) - 1, Message(None, origin=origin), first

    def _key(self, message: Message) -> HeldKey:
        kept = self._holds.kept.get(id(message))
        if kept is not None:
            return kept[1]
        for index, own in self._indexed():
            if own is message and index not in self._released_now:
                return self._task.number, index
        raise ValueError(f"context.release(...) of a message that is not held: {getattr(message, 'id', message)!r}")

    def _indexed(self) -> Iterator[tuple[int, Message]]:
        return ((index, message) for first, run in self._decoded for index, message in enumerate(run, first))

    def sections(self, outlet: str) -> OutputSections:
        return self._outputs.setdefault(outlet, OutputSections(outlet))

    def drop(self, group: int) -> None:
        """The plugin made nothing of the group, on purpose."""
        self._dropped.add(group)

    def held(self, failed: Collection[int], owners: Collection[int]) -> Iterator[tuple[int, bool]]:
        """The indexes of the task's messages that are held from now on, without the `failed` ones. True: the message is one of
        `owners`, so it has outputs of its own, too."""
        new = self._holds.new
        for index, message in self._indexed():
            if new.pop(id(message), None) is None or index in failed:
                continue
            if index in owners:
                yield index, True
                continue
            if index not in self._released_now:
                self._holds.kept[id(message)] = message, (self._task.number, index)
            yield index, False
        new.clear()  # what else was held is no message of this call, and could never be released

    def result(self, failed: Collection[int], policy: LinkPolicy, message_bytes: int) -> Releases | None:
        if not self._groups:
            return None
        failures: dict[int, Failure] = {}
        chunks = encode_all(list(self._outputs.values()), policy, failures, message_bytes)
        mine = self._task.number  # a message of this call that failed is tried again, even if it was released
        groups = [[key for key in group if key[0] != mine or key[1] not in failed] for group in self._groups]
        return Releases(groups, chunks, self._dropped, list(failures.values()))


def outputs_of(release: Release) -> Iterator[Any]:
    """What was made of held messages, without what was dropped."""
    output = release.output
    return (one for one in (output if isinstance(output, Iterator) else [output]) if one is not DROP)
