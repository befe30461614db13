"""Real pipelines with a known bottleneck, all at once: the monitor names the right stage and reason, and stays with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pipeline import Pipeline, wait_until
from service import Service

from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.operate.watch import Watch
from zpipe.runtime.places import Places

DEADLINE_S = 100.0
HEAD = """
[pipeline]
name = "{name}"

[telemetry]
interval = "200ms"

[stages.read]
plugin = "./source.py"
options = {{ pace = {pace} }}
{read}

[stages.work]
input = "read"
{work}

[stages.store]
input = "work"
{store}
"""
SOURCE = """
import time
from dataclasses import dataclass
from zpipe import hookimpl


@dataclass
class Options:
    pace: float


@hookimpl
def zpipe_options():
    return Options


@hookimpl
def zpipe_source(context):
    n = 0
    while not context.stopping.is_set():
        yield n, {"id": n}
        n += 1
        time.sleep(context.options.pace)
"""
TAKE = """
import time


def ms(row, number):
    time.sleep(number / 1000)
    return row


def quick(row):
    return row


def slow(row):
    return ms(row, 40)


def computes(row):
    end = time.thread_time() + 0.03
    while time.thread_time() < end:
        pass
    return row


def slower(row):
    return ms(row, 150)


seen = {}


def third_time(row):
    seen[row["id"]] = seen.get(row["id"], 0) + 1
    if seen[row["id"]] < 3:
        raise RuntimeError("unavailable")
    return row
"""
BATCH = """
import time
from zpipe import hookimpl


@hookimpl
def zpipe_process_batch(messages):
    time.sleep(0.02 * len(messages))
"""


def takes(function: str, more: str = "") -> str:
    return f'plugin = "python"\noptions = {{ function = "take:{function}" }}\n{more}'


@dataclass
class Case:
    """`needed`: how many instances of `slow` would keep up with the source; None: no number of them would help.

    advises  what stands in the advice, one of these at least
    """

    slow: str
    kind: str
    needed: int | None
    pace: float
    work: str
    store: str = takes("quick")
    read: str = ""
    advises: tuple[str, ...] = ()


CASES = {
    "source": Case("read", "source", None, 0.02, takes("quick")),
    "middle": Case("work", "working", 4, 0.01, takes("slow")),
    "sink": Case("store", "working", 4, 0.01, takes("quick"), takes("slow")),
    "batch": Case("store", "working", 2, 0.01, takes("quick"), 'plugin = "./batch.py"\nbatch = { messages = 20 }'),
    "fanout": Case("work", "working", 8, 0.005, takes("slow", "instances = 2")),
    "rate": Case("work", "limited", None, 0.01, takes("slower", "limit = { rate = 5 }")),
    "retries": Case(
        "work", "retrying", None, 0.01, takes("third_time", 'retry = { delay = "1s" }\nqueue = { messages = 20 }')
    ),
    "bound": Case("store", "working", 4, 0.01, takes("quick"), takes("slow"), "unacked = { messages = 20 }"),
}
AIMD = """plugin = "http"
retry = {{ delay = "100ms", max_delay = "1s" }}
limit = {{ start = 2, max = 32 }}
options = {{ url = "http://127.0.0.1:{port}/items/{{id}}", field = "answer" }}
"""


class Watched:
    """A pipeline that runs, and what the monitor has made of it. `named`: the verdicts, one a snapshot of the source."""

    def __init__(self, home: Path, name: str, case: Case) -> None:
        self.case = case
        home.mkdir()
        text = HEAD.format(name=name, pace=case.pace, read=case.read, work=case.work, store=case.store)
        self.pipeline = Pipeline(home, text, source=SOURCE, take=TAKE, batch=BATCH)
        self.pipeline.run()
        self._watch = Watch(self.pipeline.config, Places(self.pipeline.config, self.pipeline.env))
        self._model = PipelineModel(self.pipeline.config)
        self.named: list[dict[str, Any]] = []
        self._closed = False

    def poll(self) -> None:
        for snapshot in self._watch.poll(0.0):
            self._model.add(snapshot)
            if snapshot["stage"] == "read":
                self.named.append(self._model.as_json(snapshot["at"])["bottleneck"] or {})

    def right(self) -> bool:
        """It is named in each of the last 20 intervals."""
        case, last = self.case, self.named[-20:]
        return len(last) == 20 and all(map(self._fits, last)) and case is not None

    def advised(self) -> bool:
        """In each of the last 5 intervals."""
        last = [found.get("advice", "") for found in self.named[-5:]]
        return len(last) == 5 and all(any(words in said for words in self.case.advises) for said in last)

    def _fits(self, found: dict[str, Any]) -> bool:
        case, needed = self.case, found.get("instances_needed")
        if (found.get("stage"), found.get("kind")) != (case.slow, case.kind):
            return False
        return needed is None if case.needed is None else needed is not None and abs(needed - case.needed) <= 1

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._watch.close()
            self.pipeline.kill_all()


def all_are(condition: Callable[[Watched], bool], watched: dict[str, Watched]) -> bool:
    """Whether the condition was true of each at some time. Its pipeline is ended then, so that the others have the machine: what
    one does without a processor is another bottleneck than its own."""
    for name, one in list(watched.items()):
        one.poll()
        if condition(one):
            one.close()
            del watched[name]
    return not watched


@pytest.fixture
def service() -> Iterator[Service]:
    with Service(capacity=4, seconds=0.05) as service:
        yield service


def test_the_advice_depends_on_what_the_calls_spend_their_time_on(home: Path) -> None:
    """By the CPU time that the instance measures beside the time of its calls. A machine without a core left is told apart."""
    computes = "instances more bring about ", "instance more brings about ", "its machine has no CPU left"
    cases = {
        "waits": Case("work", "working", 4, 0.01, takes("slow"), advises=("`workers.count = ",)),
        "computes": Case("work", "working", None, 0.01, takes("computes"), advises=computes),
    }
    with ExitStack() as stack:
        watched = {}
        for name, case in cases.items():
            watched[name] = one = Watched(home / name, name, case)
            stack.callback(one.close)

        try:
            wait_until(lambda: all_are(Watched.advised, watched), "both are advised", DEADLINE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: { {name: one.named[-3:] for name, one in watched.items()} }") from None


def test_each_is_named_with_its_reason_and_for_as_long_as_it_is_the_limit(home: Path, service: Service) -> None:
    cases = CASES | {"aimd": Case("work", "limited", None, 0.001, AIMD.format(port=service.port))}
    with ExitStack() as stack:
        watched = {}
        for name, case in cases.items():
            watched[name] = Watched(home / name, name, case)
            stack.callback(watched[name].close)

        try:
            wait_until(lambda: all_are(Watched.right, watched), "every bottleneck is named", DEADLINE_S)
        except AssertionError as error:
            wrong = {name: one.named[-1:] for name, one in watched.items()}
            raise AssertionError(f"{error}: {wrong}") from None
