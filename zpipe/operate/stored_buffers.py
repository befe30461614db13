"""The disk buffers of a pipeline's instances on this machine: what is in them, whether it is whole, and dropping it.

Must not live here: asking a running instance. All of this reads files, also while their instance runs; `drop` alone writes, and
its caller has made sure that the instance does not run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from zpipe.config import InstanceKey, PipelineConfig
from zpipe.config.targets import read_stage_target
from zpipe.core.buffer.record import HINT_BYTES
from zpipe.core.ranges import RangeSet
from zpipe.core.wire import section
from zpipe.errors import NoPeerError, OperatorError, PeerError, TargetError
from zpipe.folders import BUFFERS, denied
from zpipe.runtime.places import Places
from zpipe.runtime.segment_folder import (
    BAD_FOLDER,
    BufferFolder,
    Damage,
    Disk,
    Segment,
    SegmentFile,
    SegmentReader,
    Whole,
    hints_path,
    is_lost,
    segment_path,
    stored_times,
)


class BufferListing(NamedTuple):
    """What a buffer has.

    messages     that are stored and not finished;  finished  in its segments, and no longer wanted
    first, next  number of the first message that is wanted, and of the first that is not used;  damaged: places kept in `bad`
    oldest_at    when the first of them was stored, in seconds since the epoch; None if there is none
    unreadable   segments that the disk does not give in whole, which may have more messages
    """

    folder: Path
    identity: str
    messages: int
    finished: int
    first: int
    next: int
    segments: int
    disk_bytes: int
    damaged: int
    unreadable: int
    oldest_at: float | None


class DamagedPlace(NamedTuple):
    """Bytes [start, stop) of a segment are no record; (0, 0): it cannot be opened.

    messages  so many are missing there, as far as that is known
    error     why the disk does not give them now, in words; "": they are lost
    """

    segment: str
    start: int
    stop: int
    messages: int
    error: str = ""


class Verification(NamedTuple):
    """What reading every record gave.

    unfinished_bytes  at the end of the last segment, of a write that is under way or was cut off
    """

    records: int
    messages: int
    bytes: int
    damages: tuple[DamagedPlace, ...]
    unfinished_bytes: int

    @property
    def whole(self) -> bool:
        return not self.damages


class StoredMessage(NamedTuple):
    """A message as it waits in a buffer. `number`: of its link; origin: seconds since the epoch."""

    number: int
    id: str
    origin: float
    attempt: int
    headers: dict[str, Any] | None
    payload: Any


class Dropped(NamedTuple):
    """So many messages are not sent any more, and so many bytes are free now."""

    messages: int
    bytes: int


class StoredBuffers:
    """Raises NoPeerError if no instance of the pipeline has a state folder here, and OperatorError if one cannot be looked into.

    A buffer's name is STAGE.N/CONSUMER, or STAGE.N/OUTLET.CONSUMER.
    """

    def __init__(self, config: PipelineConfig, env: Mapping[str, str]) -> None:
        self.config = config
        self._places = Places(config, env)
        instances = [(stage, number) for stage in config.stages for number in self._places.stored(stage)]
        if not instances:
            where = self._places.state("", 0).parent
            raise NoPeerError(
                f"nothing of pipeline {config.name!r} is kept in {where}: has it run on this machine, as this user?"
            )
        self._folders = {name: found for key in instances for name, found in self._of_instance(key)}

    def _of_instance(self, key: InstanceKey) -> Iterator[tuple[str, tuple[InstanceKey, Path]]]:
        root = self._places.state(*key) / BUFFERS
        try:
            folders = sorted(path for path in root.iterdir() if path.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return
        except PermissionError as error:
            raise denied(root, error, "look into") from None
        for folder in folders:
            yield f"{key[0]}.{key[1]}/{folder.name.removeprefix('_.')}", (key, folder)

    def find(self, targets: Iterable[str] = ()) -> dict[str, Path]:
        """Folders of buffers by name. A target is a buffer's name, or a STAGE or STAGE.N for all that it has; no target: all.
        Raises TargetError for a target without a buffer."""
        targets = list(targets)
        found: dict[str, Path] = {}
        for target in targets:
            chosen = {name: path for name, (key, path) in self._folders.items() if self._named(target, name, key)}
            if not chosen:
                known = ", ".join(self._folders) or "none"
                raise TargetError(f"there is no disk buffer {target!r} on this machine; there are {known}")
            found |= chosen
        return found if targets else {name: path for name, (_, path) in self._folders.items()}

    def _named(self, target: str, name: str, key: InstanceKey) -> bool:
        if "/" in target:
            return target == name
        stage, number = read_stage_target(self.config, target)
        return key[0] == stage and number in (None, key[1])

    def check_at_rest(self, names: Iterable[str]) -> None:
        """Raises OperatorError if an instance that has one of these buffers runs."""
        for stage, number in sorted({self._folders[name][0] for name in names}):
            if self._places.alive(stage, number):
                hint = "stop it first, such as by `zpipe drain --leave-buffers`"
                raise OperatorError(f"{stage}.{number} runs and has its disk buffers open: {hint}")


def list_buffer(folder: Path) -> BufferListing:
    """What the buffer in this folder has. Raises OperatorError if the folder cannot be read."""
    found = _read(folder)
    finished = _finished(found)
    stored = RangeSet()
    for segment in found.segments:
        stored.add(segment.first, segment.stop)
    wanted = list(stored.minus(finished))
    messages = sum(stop - start for start, stop in wanted)
    next_number = found.segments[-1].stop if found.segments else 1
    return BufferListing(
        folder=folder,
        identity=found.identity.hex() if found.identity else "",
        messages=messages,
        finished=sum(stop - start for start, stop in stored) - messages,
        first=wanted[0][0] if wanted else next_number,
        next=next_number,
        segments=len(found.segments),
        disk_bytes=sum(segment.bytes for segment in found.segments),
        damaged=_damaged(folder),
        unreadable=sum(segment.unread for segment in found.segments),
        oldest_at=next((at for _, at in stored_times(Disk(), found, finished)), None),
    )


def _damaged(folder: Path) -> int:
    try:
        return len(list((folder / BAD_FOLDER).iterdir()))
    except OSError:
        return 0


def verify(folder: Path) -> Verification:
    """Reads every record and compares its checksums. Raises OperatorError if the folder cannot be read."""
    found = _read(folder)
    damages: list[DamagedPlace] = []
    records = messages = size = 0
    for segment in found.segments:
        number, at = segment.first, -1
        for one in _records(folder, segment):
            if isinstance(one, DamagedPlace):
                damages.append(one)
                at = len(damages) - 1 if at < 0 else at
                continue
            if at >= 0:
                damages[at] = damages[at]._replace(messages=one.header.first - number)
                at = -1
            number = one.header.stop
            records += 1
            messages += one.header.messages
            size += one.header.size
        if at >= 0:
            damages[at] = damages[at]._replace(messages=segment.stop - number)
    last = found.segments[-1] if found.segments else None
    unfinished = 0 if last is None or last.complete or last.unread else max(last.bytes - last.end, 0)
    return Verification(records, messages, size, tuple(damages), unfinished)


def show(folder: Path, first: int = 0) -> Iterator[StoredMessage]:
    """The messages that are wanted, from this number on, in order. What is damaged is passed over. Raises OperatorError if the
    folder cannot be read."""
    found = _read(folder)
    finished = _finished(found)
    for segment in found.segments:
        if segment.stop <= first:
            continue
        for one in _records(folder, segment):
            if isinstance(one, DamagedPlace) or one.header.stop <= first:
                continue
            start = one.header.first
            try:
                columns = section.decode(one.body, one.header.messages).filled()
            except PeerError:
                continue
            assert columns.headers is not None
            rows = zip(columns.ids, columns.origins, columns.headers, columns.payloads, strict=True)
            for number, (id, origin, headers, payload) in enumerate(rows, start):
                if number >= first and number not in finished:
                    yield StoredMessage(number, id, origin, one.header.attempt, headers, payload)


def drop(folder: Path, until: int | None = None) -> Dropped:
    """Drops all messages, or those numbered below `until`: they are not sent any more. The instance must not run. Raises
    OperatorError if the folder cannot be read or written.

    The last segment stays, since its name says with which number to go on: its messages are noted as finished. A segment that
    cannot be read in whole stays, unless everything that it may hold is dropped.
    """
    found = _read(folder)
    finished = _finished(found)
    messages = free = 0
    try:
        afters = [*(segment.first for segment in found.segments[1:]), 0]
        for segment, after in zip(found.segments, afters, strict=False):
            stop = segment.stop if until is None else min(until, segment.stop)
            whole = stop == segment.stop and (not segment.unread or until is None or until >= after)
            asked = RangeSet()
            asked.add(segment.first, stop)
            ranges = list(asked.minus(finished))
            messages += sum(high - low for low, high in ranges)
            if whole and segment is not found.segments[-1]:
                segment_path(folder, segment.first).unlink(missing_ok=True)
                hints_path(folder, segment.first).unlink(missing_ok=True)
                free += segment.bytes
            elif ranges:
                with hints_path(folder, segment.first).open("ab") as file:
                    file.truncate(file.tell() - file.tell() % HINT_BYTES)  # an entry that was cut off by a kill
                    file.write(b"".join(segment.codec.write_hint(low, high) for low, high in ranges))
    except OSError as error:
        raise OperatorError(f"cannot drop what is in {folder}: {error.strerror}") from None
    return Dropped(messages, free)


def _read(folder: Path) -> BufferFolder:
    try:
        return BufferFolder(Disk(), folder)
    except OSError as error:
        raise OperatorError(f"cannot read the disk buffer {folder}: {error.strerror}") from None


def _finished(found: BufferFolder) -> RangeSet:
    finished = RangeSet()
    for start, stop in found.finished():
        finished.add(start, stop)
    return finished


def _records(folder: Path, segment: Segment) -> Iterator[Whole | DamagedPlace]:
    """The records of a segment, and its damaged places; none if it was removed meanwhile."""
    path = segment_path(folder, segment.first)
    try:
        file = SegmentFile(Disk(), path)
    except FileNotFoundError:
        return
    except OSError as error:
        yield DamagedPlace(path.name, 0, 0, 0, "" if is_lost(error) else _words(error))
        return
    try:
        reader = SegmentReader(file, segment.codec, segment.first, segment.stop, segment.end)
        while (one := reader.next()) is not None:
            if isinstance(one, Damage):
                unread = file.error if file.is_unread(one.start, one.stop) else None
                yield DamagedPlace(path.name, one.start, one.stop, 0, _words(unread))
            else:
                yield one
        if segment.unread and file.error is not None and segment.end < segment.bytes:
            yield DamagedPlace(path.name, segment.end, segment.bytes, 0, _words(file.error))
    finally:
        file.close()


def _words(error: OSError | None) -> str:
    return "" if error is None else error.strerror or str(error)
