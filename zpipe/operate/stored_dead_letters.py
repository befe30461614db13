"""The stored dead letters of a whole pipeline: those in the state folders of its instances on this machine, also while these run,
which SQLite allows. Does not belong here: starting an instance, or sending it a request."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zpipe.config import InstanceKey, PipelineConfig
from zpipe.config.targets import read_stage_target
from zpipe.core.policy import LinkPolicy
from zpipe.core.wire import cbor, section
from zpipe.core.work.stored_dead_letter import MESSAGE, PROGRAM, RECORD, SECTION, StoredDeadLetter, letter_name
from zpipe.errors import NoPeerError, OperatorError, PeerError, TargetError
from zpipe.folders import denied
from zpipe.runtime import dead_letter_table
from zpipe.runtime.dead_letter_table import Filter
from zpipe.runtime.places import Places

_NO_MESSAGE = {
    RECORD: "a record its source could not read",
    SECTION: "a section that could not be decoded",
    PROGRAM: "of a program in another language",
}
Numbers = dict[InstanceKey, list[int]]
"""Numbers of letters, by the instance that has them."""

_SHOWN = frozenset(StoredDeadLetter._fields) - {"stage", "instance"}


@dataclass(frozen=True)
class Selection:
    """Which letters are wanted: those with these names or, without names, those of `target` (STAGE or STAGE.N, "" for all) that
    pass the filter."""

    names: tuple[str, ...] = ()
    target: str = ""
    filter: Filter = field(default_factory=Filter)


@dataclass(frozen=True)
class Outcome:
    """What became of letters that were to be replayed, as numbers of letters.

    replayed  have gone
    again     are dead letters again
    left      are still to be replayed
    """

    replayed: int
    again: int
    left: int


def count(numbers: Numbers) -> int:
    return sum(map(len, numbers.values()))


def _filters(chosen: Numbers) -> dict[InstanceKey, Filter]:
    return {instance: Filter(numbers=frozenset(numbers)) for instance, numbers in chosen.items()}


class StoredDeadLetters:
    """Raises NoPeerError if no instance of the pipeline has a state folder here, and OperatorError if one cannot be read."""

    def __init__(self, config: PipelineConfig, env: Mapping[str, str]) -> None:
        self.config = config
        self.env = env
        self._places = Places(config, env)
        self._files = {
            (stage, instance): path
            for stage in config.stages
            for instance in self._places.stored(stage)
            if _exists(path := self._places.state(stage, instance) / dead_letter_table.STATE_FILE) and _is_made(path)
        }
        if not any(map(self._places.stored, config.stages)):
            where = self._places.state("", 0).parent
            raise NoPeerError(
                f"nothing of pipeline {config.name!r} is kept in {where}: has it run on this machine, as this user?"
            )

    # ---- finding

    def find(self, selection: Selection) -> Numbers:
        """The letters of a selection. Raises TargetError for a stage or a letter that does not exist."""
        if selection.names:
            return self._find_named(selection.names)
        stage, number = read_stage_target(self.config, selection.target) if selection.target else ("", None)
        wanted = [key for key in self._files if stage in ("", key[0]) and number in (None, key[1])]
        return self._by("1", dict.fromkeys(wanted, selection.filter)).get(1, {})

    def _find_named(self, names: Iterable[str]) -> Numbers:
        found: Numbers = {}
        for name in names:
            target, slash, number = name.partition("/")
            stage, instance = read_stage_target(self.config, target)
            if not slash or instance is None or not (number.isascii() and number.isdigit() and len(number) < 19):
                raise TargetError(f"{name!r} is no STAGE.N/NUMBER: `zpipe dead list` has the names of the letters")
            numbers = found.setdefault((stage, instance), [])
            if int(number) not in numbers:
                numbers.append(int(number))
        existing = self._by("1", _filters(found)).get(1, {})
        missing = [
            letter_name(*instance, number)
            for instance, numbers in found.items()
            for number in numbers
            if number not in existing.get(instance, ())
        ]
        if missing:
            raise TargetError(f"there is no letter {', '.join(missing)}: `zpipe dead list` has those that are left")
        return found

    def _by(self, column: str, filters: Mapping[InstanceKey, Filter]) -> dict[Any, Numbers]:
        """The letters that pass the filter for their instance, by what stands in the column."""
        found: dict[Any, Numbers] = {}
        for instance in (one for one in filters if one in self._files):
            where, values = filters[instance].where()
            sql = f"SELECT {column}, number FROM dead_letters WHERE {where} ORDER BY number"
            with self._open(instance) as connection:
                for value, number in connection.execute(sql, values):
                    found.setdefault(value, {}).setdefault(instance, []).append(number)
        return found

    def kinds(self, chosen: Numbers) -> dict[str, Numbers]:
        """The same letters, by kind (MESSAGE, RECORD, SECTION, PROGRAM)."""
        return self._by("kind", _filters(chosen))

    def marked(self, chosen: Numbers) -> tuple[Numbers, Numbers]:
        """Those of the letters that still exist: the ones that are to be replayed, and the others."""
        by_mark = self._by("replay_rate IS NOT NULL", _filters(chosen))
        return by_mark.get(1, {}), by_mark.get(0, {})

    def outcome(self, chosen: Numbers) -> Outcome:
        """What has become of letters that were marked."""
        left, again = self.marked(chosen)
        return Outcome(count(chosen) - count(left) - count(again), count(again), count(left))

    def pipeline_runs(self) -> bool:
        """Whether any instance of the pipeline runs on this machine."""
        places = self._places
        return any(places.alive(stage, n) for stage in self.config.stages for n in places.instances(stage))

    def instances_with_marked(self) -> set[InstanceKey]:
        """Instances that have letters to be replayed, whichever command has marked them."""
        sql = "SELECT 1 FROM dead_letters WHERE replay_rate IS NOT NULL LIMIT 1"
        found = set()
        for instance in self._files:
            with self._open(instance) as connection:
                if connection.execute(sql).fetchone():
                    found.add(instance)
        return found

    # ---- reading

    def letters(self, chosen: Numbers, most: int | None = None) -> Iterator[StoredDeadLetter]:
        """Reads the letters one after the other, at most `most` of them."""
        for instance, numbers in chosen.items():
            if most is not None:
                numbers, most = numbers[:most], max(most - len(numbers), 0)
            with self._open(instance) as connection:
                for number in numbers:
                    # Every column that is there: a table that no instance has opened lately may lack the newest ones.
                    rows = connection.execute("SELECT * FROM dead_letters WHERE number = ?", (number,))
                    names = [column[0] for column in rows.description]
                    for row in rows:  # none if it has gone meanwhile
                        found = dict(zip(names, row, strict=True))
                        yield self._letter(instance, {name: found[name] for name in found.keys() & _SHOWN})

    def rows(self, chosen: Numbers) -> list[dict[str, Any]]:
        """What a list needs of the letters, newest first, and without their payloads: there may be thousands."""
        columns = ("number", "id", "at", "kind", "reason", "attempts", "deaths", "replay_rate IS NOT NULL")
        found: list[dict[str, Any]] = []
        for (stage, instance), numbers in chosen.items():
            where, values = Filter(numbers=frozenset(numbers)).where()
            with self._open((stage, instance)) as connection:
                for row in connection.execute(f"SELECT {', '.join(columns)} FROM dead_letters WHERE {where}", values):
                    named = dict(zip((*columns[:-1], "replaying"), row, strict=True))
                    named["replaying"] = bool(named["replaying"])
                    name = letter_name(stage, instance, named["number"])
                    found.append({"letter": name, "stage": stage, "instance": instance, **named})
        return sorted(found, key=lambda row: -row["at"])

    @staticmethod
    def _letter(instance: InstanceKey, row: dict[str, Any]) -> StoredDeadLetter:
        for key in ("headers", "payload"):
            with suppress(PeerError):  # a damaged value is shown as its bytes
                row[key] = None if row[key] is None else cbor.read(row[key])
        return StoredDeadLetter(instance[0], instance[1], **{**row, "history": json.loads(row["history"])})

    # ---- changing

    def edit(self, letter: StoredDeadLetter, payload: Any) -> None:
        """Gives the letter another payload. Raises TargetError if it cannot be sent, or if the letter cannot be changed."""
        check_editable(letter)
        try:
            size = len(section.encode(*section.plain([letter.id], [letter.origin], [payload])))
        except ValueError as error:
            raise TargetError(f"that payload {error}") from None
        if size > LinkPolicy().max_message_bytes:
            raise TargetError(f"that payload has {size} bytes, over the limit of {LinkPolicy().max_message_bytes}")
        sql = "UPDATE dead_letters SET payload = ? WHERE number = ? AND replay_rate IS NULL"
        with self._open((letter.stage, letter.instance), write=True) as connection:
            if not connection.execute(sql, (cbor.write(payload), letter.number)).rowcount:
                raise TargetError(_replaying(letter))

    def mark(self, chosen: Numbers, rate: float) -> None:
        """Marks the letters: their instance replays them, `rate` a second, when it next looks for marked ones."""
        self._change(f"UPDATE dead_letters SET replay_rate = ? WHERE kind = '{MESSAGE}'", chosen, rate)

    def drop(self, chosen: Numbers) -> int:
        """Deletes the letters, and returns how many there were."""
        return self._change("DELETE FROM dead_letters WHERE TRUE", chosen)

    def _change(self, sql: str, chosen: Numbers, *values: Any) -> int:
        """Makes the change to the chosen ones of the letters that the statement is for. Returns how many these were."""
        changed = 0
        for instance, chosen_here in _filters(chosen).items():
            where, wanted = chosen_here.where()
            with self._open(instance, write=True) as connection:
                changed += connection.execute(f"{sql} AND {where}", (*values, *wanted)).rowcount
        return changed

    @contextmanager
    def _open(self, instance: InstanceKey, write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection to the instance's state file. Raises OperatorError if SQLite cannot use it."""
        path = self._files[instance]
        try:
            with closing(_connect(path, write)) as connection:
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version != dead_letter_table.STATE_VERSION:
                    raise OperatorError(
                        f"{path} is of schema {version}; this zpipe knows {dead_letter_table.STATE_VERSION}"
                    )
                with connection:
                    yield connection
        except sqlite3.Error as error:
            raise OperatorError(f"cannot use the state file {path}: {error}") from None


def _exists(path: Path) -> bool:
    """Raises OperatorError if this user may not look."""
    try:
        path.stat()
    except PermissionError as error:
        raise denied(path.parent, error, "look into") from None
    except OSError:
        return False
    return True


def _is_made(path: Path) -> bool:
    """Whether its tables are there. The first write of an instance makes the file before them."""
    try:
        with closing(_connect(path, write=False)) as connection:
            return bool(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error:
        return True  # whoever opens it next is told what is wrong


def _connect(path: Path, write: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.as_uri()}?mode={'rw' if write else 'ro'}", uri=True, timeout=30.0)
    if write:
        connection.execute("PRAGMA synchronous = FULL")
    return connection


def check_editable(letter: StoredDeadLetter) -> None:
    """Raises TargetError for a letter that is no message, or is being replayed."""
    if letter.kind != MESSAGE:
        raise TargetError(f"{letter.name} is {_NO_MESSAGE[letter.kind]}: it can only be dropped")
    if letter.replay_rate is not None:
        raise TargetError(_replaying(letter))


def _replaying(letter: StoredDeadLetter) -> str:
    return f"{letter.name} is being replayed: edit it if it becomes a dead letter again"


def refusal(chosen: Numbers, kind: str) -> str:
    """A sentence that says why letters of that kind cannot be replayed, and what to do about it."""
    names = [letter_name(*instance, number) for instance, numbers in chosen.items() for number in numbers]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if kind == RECORD:
        what = "records that their source could not read: correct the source and run again with --fresh, or drop them"
    elif kind == PROGRAM:
        what = (
            "of a program in another language, which takes messages from its producers alone: send what `zpipe dead show "
            "--json` has of them to its input again, such as by a pipeline of `files` or `stdin`, and drop them"
        )
    else:
        what = "sections that could not be decoded, so nobody knows their messages: drop them"
    return f"{shown} cannot be replayed; these are {what}"
