"""A worker pool on its own, as the daemon has one: tasks in, results out, no pipeline around it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from zpipe import plugin_loading
from zpipe.config import load
from zpipe.core.policy import LinkPolicy
from zpipe.core.wire import section
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Producer, Slice
from zpipe.core.work.task import CallHistory, Chunk, Result, Task
from zpipe.daemon.loop_handover import Handover
from zpipe.daemon.plugin.async_thread import AsyncThread
from zpipe.daemon.stage_policy import hold_refusal
from zpipe.daemon.storage.call_journal import CallJournal
from zpipe.daemon.workers.pool import Pool, make_pool
from zpipe.hookspecs import Context, Holds

DEADLINE_S = 60.0
CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"

[stages.work]
input = "read"
{plugin}
workers = {{ {workers} }}
{more}

[stages.out]
input = "work"
plugin = "discard"
"""


class Bench:
    """A pool with a plugin, and what it reports."""

    def __init__(self, folder: Path, source: str, workers: str, more: str = "", plugin: str = "") -> None:
        self.folder = folder
        self.output_room = threading.Event()
        self.output_room.set()
        self.handover = Handover()
        self.async_thread = AsyncThread(logging.getLogger("zpipe"))
        self.early: list[list[Chunk]] = []
        self.on_early: Callable[[], None] = lambda: None
        self.here: list[tuple[Task, Result]] = []
        self._results: SimpleQueue[tuple[Task, Result]] = SimpleQueue()
        (folder / "work.py").write_text(source)
        path = folder / "p.toml"
        path.write_text(CONFIG.format(plugin=plugin or 'plugin = "./work.py"', workers=workers, more=more))
        config = load(path)
        settings = config.stages["work"]
        self.plugin = plugin_loading.load(settings.plugin, folder)
        self.context = Context(
            "p",
            "work",
            1,
            "abc",
            settings.options,
            folder,
            folder,
            logging.getLogger("zpipe"),
            batching="batch" in more,
            holds=Holds(refusal=hold_refusal(settings)),
        )
        self.link = LinkPolicy()
        self.pool: Pool = make_pool(
            config,
            self.plugin,
            self.context,
            self.link,
            CallJournal(folder / "calls", settings.workers.count),
            self._emitted,
            lambda task, result: self._results.put((task, result)),
            lambda task, result: self.here.append((task, result)),
            logging.getLogger("zpipe"),
            self.handover,
            self.async_thread,
        )

    def _emitted(self, task: Task, chunks: list[Chunk]) -> None:
        self.early.append(chunks)
        self.on_early()
        self.output_room.wait()

    def run(self, task: Task) -> Result:
        self.pool.put(task)
        return self.result()[1]

    def result(self) -> tuple[Task, Result]:
        return self._results.get(timeout=DEADLINE_S)


@contextmanager
def bench(
    folder: Path, source: str, workers: str = 'kind = "process"', more: str = "", plugin: str = ""
) -> Iterator[Bench]:
    """`source` is work.py, which is the plugin unless `plugin` says otherwise."""
    made = Bench(folder, source, workers, more, plugin)
    try:
        if plugin:
            made.plugin.hooks["zpipe_open"](made.context)
        made.pool.start()
        yield made
    finally:
        made.pool.close()
        made.async_thread.close()


def section_of(payloads: list[Any]) -> Section:
    count = len(payloads)
    return Section(section.encode([f"read:{n}" for n in range(count)], [1e9] * count, payloads, None), count)


PRODUCER = Producer("read", "", 1, "i")


def piece(of: Section, start: int, stop: int) -> Slice:
    return Slice(Delivery([of], lambda delivery: None, PRODUCER), of, 0, start, stop, 0.0)


def task(payloads: list[Any], batch: bool = False, history: CallHistory | None = None) -> Task:
    whole = section_of(payloads)
    return Task(1, [piece(whole, 0, whole.count)], history or CallHistory(), batch)


def payloads(result: Result) -> list[Any]:
    return [payload for chunk in result.chunks for payload in section.decode(chunk.body, chunk.messages)[2]]


def _stat(pid: int | str) -> tuple[str, int]:
    """Its state and its parent. Raises OSError if it is gone."""
    state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[:2]
    return state, int(parent)


def children() -> set[int]:
    """The processes that this one has started and that live."""
    found = set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and _stat(entry.name)[1] == os.getpid() and _stat(entry.name)[0] not in "ZX":
                found.add(int(entry.name))
    return found


def wait_gone(pid: int) -> None:
    """Until a process that is not ours has been killed."""
    with suppress(OSError):
        wait_for(lambda: _stat(pid)[0] in "ZX", f"{pid} is gone")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    pause = threading.Event()
    for _ in range(int(DEADLINE_S / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError(f"never: {what}")
