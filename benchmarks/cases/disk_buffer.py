"""N14: a disk buffer beside SQLite in the same run: storing with a sync for each batch, reading what was stored, opening 1 GB.

Both get the same sections, as encoded by a stage, and nothing is acked before it is durable: 20,000 messages wait at most. SQLite
has a row for each section, its log ahead of the file, and commits all that waits at once, as the disk buffer does.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from benchmarks.benchmark import Benchmark, Effort, Side
from benchmarks.figures import Comparison, Goal, Metrics, at_least, at_most
from benchmarks.payloads import FLAT
from zpipe.core.buffer.disk_buffer import DiskBuffer
from zpipe.core.buffer.orders import Append, BufferEvent, Durable
from zpipe.core.ledger import Derivation
from zpipe.core.policy import Bound, BufferPolicy
from zpipe.core.wire import section
from zpipe.core.wire.section import Section
from zpipe.core.work.task import Chunk
from zpipe.daemon.storage.segment_log import SegmentLog

SECTION_MESSAGES = 256
UNACKED = Bound(20_000, 128 << 20)
POLICY = BufferPolicy(bytes=20 << 30)
GIGABYTE = 1_000_000_000
WAIT_S = 60.0


def _sections(messages: int) -> list[bytes]:
    """Of 90-byte messages, as a stage encodes them."""
    made = []
    for start in range(0, messages, SECTION_MESSAGES):
        ids = [f"benchmark:{start + n}" for n in range(SECTION_MESSAGES)]
        payloads = [{"id": start + n, **FLAT.constant()} for n in range(SECTION_MESSAGES)]
        made.append(section.encode(ids, [1.7e9] * SECTION_MESSAGES, payloads, None, "msgpack"))
    return made


class _Consumers:
    """They take nothing before they are told to."""

    def __init__(self) -> None:
        self.unsent: deque[Section] = deque()
        self.unsent_bytes = 0
        self.taken = 0

    def put(self, section: Section) -> None:
        self.unsent.append(section)
        self.unsent_bytes += section.size

    def take(self) -> None:
        while self.unsent:
            one = self.unsent.popleft()
            self.unsent_bytes -= one.size
            self.taken += one.count
            one.settle()


class _Buffer:
    """A disk buffer with its log on a thread, and the loop of a stage that does nothing else."""

    def __init__(self, folder: Path) -> None:
        self.events: SimpleQueue[BufferEvent] = SimpleQueue()
        self.log = SegmentLog(folder, POLICY, self.events.put)
        self.consumers = _Consumers()
        self.buffer = DiskBuffer(POLICY, UNACKED, self.log.open(), self.consumers)
        self.log.start()

    def turn(self) -> None:
        for order in self.buffer.orders():
            self.log.perform(order)
        self.buffer.heard(self.events.get(timeout=WAIT_S))
        while not self.events.empty():
            self.buffer.heard(self.events.get())

    def store(self, bodies: list[bytes]) -> None:
        for body in bodies:
            while self.buffer.room < SECTION_MESSAGES:
                self.turn()
            self.buffer.offer(Chunk("", SECTION_MESSAGES, body), Derivation(()))
        while self.buffer.pending_messages:
            self.turn()

    def read(self) -> None:
        self.consumers.take()
        while self.buffer.stored_messages:
            self.turn()
            self.consumers.take()


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="zpipe-bench-") as name:
        yield Path(name)


@contextmanager
def _timed(metrics: dict[str, float], name: str, messages: int) -> Iterator[None]:
    """Messages a second, and the CPU time of all threads for each."""
    began, cpu = time.perf_counter(), time.process_time()
    yield
    metrics[f"{name}_rate"] = messages / (time.perf_counter() - began)
    metrics[f"{name}_cpu_us"] = (time.process_time() - cpu) / messages * 1e6


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _count(effort: Effort) -> int:
    return 262_144 if effort.quick else 1_048_576


def _zpipe(effort: Effort) -> Metrics:
    bodies = _sections(_count(effort))
    messages = len(bodies) * SECTION_MESSAGES
    metrics: dict[str, float] = {}
    with _folder() as folder:
        one = _Buffer(folder)
        with _timed(metrics, "store", messages):
            one.store(bodies)
        metrics["size"] = _bytes_of(folder) / sum(map(len, bodies))
        one.log.close()
        again = _Buffer(folder)
        with _timed(metrics, "read", messages):
            again.read()
        again.log.close()
        assert again.consumers.taken == messages
    return metrics


def _sqlite(effort: Effort) -> Metrics:
    bodies = _sections(_count(effort))
    messages = len(bodies) * SECTION_MESSAGES
    at_once = UNACKED.messages // SECTION_MESSAGES
    metrics: dict[str, float] = {}
    with _folder() as folder:
        connection = sqlite3.connect(folder / "buffer.sqlite", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(
            "CREATE TABLE sections (first INTEGER PRIMARY KEY, messages INTEGER, attempt INTEGER, body BLOB)"
        )
        rows = [(1 + n * SECTION_MESSAGES, SECTION_MESSAGES, 1, body) for n, body in enumerate(bodies)]
        with _timed(metrics, "store", messages):
            for start in range(0, len(rows), at_once):
                connection.execute("BEGIN")
                connection.executemany("INSERT INTO sections VALUES (?, ?, ?, ?)", rows[start : start + at_once])
                connection.execute("COMMIT")
        metrics["size"] = _bytes_of(folder) / sum(map(len, bodies))
        taken = 0
        with _timed(metrics, "read", messages):
            while found := connection.execute("SELECT * FROM sections ORDER BY first LIMIT ?", (at_once,)).fetchall():
                taken += sum(row[1] for row in found)
                connection.execute("DELETE FROM sections WHERE first <= ?", (found[-1][0],))
        connection.close()
        assert taken == messages
    return metrics


def _opening(effort: Effort) -> Metrics:
    """After a life that did not end in order, so that the last segment has to be read."""
    body = bytes(1 << 20) if effort.quick else b"".join(_sections(SECTION_MESSAGES))
    with _folder() as folder:
        events: SimpleQueue[BufferEvent] = SimpleQueue()
        log = SegmentLog(folder, POLICY, events.put)
        found = log.open()
        number, written = found.next_number, 0
        while written < GIGABYTE:
            group = [Append(number + n * SECTION_MESSAGES, SECTION_MESSAGES, 1, body) for n in range(128)]
            log.turn(group, time.monotonic())
            number += len(group) * SECTION_MESSAGES
            written += len(group) * len(body)
        assert any(isinstance(events.get(), Durable) for _ in range(events.qsize()))
        began, cpu = time.perf_counter(), time.process_time()
        again = SegmentLog(folder, POLICY, events.put).open()
        seconds, used = time.perf_counter() - began, time.process_time() - cpu
        assert again.disk_bytes >= GIGABYTE and again.segments[-1].stop == number
    return {"open_s": seconds, "cpu_s": used}


def _row(what: str, unit: str, metric: str, goal: Goal | None = None) -> Comparison:
    return Comparison(what, unit, ("zpipe", metric), ("SQLite", metric), goal)


BENCHMARKS = (
    Benchmark(
        "N14.buffer",
        "a disk buffer, with a sync for each batch",
        [Side("zpipe", _zpipe), Side("SQLite", _sqlite)],
        [
            _row("90-byte messages stored", "messages/s", "store_rate", at_least(150_000)),
            _row("CPU to store one", "us CPU/message", "store_cpu_us", at_most(0.4)),
            _row("read again", "messages/s", "read_rate"),
            _row("CPU to read one", "us CPU/message", "read_cpu_us", at_most(0.4)),
            _row("on the disk, of what was stored", "x", "size", at_most(1.04)),
        ],
    ),
    Benchmark(
        "N14.open",
        "a disk buffer of 1 GB opens, after a kill",
        [Side("zpipe", _opening)],
        [Comparison("1 GB is open", "s", ("zpipe", "open_s"), None, at_most(0.3))],
    ),
)
