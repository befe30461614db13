"""Worker processes: what they give back, and what becomes of the messages of one that dies."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path

import pytest
from pools import bench, children, payloads, piece, section_of, task, wait_for, wait_gone

from zpipe.core.work.delivery import Slice
from zpipe.core.work.task import CallHistory, Task, Verdict
from zpipe.daemon.plugin.task_run import EARLY_MESSAGES
from zpipe.daemon.workers import worker_process
from zpipe.errors import OperatorError

PLUGIN = """
import ctypes
import itertools
import os
import signal
import sys
import time

from zpipe import DROP, Message, Reject, hookimpl

kept = []


@hookimpl
def zpipe_open(context):
    context.scratch = os.getpid()


@hookimpl
def zpipe_process(message, context):
    match message.payload:
        case "pid":
            return os.getpid()
        case "attempt":
            return message.attempt
        case "drop":
            return DROP
        case "reject":
            raise Reject("never")
        case "raise":
            raise ValueError("bad")
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(1000)
        case "eat":
            kept.append(bytearray(os.urandom(1) * (300 << 20)))
            time.sleep(1000)
        case "grow":
            kept.append(bytearray(os.urandom(1) * (300 << 20)))
        case "fork":
            if os.fork() == 0:
                (context.state_dir / "forked").write_text(str(os.getpid()))
                time.sleep(1000)
            forked = context.state_dir / "forked"
            while not (forked.exists() and forked.read_text()):
                time.sleep(0.01)
            os._exit(6)
        case "close":
            os.closerange(3, 64)
            time.sleep(1000)
        case "speak":
            os.write(max(int(fd) for fd in os.listdir("/proc/self/fd") if is_socket(fd)), b"\\0\\0\\0\\2nonsense")
        case ["many", count]:
            return (n for n in range(count))
        case ["die at", count]:
            return dying(count)
        case "endless":
            return itertools.count()
        case "endless and slow":
            return (time.sleep(0.001) or n for n in itertools.count())
    return message.payload


def dying(count):
    yield from range(count)
    os._exit(4)


def is_socket(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:
        return False


@hookimpl
def zpipe_process_batch(messages, context):
    if any(message.payload == "exit" for message in messages):
        os._exit(3)
    return [message.payload for message in messages]
"""


def test_outputs_come_with_their_owners_and_failures_with_their_verdicts(tmp_path: Path) -> None:
    with bench(tmp_path, PLUGIN) as pool:
        result = pool.run(task(["a", "raise", "drop", "reject", {"id": 4}]))
        assert payloads(result) == ["a", {"id": 4}]
        assert [list(chunk.owners or ()) for chunk in result.chunks] == [[0, 4]]
        assert (result.filtered, len(result.ages)) == (1, 1) and result.seconds > 0
        bad, never = result.failures
        assert (bad.index, bad.reason, bad.verdict) == (1, "ValueError: bad", Verdict.RETRY)
        assert "work.py" in bad.traceback
        assert (never.index, never.reason, never.verdict, never.traceback) == (3, "never", Verdict.REJECT, "")
        assert payloads(pool.run(task(["attempt"], history=CallHistory(attempts=1, deaths=1)))) == [3]


MEASURES = """
import os
import signal
import zpipe


class Measures(zpipe.Map[None]):
    def open(self, context):
        context.metrics.counter("opened").inc()
        context.metrics.gauge("mine").inc()

    def process(self, message, context):
        context.metrics.counter("hits").inc()
        context.metrics.histogram("size").observe(message.payload)
        context.metrics.gauge("under_way").inc()
        context.metrics.gauge("last").set(message.payload)
        if message.payload == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        if message.payload < 4:
            context.metrics.gauge("under_way").inc(-1)
        return 1
"""


def test_metrics_of_worker_processes_add_up_and_outlive_them(tmp_path: Path) -> None:
    with bench(tmp_path, MEASURES, 'kind = "process", count = 2') as pool:
        metrics = pool.context.metrics
        assert metrics.figures() == {"plugin_counters": {"opened": 2.0}, "plugin_gauges": {"mine": 2.0}}
        for number in (1, 2):
            assert payloads(pool.run(task([1, 3]))) == [1, 1], number
        pool.run(task([4]))
        assert metrics.gauge("under_way").value == 1, "as it says, though it is over"
        dead = pool.run(task([8]))
        assert [failure.verdict for failure in dead.failures] == [Verdict.DEATH]
        wait_for(lambda: metrics.counter("opened").value == 3, "another process is up")
        pool.run(task([2])), pool.run(task([2]))
        figures = metrics.figures()
        assert figures["plugin_counters"] == {"opened": 3.0, "hits": 7.0}, "but for the one in the call that died"
        assert figures["plugin_histograms"]["size"]["buckets"] == [[1.0, 2], [2.0, 2], [4.0, 3]]
        assert figures["plugin_gauges"]["last"] == 2.0
        assert figures["plugin_gauges"]["mine"] == 2.0, "what the dead one had added is taken back"
    assert metrics.gauge("mine").value == metrics.gauge("under_way").value == 0.0


def test_metrics_that_differ_from_process_to_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = MEASURES.replace('counter("hits")', 'counter(f"hits_{message.payload}")')
    with bench(tmp_path, source) as pool:
        pool.context.metrics.gauge("hits_1")
        pool.run(task([1, 1, 2])), pool.run(task([1]))
        assert pool.context.metrics.figures()["plugin_counters"] == {"opened": 1.0, "hits_2": 1.0}
    [said] = [record.getMessage() for record in caplog.records if "metric.refused" in record.getMessage()]
    assert said == "event=metric.refused name=hits_1 reason=\"'hits_1' is a gauge already\""


def test_a_section_that_was_cut_into_tasks_goes_over_once(tmp_path: Path) -> None:
    with bench(tmp_path, PLUGIN) as pool:
        whole, other = section_of(list("abcdef")), section_of(["x" * 100_000, "y"])

        def part(*pieces: tuple[int, int]) -> list[Slice]:
            return [piece(whole, *one) for one in pieces]

        assert payloads(pool.run(Task(1, part((0, 2)), CallHistory(), False))) == ["a", "b"]
        assert payloads(pool.run(Task(2, part((2, 3), (4, 6)), CallHistory(), False))) == ["c", "e", "f"]
        both = [piece(other, 1, 2), *part((0, 1))]
        assert payloads(pool.run(Task(3, both, CallHistory(), False))) == ["y", "a"]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("segfault", "its worker process was killed by SIGSEGV"),
        ("exit", "its worker process exited with code 3 in the call"),
        ("kill", "its worker process was killed by SIGKILL"),
        ("hang", "its call outlived the timeout of 1 s"),
        ("close", "its worker process was killed by SIGKILL"),
        ("fork", "its worker process exited with code 6 in the call"),
        (["die at", 3], "its worker process exited with code 4 in the call"),
        (["die at", 2 * EARLY_MESSAGES], "its worker process exited with code 4 in the call"),
    ],
)
def test_only_the_message_in_the_call_is_blamed(tmp_path: Path, payload: object, reason: str) -> None:
    with bench(tmp_path, PLUGIN, 'kind = "process", timeout = "1s"') as pool:
        result = pool.run(task(["a", "b", payload, "d"]))
        assert [(f.index, f.verdict) for f in result.failures] == [
            (0, Verdict.AGAIN),
            (1, Verdict.AGAIN),
            (2, Verdict.DEATH),
            (3, Verdict.AGAIN),
        ]
        culprit = result.failures[2]
        assert culprit.reason == reason
        assert result.chunks == []
        shown = payload in ("segfault", "hang")
        assert ("zpipe_process" in culprit.traceback) == shown, culprit.traceback
        assert payloads(pool.run(task(["next"]))) == ["next"], "another process took its place"
    if payload == "fork":
        wait_gone(int((tmp_path / "forked").read_text()))


@pytest.mark.parametrize("payload", ["endless", "endless and slow"])
def test_the_timeout_covers_what_a_generator_does(tmp_path: Path, payload: str) -> None:
    """Also of one that passes outputs on faster than anybody looks, and never stops."""
    with bench(tmp_path, PLUGIN, 'kind = "process", timeout = "1s"') as pool:
        result = pool.run(task(["a", payload, "b"]))
        assert [(f.index, f.verdict) for f in result.failures] == [
            (0, Verdict.AGAIN),
            (1, Verdict.DEATH),
            (2, Verdict.AGAIN),
        ]
        assert result.failures[1].reason == "its call outlived the timeout of 1 s"
        assert payload != "endless" or pool.early, "it had passed some on"
        assert payloads(pool.run(task(["next"]))) == ["next"]


def test_a_process_that_speaks_nonsense_is_ended(tmp_path: Path) -> None:
    with bench(tmp_path, PLUGIN) as pool:
        (failure,) = pool.run(task(["speak"])).failures
        assert failure.verdict is Verdict.DEATH and failure.reason.startswith("its worker process broke off: ")
        assert payloads(pool.run(task(["next"]))) == ["next"]


@pytest.mark.parametrize(
    "does", ["context.hold(message)", "return context.release(1, [message])", "yield context.release(1, [message])"]
)
@pytest.mark.parametrize("workers", ['kind = "process"', "count = 2"])
def test_what_cannot_be_held_ends_the_stage_and_finishes_no_message(tmp_path: Path, does: str, workers: str) -> None:
    source = f"from zpipe import hookimpl\n\n\n@hookimpl\ndef zpipe_process(message, context):\n    {does}\n"
    with bench(tmp_path, source, workers) as pool:
        [failure] = pool.run(task(["a"])).failures
    assert failure.verdict is Verdict.FAIL
    assert "context.hold(...) needs workers of kind thread with count = 1, not " in failure.reason


def test_a_process_that_does_not_get_to_its_task_in_time_has_not_called_anybody(tmp_path: Path) -> None:
    """The machine may be busy: it is stopped here, for longer than a call may last."""
    before = children()
    with bench(tmp_path, PLUGIN, 'kind = "process", timeout = "100ms"') as pool:
        (pid,) = children() - before
        os.kill(pid, signal.SIGSTOP)
        pool.pool.put(task(["a"]))
        assert not threading.Event().wait(0.5)
        os.kill(pid, signal.SIGCONT)
        _, result = pool.result()
        assert payloads(result) == ["a"] and result.failures == []
        assert children() - before == {pid}


def test_a_process_that_never_gets_to_its_task_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "BEGIN_S", 0.2)
    before = children()
    with bench(tmp_path, PLUGIN, 'kind = "process", timeout = "100ms"') as pool:
        (pid,) = children() - before
        os.kill(pid, signal.SIGSTOP)
        result = pool.run(task(["a"]))
        assert payloads(result) == ["a"] and result.failures == []
        assert pool.pool.deaths == {"timeout": 1}


def test_a_batch_dies_as_one(tmp_path: Path) -> None:
    with bench(tmp_path, PLUGIN, more="batch = { messages = 3 }") as pool:
        result = pool.run(task(["a", "exit", "c"], batch=True))
        assert [f.verdict for f in result.failures] == [Verdict.DEATH] * 3
        assert payloads(pool.run(task(["a", "c"], batch=True))) == ["a", "c"]


def test_a_long_generator_waits_at_the_gate_outside_its_timeout(tmp_path: Path) -> None:
    with bench(tmp_path, PLUGIN, 'kind = "process", timeout = "1s"') as pool:
        passed = threading.Semaphore(0)
        pool.on_early = passed.release
        pool.output_room.clear()
        pool.pool.put(task([["many", 3 * EARLY_MESSAGES + 1]]))
        assert passed.acquire(timeout=60)
        assert not passed.acquire(timeout=1.5), "it goes on only when there is room"
        pool.output_room.set()
        _, result = pool.result()
        assert result.failures == []
        early = [n for chunks in pool.early for chunk in chunks for n in chunk.owners or ()]
        assert len(early) == 3 * EARLY_MESSAGES and set(early) == {0}
        assert payloads(result) == [3 * EARLY_MESSAGES]


def test_a_process_that_dies_while_it_is_idle_is_replaced_and_nobody_blamed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = children()
    with bench(tmp_path, PLUGIN) as pool, caplog.at_level(logging.WARNING, "zpipe"):
        for _ in range(5):
            (pid,) = children() - before
            os.kill(pid, signal.SIGKILL)
            # Whether it is given to the dying process or to the next, it is run once.
            (new,) = payloads(pool.run(task(["pid"])))
            assert new != pid
    assert "event=worker.died" in caplog.text and "was killed by SIGKILL" in caplog.text


def test_a_process_killed_in_a_call_from_outside_is_a_death(tmp_path: Path) -> None:
    before = children()
    with bench(tmp_path, PLUGIN) as pool:
        (pid,) = children() - before
        pool.pool.put(task(["hang"]))
        while "sleep" not in Path(f"/proc/{pid}/wchan").read_text():
            threading.Event().wait(0.01)
        os.kill(pid, signal.SIGKILL)
        _, result = pool.result()
        assert [f.verdict for f in result.failures] == [Verdict.DEATH]


def test_memory_over_the_limit(tmp_path: Path) -> None:
    with bench(tmp_path, PLUGIN, 'kind = "process", memory = "200MiB"') as pool:
        (failure,) = pool.run(task(["eat"])).failures
        assert failure.verdict is Verdict.DEATH
        assert "over the limit of 200 MiB" in failure.reason
        (first,) = payloads(pool.run(task(["pid"])))
        if pool.run(task(["grow"])).failures:  # it was seen in the call
            return
        assert payloads(pool.run(task(["pid"]))) != [first], "between two tasks it is replaced, nobody is blamed"


def test_recycling(tmp_path: Path) -> None:
    with bench(tmp_path, PLUGIN, 'kind = "process", recycle_messages = 3') as pool:
        pids = [payloads(pool.run(task(["pid", "x"])))[0] for _ in range(6)]
        assert pids[0::2] == pids[1::2], "replaced between tasks"
        assert len(set(pids)) == 3


OPENS = """
import os
import sys
from pathlib import Path

from zpipe import hookimpl
from zpipe.errors import OperatorError


@hookimpl
def zpipe_open(context):
    {opens}


@hookimpl
def zpipe_process(message, context):
    return str(context.state_dir)


@hookimpl
def zpipe_close(context):
    (context.state_dir / f"closed.{{os.getpid()}}").touch()
"""


@pytest.mark.parametrize(
    ("opens", "reason"),
    [
        ('raise OperatorError("no model")', "no model"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("sys.exit(1)", "SystemExit: 1"),
        ("os._exit(5)", "its worker process exited with code 5 while it started"),
    ],
)
def test_a_plugin_that_does_not_open_keeps_the_stage_from_starting(tmp_path: Path, opens: str, reason: str) -> None:
    with pytest.raises(OperatorError) as raised, bench(tmp_path, OPENS.format(opens=opens)):
        pass
    assert str(raised.value) == reason


def test_a_limit_below_what_the_plugin_needs_is_said_at_the_start(tmp_path: Path) -> None:
    said = r"over the limit of 4 MiB, before its first message: allow more `memory`"
    with pytest.raises(OperatorError, match=said), bench(tmp_path, PLUGIN, 'kind = "process", memory = "4MiB"'):
        pass


def test_one_that_came_up_is_enough_and_the_others_go_on_trying(tmp_path: Path) -> None:
    opens = "os.open(context.state_dir / 'first', os.O_CREAT | os.O_EXCL)"
    with bench(tmp_path, OPENS.format(opens=opens), 'kind = "process", count = 2') as pool:
        assert payloads(pool.run(task(["x"]))) == [str(tmp_path)]


def test_close_runs_in_each_process_and_leaves_none(tmp_path: Path) -> None:
    before = children()
    with bench(tmp_path, OPENS.format(opens="pass"), 'kind = "process", count = 3') as pool:
        pool.run(task(["x"]))
        pids = children() - before
        assert len(pids) == 3
    assert {int(path.suffix[1:]) for path in tmp_path.glob("closed.*")} == pids
    assert not pids & children()


def test_close_kills_one_that_is_stuck(tmp_path: Path) -> None:
    before = children()
    with bench(tmp_path, PLUGIN) as pool:
        pool.pool.put(task(["hang"]))
    assert children() == before


def test_it_inherits_no_socket_and_nothing_else_that_is_open(tmp_path: Path) -> None:
    source = """
import os

from zpipe import hookimpl


@hookimpl
def zpipe_process(message):
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}").partition(":")[0])
        except OSError:
            pass
    return links
"""
    with bench(tmp_path, source) as pool:
        (links,) = payloads(pool.run(task(["x"])))
        assert links.count("socket") == 1, links
        assert "anon_inode" not in links, links


FORKS = """
import ctypes
import os

from zpipe import hookimpl


@hookimpl
def zpipe_process(message, context):
    with open(context.state_dir / "called", "a") as file:
        file.write(f"{message.payload} ")
    if message.payload == "c fork":
        pid = ctypes.PyDLL(None).fork()
    elif message.payload == "fork":
        pid = os.fork()
    else:
        return message.payload
    if pid == 0:
        raise RuntimeError("falls through")
    os.waitpid(pid, 0)
    return message.payload
"""


def test_a_forked_copy_that_comes_back_answers_nothing_and_is_given_no_more_messages(tmp_path: Path) -> None:
    with bench(tmp_path, FORKS) as pool:
        for number in range(5):
            batch = ["a", "fork", "b"]
            whole = section_of(batch)
            result = pool.run(Task(number + 1, [piece(whole, 0, 3)], CallHistory(), False))
            assert (result.failures, payloads(result)) == ([], batch)
        assert payloads(pool.run(task(["c fork"]))) == ["c fork"]
    assert (tmp_path / "called").read_text().split() == ["a", "fork", "b"] * 5 + ["c", "fork"]


LEAVES = """
import asyncio
import sys

from zpipe import hookimpl


async def leave(how):
    if how == "exit":
        sys.exit(3)


@hookimpl
async def zpipe_process(message):
    if message.payload == "stop":
        asyncio.get_running_loop().stop()
    await asyncio.wait_for(leave(message.payload), 60)
    return message.payload
"""


@pytest.mark.parametrize("workers", ['kind = "process"', "count = 1"])
def test_what_ends_the_event_loop_is_its_own_messages_failure_and_not_the_nexts(tmp_path: Path, workers: str) -> None:
    with bench(tmp_path, LEAVES, workers) as pool:
        result = pool.run(task(["a", "exit", "b", "stop", "c"]))
        assert [(f.index, f.reason) for f in result.failures] == [(1, "SystemExit: 3")]
        assert payloads(result) == ["a", "b", "stop", "c"]
        assert payloads(pool.run(task(["next"]))) == ["next"]


ASYNC = """
import asyncio

from zpipe import hookimpl

loops = set()


@hookimpl
async def zpipe_process(message):
    loops.add(id(asyncio.get_running_loop()))
    if message.payload == "hang":
        await asyncio.sleep(1000)
    return len(loops)
"""


def test_async_hooks_run_one_at_a_time_on_one_loop_that_stays(tmp_path: Path) -> None:
    with bench(tmp_path, ASYNC, 'kind = "process", timeout = "1s"') as pool:
        assert payloads(pool.run(task(["a", "b"]))) == [1, 1]
        assert payloads(pool.run(task(["a"]))) == [1]
        verdicts = [f.verdict for f in pool.run(task(["a", "hang", "c"])).failures]
        assert verdicts == [Verdict.AGAIN, Verdict.DEATH, Verdict.AGAIN]
