"""One task while it is run: its messages, the outputs taken so far, the failures.

Decoding a task's messages belongs here, what a hook's answer means, and deriving ids. Must not live here: calling a hook, or
waiting. Methods that take many outputs yield those that are to be passed on early.

Ids are derived, never random: kept one to one, `ID.n` for the n-th of many, `FIRST~COUNT.n` for outputs of a whole batch.
So a redelivered message makes the same ids again, and an idempotent sink stores each once.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from zpipe.core.policy import LinkPolicy
from zpipe.core.wire.section import Columns
from zpipe.core.work.delivery import Slice
from zpipe.core.work.task import Chunk, Failure, Result, Task, Verdict
from zpipe.daemon.plugin.failures import failure_of
from zpipe.daemon.plugin.outputs import OutputSections, check_message, encode_all, fitting_messages
from zpipe.daemon.plugin.releases import CallReleases, outputs_of
from zpipe.daemon.service.process_memory import LARGE_MESSAGE_BYTES, keep_freed_memory
from zpipe.errors import Answer, PeerError, Reject
from zpipe.hookspecs import Holds
from zpipe.messages import DROP, Message, Release
from zpipe.plugin_loading import did_you_mean

EARLY_MESSAGES = 2048
"""Outputs of one task that are kept until it is done. More are passed on early, so that a generator is bounded."""
PLAIN = frozenset({dict, str, int, float, bool, bytes})
"""Types of payloads that need no look inside: nearly all there are."""
_OUTPUTS = (Message, type(DROP), Answer, Iterator, Release)
_MADE_FROM = (
    "what is made of held messages is yielded as context.release(output, messages); "
    "what is made of none is a Message with an id"
)
_HELD_AND_PASSED_ON = (
    "the message is held, and has outputs of its own: yield them as context.release(output, [message])"
)
_YIELD = "yield them, or return zpipe.many(...)"


class StageLinks(NamedTuple):
    """What a stage's config says of the messages in and out of it.

    outlets     the named ones that its messages may leave by
    only_input  where they come from, as the config names it; "" if there are several inputs
    """

    outlets: Collection[str] = ()
    only_input: str = ""


class Group(NamedTuple):
    """Slices [first, stop) of a task, with about as many messages as make a section. Groups are decoded, called for and encoded
    one after another, so that their messages stay in the processor's cache.

    indexes  those of its messages in the task
    """

    first: int
    stop: int
    indexes: range
    slices: list[Slice]


class NoOutput(Exception):
    """A process hook returned None though somebody waits for its output."""

    def __init__(self) -> None:
        super().__init__("returned None, but the stage has a downstream: return a payload, or zpipe.DROP to filter it")


class WrongBatch(Exception):
    """A batch hook returned something that does not say which output belongs to which message."""

    def __init__(self, made: Any, messages: int) -> None:
        given = f"a {type(made).__name__}"
        if isinstance(made, list | tuple):
            given += f" of {len(made)}"
        super().__init__(
            f"returned {given} for a batch of {messages}: return a list of {messages}, one entry for each message, "
            "or yield the outputs, or return zpipe.many(...)"
        )


class WrongAnswers(Exception):
    """`zpipe_process_each` returned something other than an answer for each message."""

    def __init__(self, made: Any, messages: int) -> None:
        given = f"a list of {len(made)}" if isinstance(made, list) else f"a {type(made).__name__}"
        super().__init__(
            f"zpipe_process_each returned {given} for {messages} messages: return a list with an entry for each"
        )


class TaskRun:
    """One task under way."""

    def __init__(
        self, task: Task, last: bool, policy: LinkPolicy, links: StageLinks, holds: Holds | None = None
    ) -> None:
        self.task = task
        self.default = OutputSections("")
        self.filtered = 0
        self._last = last
        self._policy = policy
        self._links = links
        size = 0
        for piece in task.slices:
            size += piece.size
        self._message_bytes = size // task.count if size else 0
        self._fitting = fitting_messages(policy, self._message_bytes)
        if self._message_bytes >= LARGE_MESSAGE_BYTES:
            keep_freed_memory()
        self._encoded: list[Chunk] = []
        self._encoded_stop = 0
        self._origins: list[float] = []
        self._columns: list[Columns] = []
        self._named: dict[str, OutputSections] = {}
        self._failures: dict[int, Failure] = {}
        self._many = 0
        self._of_all = False
        self._holds = holds or Holds()
        self._decoded: list[tuple[int, list[Message]]] = []
        self._releases: CallReleases | None = None

    def groups(self) -> Iterator[Group]:
        """The groups of the task, in order. A batch is a single one."""
        slices, first, begin, end = self.task.slices, 0, 0, 0
        for at, piece in enumerate(slices):
            if end > begin and not self.task.batch and end + piece.count - begin > self._fitting:
                yield Group(first, at, range(begin, end), slices[first:at])
                first, begin = at, end
            end += piece.count
        yield Group(first, len(slices), range(begin, end), slices[first:])

    def decode(self, group: Group) -> bool:
        """Decodes the group, which `payloads` and `messages` are of from now on. False if a section is malformed: all messages of
        the group have failed then."""
        try:
            self._columns = [piece.columns() for piece in group.slices]
        except PeerError as error:  # what cannot be decoded will not be the next time either
            reason = f"malformed: {error}"
            self._failures |= {index: Failure(index, reason, verdict=Verdict.REJECT) for index in group.indexes}
            return False
        self._origins += [columns.origins[0] for columns in self._columns]
        return True

    def payloads(self) -> list[Any]:
        """The payloads of the decoded group."""
        payloads: list[Any] = []
        for columns in self._columns:
            payloads += columns.payloads
        return payloads

    def ids(self) -> list[str]:
        """Their ids, in the same order."""
        ids: list[str] = []
        for columns in self._columns:
            ids += columns.ids
        return ids

    def messages(self, group: Group, made: Message | None = None) -> list[Message]:
        """The messages of the decoded group; `made`: the only one, if the plugin has it already."""
        messages = [made] if made is not None else []
        if made is None:
            for piece, columns in zip(group.slices, self._columns, strict=True):
                messages += messages_of(self.task, piece, columns, self._links)
        self._decoded.append((group.indexes.start, messages))
        return messages

    def end(self, group: Group) -> None:
        """The group's calls are made and their answers taken: forgets its decoded messages."""
        self._columns = []
        for piece in group.slices:
            piece.forget_columns()

    # ---- outputs

    def take_plain(self, group: Group, made: Sequence[Any]) -> None:
        """A payload for each message, in order: ids, origins and headers stay as they came."""
        index = 0
        for piece in group.slices:
            columns = piece.columns()._replace(payloads=list(made[index : index + piece.count]))
            self.default.extend(columns, group.indexes.start + index)
            index += piece.count
        no_more_comes = not self._holds.new and self.default.in_order
        if no_more_comes and 2 * len(self.default) > self._fitting:
            self._encoded += self.default.encode(self._policy, self._failures, self._message_bytes)
            self._encoded_stop = group.indexes.stop
            self.default.clear()

    def take_each(self, messages: list[Message], made: Any) -> Iterator[list[Chunk]]:
        """A batch's outputs, one to one. An Answer is for its message only. Yields what is to be passed on early."""
        for index, (message, one) in enumerate(zip(messages, made, strict=True)):
            if isinstance(one, Answer):
                self.fail(index, one)
            else:
                yield from self.take(index, message, one)

    def take(self, index: int, message: Message, made: Any) -> Iterator[list[Chunk]]:
        """What the hook returned for one message. Its type decides what it means. Yields what is to be passed on early."""
        if isinstance(made, Answer):
            raise made
        if made is DROP or (made is None and self._is_held(message)):
            self.filtered += not self._is_held(message)
        elif isinstance(made, Iterator):
            made_any = False
            for n, one in enumerate(made):
                made_any = True
                if one is not DROP:
                    self._add(index, message, one, f"{message.id}.{n}")
                    if self._many >= EARLY_MESSAGES:
                        yield self._early()
            if not made_any and not self._last and not self._is_held(message):
                self.filtered += 1
        else:
            self._add(index, message, made, message.id)

    def take_many(self, messages: list[Message], made: Iterable[Any]) -> Iterator[list[Chunk]]:
        """Outputs made from the whole batch. Yields what is to be passed on early."""
        self._of_all = True
        self.default = OutputSections("", of_all=True)
        first = messages[0]
        origin = min(message.origin for message in messages)
        whole = Message(None, origin=origin)
        for n, one in enumerate(made):
            if one is not DROP:
                self._add(0, whole, one, f"{first.id}~{len(messages)}.{n}")
                if self._many >= EARLY_MESSAGES:
                    yield self._early()

    def take_hook(self, made: Any) -> None:
        """What a tick or a flush gave, which have no message."""
        for one in made if isinstance(made, Iterator) else () if made is None else (made,):
            if type(one) is Release:
                self._release(one)
            elif type(one) is Message and one.id:
                self._release(Release(one, []))
            else:
                raise TypeError(f"gave a {type(one).__name__}: {_MADE_FROM}")

    def _release(self, release: Release) -> None:
        group, like, first = (releases := self._held()).begin(release)
        made_any = False
        for n, one in enumerate(outputs_of(release)):
            made_any = True
            if not first and not (type(one) is Message and one.id):
                raise TypeError(_MADE_FROM)
            self._add(group, like, one, f"{first}.{n}", releases)
        if not made_any:
            releases.drop(group)

    def _held(self) -> CallReleases:
        if self._releases is None:
            self._releases = CallReleases(self.task, self._decoded, self._holds)
        return self._releases

    def _is_held(self, message: Message) -> bool:
        return bool(self._holds.new) and self._held().holds(message)

    def _add(self, index: int, message: Message, one: Any, id: str, releases: CallReleases | None = None) -> None:
        """`releases`: the output is one of them, and `index` that of its group."""
        if type(one) is Release:
            self._release(one)
            return
        payload = one.payload if type(one) is Message else one
        if type(payload) not in PLAIN:
            _check_payload(payload)
        if self._last and not (type(one) is Message and one.outlet):
            return  # what leaves by a named outlet is counted by the core, also where nobody reads it
        if type(one) is Message:
            check_message(one)
            check_outlet(one.outlet, self._links.outlets)
            if releases is not None:
                sections = releases.sections(one.outlet)
            else:
                sections = self._sections(one.outlet) if one.outlet else self.default
            sections.add_message(one, message, id, index)
        elif one is None:
            raise NoOutput
        else:
            (self.default if releases is None else releases.sections("")).add(one, message, id, index)
        self._many += releases is None

    def _sections(self, outlet: str) -> OutputSections:
        return self._named.setdefault(outlet, OutputSections(outlet, self._of_all))

    def _all_sections(self) -> list[OutputSections]:
        return [self.default, *self._named.values()]

    def _early(self) -> list[Chunk]:
        chunks = self._encoded + encode_all(self._all_sections(), self._policy, self._failures, self._message_bytes)
        self._encoded = []
        self.default.clear()
        self._named = {}
        self._many = 0
        return chunks

    # ---- failures

    def drop_all(self) -> None:
        self.filtered = sum(not self._is_held(message) for _, messages in self._decoded for message in messages)

    def fail(self, index: int, error: BaseException) -> None:
        self._failures[index] = failure_of(index, error)

    def fail_group(self, group: Group, error: BaseException) -> None:
        """The only call for the group failed. All its messages are to be tried again, also those that were dropped."""
        if self.task.batch:
            self.filtered = 0
        whole = failure_of(0, error)
        self._failures |= {index: replace(whole, index=index) for index in group.indexes}

    def result(self) -> Result:
        held = self._take_held() if self._holds.new or self._releases is not None else []
        outputs = self._all_sections()
        if self._failures:
            outputs = [sections.without(self._failures) for sections in outputs]
        whole = len(self._failures) == self.task.count
        chunks = [] if whole else encode_all(outputs, self._policy, self._failures, self._message_bytes)
        chunks = self._encoded + chunks
        now = time.time()
        origins = [] if whole else self._origins
        ages = [max(0.0, now - origin) for origin in origins]  # a clock that was set back makes no age negative
        result = Result(chunks, self.filtered, list(self._failures.values()), ages=ages)
        if self._releases is not None:
            result.held = held
            result.releases = self._releases.result(self._failures, self._policy, self._message_bytes)
        return result

    def _take_held(self) -> list[int]:
        """Which messages are held from now on. A held message that also has outputs of its own fails: it would be acked with
        those."""
        owners = {owner for sections in self._all_sections() for owner in sections.owners}.union(
            range(self._encoded_stop)
        )
        held = []
        for index, has_outputs in self._held().held(
            self._failures, range(self.task.count) if owners and self._of_all else owners
        ):
            if has_outputs:
                self.fail(index, TypeError(_HELD_AND_PASSED_ON))
            else:
                held.append(index)
        return held


def messages_of(task: Task, piece: Slice, columns: Columns, links: StageLinks) -> list[Message]:
    """The messages of a slice of the task, as the plugin gets them."""
    attempt = piece.section.attempt + task.attempt - 1
    return columns.messages("", attempt, piece.delivery.source or links.only_input)


def check_outlet(outlet: str, declared: Collection[str]) -> None:
    """Raises Reject for an outlet that nobody has declared: trying again cannot help, and its message must not vanish."""
    if not outlet or outlet in declared:
        return
    hint = did_you_mean(outlet, declared)
    has = f"its outlets are {', '.join(declared)}" if declared else "it has only the default one"
    raise Reject(
        f"the stage has no outlet {outlet!r}{hint}; {has}. Outlets are declared by the plugin's zpipe_outlets, or by the option "
        "`outlets` of `python`"
    )


def outputs_inside(made: Any) -> list[type]:
    """The kinds of outputs (a Message, DROP, an answer, an iterator) that a list or a tuple holds.

    Only the kinds of the entries are looked at, not each entry: a list may be long.
    """
    if not isinstance(made, list | tuple):
        return []
    return [kind for kind in set(map(type, made)) if issubclass(kind, _OUTPUTS)]


def _check_payload(payload: Any) -> None:
    """Raises an answer that was yielded; TypeError for outputs that stand where only a payload can."""
    if isinstance(payload, Answer):
        raise payload
    if isinstance(payload, Iterator):
        raise TypeError(f"a {type(payload).__name__} among the outputs: {_YIELD}")
    for kind in outputs_inside(payload):
        name = "zpipe.DROP" if kind is type(DROP) else f"a {kind.__name__}"
        raise TypeError(f"{name} inside a {type(payload).__name__}, which is one payload: {_YIELD}")
