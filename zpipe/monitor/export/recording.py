"""Recordings of a pipeline: a file of NDJSON, one snapshot a line with the time when it was heard, compressed if named .gz.

The first line says which pipeline it is of. A torn last line, which a killed monitor leaves, is passed over. Must not live here:
moving through a recording on the screen.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import tempfile
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from zpipe.core.telemetry.snapshot import taken_in
from zpipe.errors import OperatorError
from zpipe.monitor.model.incarnation import LATEST_S, is_possible_time

VERSION = 1
_MANY_DIGITS = re.compile(rb"\d{19}")
_GZIP = 31
"""For zlib: the format of gzip files."""
MOST_BACK_S, MOST_FORWARD_S = 60.0, 366 * 86400.0
"""A recorder's clock is not changed when the machine's is set, so times further back or forward are not its own."""
WINDOW_INTERVALS = 40
"""So many intervals before a moment are read to know the pipeline then: more than any rate or share is measured over."""


class Recorder:
    """Appends to a new file. Raises OperatorError if it cannot be written."""

    def __init__(self, path: Path, pipeline: str, interval_s: float) -> None:
        self._path = path
        try:
            self._file = _open_new(path)
        except FileExistsError:
            raise OperatorError(f"{path} is there already: name another file, or remove it") from None
        except OSError as error:
            raise OperatorError(f"cannot write {path}: {error.strerror}") from None
        self._line({"recording": VERSION, "pipeline": pipeline, "interval_s": interval_s})

    def add(self, snapshot: dict[str, Any], at: float) -> None:
        """A snapshot heard at `at` (seconds since the epoch)."""
        self._line({"at": round(at, 3), "snapshot": snapshot})

    def _line(self, row: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise OperatorError(f"cannot write {self._path}: {error.strerror}") from None

    def close(self) -> None:
        with suppress(OSError):  # The disk is full. The last line shows what the file lacks.
            self._file.close()


class Recording:
    """One file, open for reading. `began`, `ended`: of the first and last snapshot, seconds since the epoch.

    Raises OperatorError for what is no recording of that pipeline, an empty one, or one with times that cannot be.
    """

    def __init__(self, path: Path, pipeline: str) -> None:
        self._times: list[float] = []
        self._offsets: list[int] = []
        self._by_instance: dict[tuple[str, int], list[int]] = {}
        self._file = _open_for_reading(path)
        try:
            self._head(path, pipeline)
            self._index(path)
            if not self._times:
                raise OperatorError(f"{path} has no snapshot in it")
        except BaseException:
            self._file.close()
            raise
        self.began, self.ended = self._times[0], self._times[-1]

    def _head(self, path: Path, pipeline: str) -> None:
        try:
            head = json.loads(self._file.readline())
            version, recorded, self.interval_s = head["recording"], head["pipeline"], float(head["interval_s"])
        except (ValueError, KeyError, TypeError):
            raise OperatorError(f"{path} is no recording: make one with `zpipe monitor … --record FILE`") from None
        if not (math.isfinite(self.interval_s) and 0.0 < self.interval_s < LATEST_S):
            raise OperatorError(f"{path}:1: its interval_s is {self.interval_s:g}, which is no time between snapshots")
        if version != VERSION:
            raise OperatorError(f"{path} is a recording of version {version}, not {VERSION}")
        if recorded != pipeline:
            raise OperatorError(
                f"{path} is a recording of pipeline {recorded!r}, and the config is that of {pipeline!r}"
            )

    def _index(self, path: Path) -> None:
        offset = self._file.tell()
        for number, line in enumerate(self._file, 2):
            row = _parsed_row(line)
            if row is not None:
                if problem := _impossible(row["at"], self._times):
                    raise OperatorError(
                        f"{path}:{number}: {problem}: the file is damaged, or was put together of several"
                    )
                key = str(row["snapshot"].get("stage")), int(row["snapshot"].get("instance", 0))
                self._by_instance.setdefault(key, []).append(len(self._times))
                self._times.append(max(row["at"], self._times[-1] if self._times else row["at"]))
                self._offsets.append(offset)
            offset += len(line)

    def until(self, at: float) -> Iterator[tuple[float, dict[str, Any]]]:
        """What is needed to know the pipeline at `at`: every snapshot of the window before it, and the last snapshot of each
        instance that published none in that window."""
        stop = bisect_right(self._times, at)
        start = bisect_right(self._times, at - WINDOW_INTERVALS * self.interval_s)
        older = [numbers[i - 1] for numbers in self._by_instance.values() if (i := bisect_right(numbers, start - 1))]
        yield from self._sound([*sorted(older), *range(start, stop)])

    def between(self, after: float, at: float) -> Iterator[tuple[float, dict[str, Any]]]:
        """The snapshots later than `after`, up to `at`."""
        yield from self._sound(range(bisect_right(self._times, after), bisect_right(self._times, at)))

    def _sound(self, numbers: Iterable[int]) -> Iterator[tuple[float, dict[str, Any]]]:
        """Those of them that are sound, since somebody may have edited the file."""
        for number in numbers:
            self._file.seek(self._offsets[number])
            snapshot = taken_in(json.loads(self._file.readline())["snapshot"])
            if snapshot is not None:
                yield self._times[number], snapshot

    def close(self) -> None:
        self._file.close()


def _parsed_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line, parse_int=_count_from_digits) if _MANY_DIGITS.search(line) else json.loads(line)
    except ValueError:
        return None
    sound = isinstance(row, dict) and isinstance(row.get("at"), int | float) and isinstance(row.get("snapshot"), dict)
    return row if sound and isinstance(row["snapshot"].get("instance"), int) else None


def _impossible(at: float, before: list[float]) -> str:
    """Why a time cannot be that of the snapshot after these; "" if it can."""
    if not is_possible_time(at):
        return f"{str(at)[:20]} is no time since 1970"
    step = at - before[-1] if before else 0.0
    if step < -MOST_BACK_S:
        return f"its time is {-step:,.0f} s before that of the snapshot before it"
    return (
        f"its time is {step / 86400.0:,.0f} days after that of the snapshot before it" if step > MOST_FORWARD_S else ""
    )


def _count_from_digits(digits: str) -> int:
    """Like every count of a snapshot it has 64 bits; raises ValueError for one with which nothing can be computed."""
    number = int(digits)
    if number.bit_length() > 64:
        raise ValueError(digits)
    return number


def _open_new(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "xb", compresslevel=5))
    return path.open("xb")


def _open_for_reading(path: Path) -> IO[bytes]:
    """The file, or a temporary one of what is compressed in it: a recording is read back and forth."""
    try:
        if path.suffix != ".gz":
            return path.open("rb")
        copy: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        unpack = zlib.decompressobj(_GZIP)  # not gzip.open: of a torn end it gives nothing
        with path.open("rb") as packed:
            while block := packed.read(1 << 20):
                copy.write(unpack.decompress(block))
        copy.seek(0)
        return copy
    except zlib.error:
        copy.close()
        raise OperatorError(f"{path} is named .gz and is not compressed so") from None
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror or error}") from None
