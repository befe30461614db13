"""A record of all that a core is told and answers, which plays again exactly (`zpipe.testing.event_replay`). May live here: what
is kept, and how. Must not live here: playing it.

The file begins with FORMAT. Two pickles follow for each call of the core: (name, now, event), and then what the core has asked
for meanwhile (random bytes, jitter, figures of the process) with what it has answered. The first call is the constructor.

The record holds the content of messages, so nobody but its owner may read it. It is read with an unpickler that makes nothing but
values of the core, since it comes from another machine.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from zpipe.core import actions as act
from zpipe.core.events import Event, LetterPosted, LetterWritten, SourceYielded
from zpipe.core.stage import Stage
from zpipe.core.work.task import DeadLetter, Task
from zpipe.errors import OperatorError
from zpipe.runtime.exception_text import reason_of
from zpipe.runtime.logs import fields

T = TypeVar("T")
FORMAT = "zpipe events 1"
ASKED = ("random_bytes", "jitter", "process_figures")
"""What a stage is given to ask the world with."""
PLAIN_TYPES = {
    "builtins": {"bytearray", "bytes", "complex", "dict", "frozenset", "list", "range", "set", "str", "tuple"},
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
}
"""By module: the types beside those of the core that are kept as they are. Anything else is kept as its `repr`."""


def is_kept(module: str, name: str) -> bool:
    return module.startswith("zpipe.core.") or name in PLAIN_TYPES.get(module, ())


class Handles:
    """What core and shell hand each other by reference, which stands in the record by a name."""

    def __init__(self) -> None:
        self.links: list[Any] = []
        self.tasks: dict[int, Task] = {}
        self.letters: dict[int, DeadLetter] = {}
        self._letters_seen = 0

    def name_of(self, thing: Any) -> tuple[str, int] | None:
        """None: it is a value."""
        if type(thing) is Task:
            return "task", thing.number
        if type(thing) is DeadLetter:
            return next((("letter", n) for n, letter in self.letters.items() if letter is thing), None)
        return next((("link", n) for n, link in enumerate(self.links) if link is thing), None)

    def named(self, name: tuple[str, int]) -> Any:
        kind, number = name
        held: dict[str, Any] = {"task": self.tasks, "letter": self.letters, "link": self.links}
        return held[kind][number]

    def taken(self, event: Any) -> None:
        """The core has handled the event."""
        match event:
            case SourceYielded():
                for letter in event.letters:
                    self._note_letter(letter)
            case LetterWritten(letter, True) | LetterPosted(letter):
                if (name := self.name_of(letter)) is not None:
                    del self.letters[name[1]]

    def plain(self, answer: Any) -> Any:
        """What the core has answered, as plain values that can be compared."""
        match answer:
            case [*several]:
                return [self.plain(one) for one in several]
            case act.Action():
                values = [self.plain(getattr(answer, field.name)) for field in dataclasses.fields(answer)]  # type: ignore[arg-type]
                return (type(answer).__name__, *values)
            case Task():
                self.tasks[answer.number] = answer
                messages = [piece.ids() for piece in answer.slices]
                return ("task", answer.number, answer.history, answer.batch, answer.alone, answer.hook, messages)
            case DeadLetter():
                self._note_letter(answer)
                return (self.name_of(answer), answer.reason, answer.history)
        return answer

    def _note_letter(self, letter: DeadLetter) -> None:
        if self.name_of(letter) is None:
            self._letters_seen += 1
            self.letters[self._letters_seen] = letter


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BufferedWriter, handles: Handles) -> None:
        super().__init__(file, protocol=5)
        self._handles = handles

    def persistent_id(self, obj: Any) -> Any:
        return self._handles.name_of(obj)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, memoryview):
            return bytes, (bytes(obj),)
        kind = obj if isinstance(obj, type) else type(obj)
        return NotImplemented if is_kept(kind.__module__, kind.__qualname__) else (str, (repr(obj),))


def open_file(path: Path) -> io.BufferedWriter:
    """A new file for a record. One that is there already is kept beside it, with `.old` at its name. Raises OSError."""
    if path.exists():
        path.replace(f"{path}.old")
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


class EventRecord:
    """`ended` is called once with the reason when nothing more can be kept. The instance goes on."""

    def __init__(self, file: io.BufferedWriter, ended: Callable[[Exception], None]) -> None:
        self._file = file
        self._handles = Handles()
        self._pickler = _Pickler(self._file, self._handles)
        self._ended = ended
        self._inside = False
        self._given: list[Any] = []
        self._write(FORMAT)

    def asked(self, ask: Callable[..., T]) -> Callable[..., T]:
        """`ask`, which the core may call, with its answers kept."""

        def kept(*arguments: Any) -> T:
            answer = ask(*arguments)
            self._given.append(answer)
            return answer

        return kept

    def call(self, name: str, now: float, event: Any, do: Callable[[], T]) -> T:
        """Has the core do something. What it calls of itself meanwhile belongs to that."""
        if self._inside or self._file.closed:
            return do()
        self._inside = True
        self._given = []
        self._write((name, now, event))
        answer: Any = None
        try:
            return (answer := do())
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._inside = False
            self._handles.taken(event)
            self._write((self._given, self._handles.plain(answer)))

    def hand_over(self, links: Iterable[Any]) -> None:
        """From here on these links stand in the record by a name."""
        self._handles.links.extend(links)

    def flush(self) -> None:
        """What was kept so far outlives a kill of the process."""
        self._guarded(self._file.flush)

    def close(self) -> None:
        self._guarded(self._file.close)

    def _write(self, what: Any) -> None:
        def write() -> None:
            self._pickler.dump(what)
            self._pickler.clear_memo()

        self._guarded(write)

    def _guarded(self, do: Callable[[], None]) -> None:
        if self._file.closed:
            return
        try:
            do()
        except Exception as error:  # a full disk, or a value that cannot be pickled
            with open(os.devnull, "wb") as nowhere:  # what is buffered cannot be written, and closing would try that
                os.dup2(nowhere.fileno(), self._file.fileno())
            self._file.close()
            self._ended(error)


def begin(path: Path, log: logging.Logger) -> EventRecord:
    """A record in a new file. Raises OperatorError if there cannot be one."""

    def ended(error: Exception) -> None:
        log.error(fields(event="record.ended", file=path, reason=reason_of(error)))

    try:
        return EventRecord(open_file(path), ended)
    except OSError as error:
        raise OperatorError(f"cannot record events in {path}: {error.strerror}") from error


class RecordedStage(Stage):
    """A stage whose events and answers are recorded."""

    def __init__(self, record: EventRecord, *fixed: Any, **named: Any) -> None:
        """Takes what `Stage` takes, with `ASKED` by name."""
        self._record = record
        asked: dict[str, Any] = {name: record.asked(named.pop(name)) for name in ASKED}
        record.call("made", 0.0, (fixed, named), lambda: super(RecordedStage, self).__init__(*fixed, **(asked | named)))
        record.hand_over([*named.get("outgoing", ()), *named.get("incoming", ())])

    def handle(self, event: Event, now: float) -> bool:
        return self._record.call("handle", now, event, lambda: super(RecordedStage, self).handle(event, now))

    def start_tasks(self, now: float) -> list[Task]:
        return self._record.call("start_tasks", now, None, lambda: super(RecordedStage, self).start_tasks(now))

    def pass_on(self, now: float) -> list[act.Action]:
        return self._record.call("pass_on", now, None, lambda: super(RecordedStage, self).pass_on(now))

    def tell(self, now: float) -> list[act.Action]:
        said = self._record.call("tell", now, None, lambda: super(RecordedStage, self).tell(now))
        self._record.flush()
        return said

    def snapshot(self, now: float) -> dict[str, Any]:
        return self._record.call("snapshot", now, None, lambda: super(RecordedStage, self).snapshot(now))
