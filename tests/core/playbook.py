"""A script of events in and of what must come out, played against a part of the core that has no clock and no socket.

    assert (
        Playbook(ConsumerEnd("s"))
        << parcel("s", 1, [1, 2])
        << take(9)
        >> taken(1, 2)
        << done(1, 2)
        >> states("s", floor=1, released=2)
    )

`<<` hands an event to the part, `>>` names what comes out of it because of that, and nothing else may come. A field that a
line does not name may be anything; `Placeholder` and the conditions below stand for a value that is not known beforehand.
Some lines after `>>` are questions, which a part answers about itself (`shows`, `states`). Where script and part differ, the
assertion shows the whole script, line by line: `-` is what was expected, `+` is what happened instead.

Which events there are and what they do to a part does not belong here: see `link_ends`. The script of a whole pipeline with
all its stages does not belong here either: see `random_scenario`.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Line:
    kind: str
    values: tuple[Any, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        fields = [f"{name}={value!r}" for name, value in self.fields.items()]
        return f"{self.kind}({', '.join([*map(repr, self.values), *fields])})"

    def only(self, other: Line) -> Line:
        """With the fields alone that another line of this kind names."""
        if self.kind != other.kind:
            return self
        return Line(self.kind, self.values, {name: self.fields[name] for name in other.fields if name in self.fields})

    def filled(self) -> Line:
        """With what the placeholders have stood for."""
        return Line(self.kind, self.values, {name: _value(value) for name, value in self.fields.items()})

    def agrees(self, actual: Line) -> bool:
        """Whether `actual` is what this line expects. A placeholder takes its value here."""
        if (self.kind, len(self.values)) != (actual.kind, len(actual.values)) or self.fields.keys() - actual.fields:
            return False
        pairs = [
            *zip(self.values, actual.values, strict=True),
            *((v, actual.fields[n]) for n, v in self.fields.items()),
        ]
        return all(want.admits(value) if isinstance(want, Condition) else want == value for want, value in pairs)


def line(kind: str) -> Callable[..., Line]:
    return lambda *values, **fields: Line(kind, values, fields)


class Condition:
    """A value that is not known beforehand, but what must be so of it is. `limit` is a value or a placeholder of one."""

    def __init__(self, text: str, meets: Callable[[Any, Any], bool], limit: Any) -> None:
        self._text = text
        self._meets = meets
        self._limit = limit

    def admits(self, value: Any) -> bool:
        return bool(self._meets(value, _value(self._limit)))

    def __repr__(self) -> str:
        return f"<{self._text} {self._limit!r}>"


def below(limit: Any) -> Condition:
    return Condition("below", operator.lt, limit)


def at_least(limit: Any) -> Condition:
    return Condition("at least", operator.ge, limit)


def at_most(limit: Any) -> Condition:
    return Condition("at most", operator.le, limit)


def containing(text: str) -> Condition:
    return Condition("containing", operator.contains, text)


class Placeholder(Condition):
    """Any value at its first place in the script; at the others the same one."""

    def __init__(self) -> None:
        super().__init__("", operator.eq, None)
        self.value: Any = None

    def admits(self, value: Any) -> bool:
        if self.value is None:
            self.value = value
        return bool(self.value == value)

    def __repr__(self) -> str:
        return "<any value>" if self.value is None else repr(self.value)


def _value(value: Any) -> Any:
    return value.value if isinstance(value, Placeholder) else value


class Part(Protocol):
    def handle(self, event: Line) -> list[Line]:
        """What comes out."""

    def answer(self, question: Line) -> Line | None:
        """The answer, with all fields that it can have. None: the line is no question, but expects that something came out."""


class Playbook:
    """Played by `assert`, from where it was played to before; more lines may be added then. To forget it fails the test."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._script: list[tuple[str, Line]] = []
        self._played = 0
        self._expected: list[str] = []
        self._actual: list[str] = []

    def __lshift__(self, event: Line) -> Playbook:
        self._script.append(("<<", event))
        return self

    def __rshift__(self, expected: Line) -> Playbook:
        self._script.append((">>", expected))
        return self

    def __bool__(self) -> bool:
        script, self._played = self._script[self._played :], len(self._script)
        came: list[Line] = []
        try:
            for arrow, line in script:
                if arrow == "<<":
                    self._note_rest(came)
                    self._expected.append(f"<< {line}")
                    self._actual.append(f"<< {line}")
                    came = self.part.handle(line.filled())
                elif (answer := self.part.answer(line)) is not None:
                    self._compare(line, answer)
                else:
                    self._compare(line, came.pop(0) if came else None)
            self._note_rest(came)
        except Exception as error:
            self._actual.append(f"!! {type(error).__name__}: {error}")
            raise AssertionError(self._difference()) from error
        if self._expected != self._actual:
            raise AssertionError(self._difference())
        return True

    def __del__(self) -> None:
        if self._played < len(self._script):
            raise RuntimeError("a playbook was written and never played: put `assert` before it")

    def _note_rest(self, came: list[Line]) -> None:
        self._actual += [f">> {line}" for line in came]

    def _compare(self, line: Line, actual: Line | None) -> None:
        agrees = actual is not None and line.agrees(actual)
        self._expected.append(f">> {line}")
        if agrees:
            self._actual.append(f">> {line}")
        elif actual is not None:
            self._actual.append(f">> {actual.only(line)}")

    def _difference(self) -> str:
        lines = [line for line in difflib.ndiff(self._expected, self._actual) if not line.startswith("?")]
        return "\n".join(["the playbook (-) and what happened (+) differ:", *lines])
