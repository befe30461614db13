"""`exec`: a stage that is a program in any language, which reads messages on stdin and writes its answers to stdout.

There is a program for each call under way. Without `input` the program is a source, each of whose lines is a message.
What it may answer, and how to use jq, awk, node, a shell script or a compiled program, is on a page of its own:
[docs/exec.md](../docs/exec.md).

| fault | what follows |
|---|---|
| the program dies, hangs for `timeout`, or writes garbage | its messages are given to another, one by one; then a dead letter |
| it answers `reject`, `retry` | what it asks for |
| it cannot be started, or never answers at all | the stage ends, and says why |

**Resume.** A source's position is the number of the line, or the field `key` of it: the program is started again, and
what was committed is passed over. **Redelivery.** The program is given the message again, with the same id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from zpipe import (
    DROP,
    BatchMap,
    Context,
    Duration,
    Message,
    Reject,
    Retry,
    Source,
    Throttled,
    Traits,
    many,
    override,
)
from zpipe.errors import Answer, OperatorError
from zpipe.messages import BadRecord
from zpipe_plugins.exec.child import Child, Ended, Late
from zpipe_plugins.exec.children import SHARED, Children, problem_of
from zpipe_plugins.exec.formats import FORMATS, Format, Unreadable

FIRST_LOOK_S = 0.02
"""In mode `line`, after the first answer of a program: whether it writes more than one line for a message."""
MOST_RESTARTS = 5
"""Of a source's program, one after the other, that give nothing new."""
_LOOK_S = 0.2
"""How often a source that waits for its program looks whether it is to stop."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
NO_MESSAGE = '"outlet" is text, and "headers" is a map'
_DONE = Message(None)
_WAITS = object()


@dataclass
class Options:
    command: Annotated[
        list[str], 'the program and its arguments; a path with "/" is relative to the config file, where it also runs'
    ]
    mode: Annotated[
        Literal["envelope", "line", "filter"],
        "what a message is for the program: a map with its id, a bare line, or one of all that a run of it is given",
    ] = "envelope"
    format: Annotated[Literal["ndjson", "lines", "cbor"], "how messages are written and read"] = "ndjson"
    timeout: Annotated[Duration, "in which a program that has messages must write something"] = 30.0
    outlets: Annotated[list[str] | None, "named outlets of messages; left out: those that a stage reads"] = None
    key: Annotated[str | None, "(a source) the field of a line that is its position; left out: the line's number"] = (
        None
    )
    needs_network: Annotated[bool, "whether the program opens connections of its own"] = False

    def __post_init__(self) -> None:
        if not self.command or not self.command[0]:
            raise ValueError('command is empty: allowed is a program with its arguments, such as ["jq", "-c", ".a"]')
        if self.mode == "envelope" and self.format == "lines":
            raise ValueError('format "lines" has no room for an id: mode "envelope" takes "ndjson" or "cbor"')
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout}: allowed is any time above 0")


ExecOptions = TypeVar("ExecOptions", bound=Options)


class Exec(Source[ExecOptions, Any], BatchMap[ExecOptions]):
    """What `exec` does, for options of any kind that are those of `exec` and more. A package with a program of its own derives
    from it, and says in its options which command that is: docs/exec.md."""

    children: Children
    form: Format

    @override
    def check(self, options: ExecOptions, config_dir: Path) -> list[tuple[str, str]]:
        problem = problem_of(options.command, config_dir)
        return [("command", problem)] if problem else []

    @override
    def outlets(self, options: ExecOptions) -> list[str] | None:
        return options.outlets

    @override
    def traits(self, options: ExecOptions, config_dir: Path) -> Traits:
        return Traits(needs_network=options.needs_network)

    @override
    def open(self, context: Context[ExecOptions]) -> None:
        options = context.options
        if problem := problem_of(options.command, context.config_dir):
            raise OperatorError(problem)
        self.form = FORMATS[options.format]
        self.children = Children(context, self.form, keeps_silence=options.mode == "line")

    @override
    def close(self, context: Context[ExecOptions]) -> None:
        if hasattr(self, "children"):  # one that is told to leave while it starts may not be open
            self.children.close()

    # ---- messages

    @override
    def process_each(self, messages: list[Message], context: Context[ExecOptions]) -> list[Any]:
        if context.options.mode == "filter":
            return [self._alone(message, context) for message in messages]
        return self._answers(messages, context)

    @override
    def process_batch(self, messages: list[Message], context: Context[ExecOptions]) -> Any:
        if context.options.mode == "filter":
            return many(self._filtered(messages, context))
        made = self._answers(messages, context)
        if len(made) > 1 and all(isinstance(one, Throttled) for one in made):
            raise RuntimeError(SHARED)  # the batch is halved until the message that does it is alone
        return made

    def _answers(self, messages: list[Message], context: Context[ExecOptions]) -> list[Any]:
        """For each message what the program says of it."""
        options, children = context.options, self.children
        made, data, ids = _written(messages, self.form.write, bare=options.mode != "envelope")
        waiting = [index for index, one in enumerate(made) if one is _WAITS]
        if not waiting:
            return made
        child = children.take()
        worked_before = child.answered
        try:
            child.put(b"".join(data))
            if options.mode == "line":
                _take_lines(child, made, waiting, options.timeout)
            else:
                _take_envelopes(child, made, messages, ids, options.timeout, context.last)
        except (Ended, Late) as fault:
            if worked_before and type(fault) is Ended and child.has_read_nothing:
                children.drop(child)  # it ended after its last answer, a moment before it was given these
                return self._answers(messages, context)
            left = [index for index, one in enumerate(made) if one is _WAITS]
            _give(made, left, children.failed(child, fault, [messages[index].id for index in left], options.timeout))
        except _Confused as confused:
            children.drop(child)
            left = [index for index, one in enumerate(made) if one is _WAITS]
            # Only for one that was alone it is certain that this was written for it.
            alone = len(waiting) == 1
            _give(made, left, Reject(f"{child.name} {confused}") if alone else Throttled(0.0, SHARED))
        except BaseException:
            children.drop(child)
            raise
        else:
            children.give_back(child)
        return made

    # ---- mode `filter`: a program for each batch, whose input is closed

    def _alone(self, message: Message, context: Context[ExecOptions]) -> Any:
        try:
            return many(self._filtered([message], context))
        except Answer as answer:
            return answer
        except OperatorError:
            raise
        except Exception as error:
            return Retry(reason=str(error))

    def _filtered(self, messages: list[Message], context: Context[ExecOptions]) -> list[Any]:
        made, data, _ = _written(messages, self.form.write, bare=True)
        for one in made:
            if isinstance(one, Reject):
                raise one if len(messages) == 1 else RuntimeError(str(one))
        children, timeout_s = self.children, context.options.timeout
        child = children.start()
        items: list[Any] = []
        try:
            child.put(b"".join(data), ends=True)
            with suppress(Ended):
                while True:
                    items += child.take(timeout_s)
            how = child.how_it_ended()
            if child.exit_code != 0:
                if len(messages) == 1:
                    children.blame(messages[0].id, f"{child.name} {how}")
                raise RuntimeError(f"{child.name} {how}")
            children.note_answer()
        except Late:
            raise RuntimeError(f"{child.name} wrote nothing and did not end within {timeout_s:g} s") from None
        finally:
            children.drop(child)
        for item in items:
            if type(item) is Unreadable:
                reason = f"{child.name} {item}"
                raise Reject(reason) if len(messages) == 1 else RuntimeError(reason)
        return [Message(None) if item is None else item for item in items]

    # ---- a source

    @override
    def source(self, context: Context[ExecOptions, Any]) -> Iterator[Any]:
        """The items that the program writes. One that fails is started again, and goes on after the last position."""
        options, children = context.options, self.children
        if options.mode == "filter":
            raise OperatorError('mode "filter" is for stages that have an input: a source takes "line" or "envelope"')
        position, in_vain = context.position, 0
        while not context.stopping.is_set():
            child = children.start({"ZPIPE_POSITION": "" if position is None else json.dumps(position, default=str)})
            before, how, bad = position, "", 0
            try:
                for number, item in enumerate(_items(child, context)):
                    if item is None:
                        return
                    if options.key is None and position is not None and number <= position:
                        continue  # the program gives from the start what it gave before
                    at, payload = _record(item.value, options)
                    if options.key is not None and at is None:
                        # It has no position of its own, so the source goes on after the one before it; but it has an id.
                        bad += 1
                        yield Message(payload, id=_bad_id(context.stage, position, bad), position=position)
                        continue
                    position, bad = (number if options.key is None else at), 0
                    if type(payload) is Message:
                        payload.position = position
                        yield payload
                    else:
                        yield position, payload
            except Ended:
                how = child.how_it_ended()
            finally:
                children.drop(child)
            if child.exit_code == 0:
                return
            in_vain = in_vain + 1 if position == before else 0
            if in_vain >= MOST_RESTARTS:
                raise OperatorError(f"{child.name} {how}, as those before it, and gave nothing new")
            context.log.warning("%s %s: it is started again", child.name, how)
            context.stopping.wait(min(0.1 * 2.0**in_vain, 5.0))


class Plain(Exec[Options]):
    """The plugin `exec` itself."""


def _give(made: list[Any], indexes: list[int], answer: Answer) -> None:
    for index in indexes:
        made[index] = answer


def _written(
    messages: list[Message], write: Callable[[Any], bytes], *, bare: bool
) -> tuple[list[Any], list[bytes], dict[str, list[int]]]:
    """What is certain before the program is asked, its input, and the indexes of the messages that it has by id."""
    made: list[Any] = []
    data: list[bytes] = []
    ids: dict[str, list[int]] = {}
    for index, message in enumerate(messages):
        item = message.payload
        if not bare:
            item = {"id": message.id, "payload": item}
            if message.headers is not None:
                item["headers"] = message.headers
        try:
            data.append(write(item))
        except ValueError as error:
            made.append(Reject(str(error)))
        else:
            made.append(_WAITS)
            if not bare:
                ids.setdefault(message.id, []).append(index)
    return made, data, ids


class _Confused(Exception):
    """The program wrote what is no answer. Whose it is cannot be told, unless it had one message only."""


# Mode `line`: as many lines as messages, in their order


def _take_lines(child: Child, made: list[Any], waiting: list[int], timeout_s: float) -> None:
    """No line is anybody's answer before all have come: if one were missing, all after it would be those of others."""
    first = not child.answered
    items: list[Any] = []
    while len(items) < len(waiting):
        items += child.take(timeout_s, len(waiting) - len(items))
        if type(items[-1]) is Unreadable and items[-1].ends:
            raise _Confused(str(items[-1]))
    with suppress(Ended):  # it has answered all before
        items += child.unasked(FIRST_LOOK_S if first else 0.0)
    if len(items) > len(waiting) or child.in_an_item:
        raise _Confused(
            f"wrote {len(items)} lines for {len(waiting)}, so nobody knows which are whose: {str(items)[:200]}"
        )
    for index, item in zip(waiting, items, strict=True):
        if type(item) is Unreadable:
            made[index] = Reject(f"{child.name} {item}")
        else:
            made[index] = item if item is not None else _DONE


# Mode `envelope`: answers with ids, in any order


def _take_envelopes(
    child: Child,
    made: list[Any],
    messages: list[Message],
    ids: dict[str, list[int]],
    timeout_s: float,
    last: bool,
) -> None:
    left = sum(map(len, ids.values()))
    parts: dict[int, list[Any]] = {}
    while left:
        for item in child.take(timeout_s, left):
            if type(item) is not dict or type(id := item.get("id")) is not str or not ids.get(id):
                raise _Confused(_why_not_an_answer(item))
            index = ids[id][0]
            one = _answer(item, messages[index], last)
            if item.get("more") is True:
                parts.setdefault(index, []).append(one)
                continue
            ids[id].pop(0)
            left -= 1
            if index in parts:
                one = many(parts.pop(index) if one is DROP else [*parts.pop(index), one])
            made[index] = one


def _why_not_an_answer(item: Any) -> str:
    if type(item) is Unreadable:
        return str(item)
    shown = _shown(item)[:500]
    if type(item) is not dict or type(item.get("id")) is not str:
        return f'wrote what cannot be read: {shown} (an answer is a map with an "id")'
    return f"wrote what cannot be read: {shown} (it has no message of that id)"


def _answer(item: dict[str, Any], message: Message, last: bool) -> Any:
    """What an answer means, as a hook would say it."""
    if "payload" in item:
        payload, headers, outlet = item["payload"], item.get("headers"), item.get("outlet", "")
        if payload is not None and outlet == "" and (headers is None or headers == message.headers):
            return payload
        return _message(item) or Reject(f"wrote what cannot be read: {_shown(item)[:500]} ({NO_MESSAGE})")
    if item.get("drop") is True:
        return DROP
    if "reject" in item:
        return Reject(str(item["reject"]))
    if "retry" in item:
        delay_s = _seconds(item["retry"])
        if delay_s is not None:
            return Retry(delay_s, str(item.get("reason", "the program asks to try again")))
    elif last:
        return _DONE
    return Reject(
        f"wrote what cannot be read: {_shown(item)[:500]} "
        '(an answer has one of "payload", "drop": true, "reject": "why" and "retry": "2s")'
    )


def _message(item: dict[str, Any]) -> Message | None:
    """An item with a payload as the message it means; None if its headers or its outlet are none."""
    headers, outlet = item.get("headers"), item.get("outlet", "")
    if not isinstance(headers, dict | None) or not isinstance(outlet, str):
        return None
    return Message(item["payload"], headers=headers, outlet=outlet)


def _shown(item: Any) -> str:
    try:
        return json.dumps(item, default=repr)
    except TypeError:  # CBOR has maps whose keys are no text
        return repr(item)


def _seconds(given: Any) -> float | None:
    """A delay as "2s", "500ms" or a number of seconds; None if it is none."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        return float(given)
    found = _DURATION.fullmatch(given.strip()) if isinstance(given, str) else None
    return float(found[1]) * _UNITS[found[2]] if found else None


# A source


class _Item(NamedTuple):
    value: Any


def _items(child: Child, context: Context) -> Iterator[_Item | None]:
    """What it writes; None if the source is to stop."""
    child.put(b"", ends=True)
    while True:
        try:
            items = child.take(_LOOK_S)
        except Late:
            items = []
        for item in items:
            yield _Item(item)
        if context.stopping.is_set():
            yield None


def _bad_id(stage: str, position: Any, number: int) -> str:
    """Of a record that has no position: the same whenever the program is run again from the position before it."""
    before = position if isinstance(position, str) else json.dumps(position, default=str)
    return f"{stage}:{before}:bad:{number}"


def _record(item: Any, options: Options) -> tuple[Any, Any]:
    """(its own position, or None; payload or Message) of an item."""
    if type(item) is Unreadable:
        return None, BadRecord(str(item), item.raw)
    if options.mode == "envelope":
        if type(item) is not dict or "payload" not in item:
            shown = _shown(item)
            return None, BadRecord('an item of a source in mode "envelope" is a map with a "payload"', shown)
        payload: Any = _message(item) or BadRecord(NO_MESSAGE, _shown(item))
    else:
        payload = item
    if options.key is None:
        return None, payload
    if type(item) is not dict or item.get(options.key) is None:
        shown = _shown(item)
        return None, BadRecord(f"it has no field {options.key!r}, which is its position", shown)
    return item[options.key], payload
