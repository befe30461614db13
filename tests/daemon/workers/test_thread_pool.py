"""Threads and the event loop: how many calls are under way, and on what."""

from __future__ import annotations

import threading
from pathlib import Path
from queue import SimpleQueue

import pytest
from pools import DEADLINE_S, Bench, bench, payloads, task

from zpipe.core.wire import section
from zpipe.core.work.task import Result, Verdict
from zpipe.daemon.plugin import runner
from zpipe.daemon.plugin.task_run import EARLY_MESSAGES
from zpipe.daemon.workers import event_loop
from zpipe.daemon.workers.thread_pool import QUICK_S, ThreadPool

PLUGIN = """
import asyncio
import threading

from zpipe import Throttled, hookimpl

state = {"under_way": 0, "most": 0, "threads": set(), "cancelled": 0}
all_in = None


@hookimpl
async def zpipe_process(message):
    global all_in
    if all_in is None:
        all_in = asyncio.Event()
    state["threads"].add(threading.get_ident())
    state["under_way"] += 1
    state["most"] = max(state["most"], state["under_way"])
    try:
        match message.payload:
            case ["together", count]:
                if state["under_way"] == count:
                    all_in.set()
                await all_in.wait()
            case "hang":
                await asyncio.sleep(1000)
            case "own timeout":
                raise TimeoutError("from the service")
            case "throttled":
                raise Throttled(7)
            case "system":
                raise SystemExit(3)
            case "cancel":
                raise asyncio.CancelledError
            case ["many", count]:
                return iter(range(count))
            case "seen":
                return [state["most"], len(state["threads"])]
    except asyncio.CancelledError:
        state["cancelled"] += 1
        raise
    finally:
        state["under_way"] -= 1
    return message.payload
"""


def zpipe_threads() -> int:
    return sum(thread.name.startswith("zpipe-worker") for thread in threading.enumerate())


def test_200_calls_are_under_way_at_once_on_one_thread(tmp_path: Path) -> None:
    with bench(tmp_path, PLUGIN, "count = 200") as pool:
        for _ in range(201):
            pool.pool.put(task([["together", 200]]))
        results = [pool.result()[1] for _ in range(201)]
        assert all(result.failures == [] for result in results)
        assert payloads(pool.run(task(["seen"]))) == [[200, 1]], "no more than count, on the one event loop"
        assert zpipe_threads() == 0


LATER = """
import asyncio

from zpipe import hookimpl

state = {"under_way": 0}
all_in = None


async def work(count):
    global all_in
    all_in = all_in or asyncio.Event()
    state["under_way"] += 1
    if state["under_way"] == count:
        all_in.set()
    await all_in.wait()
    return count


@hookimpl
def zpipe_process(message):
    return work(message.payload)
"""


def test_a_hook_that_returns_an_awaitable_leaves_its_thread(tmp_path: Path) -> None:
    with bench(tmp_path, LATER, "count = 50") as pool:
        for _ in range(50):
            pool.pool.put(task([50]))
        assert [payloads(pool.result()[1]) for _ in range(50)] == [[50]] * 50


def test_a_call_that_outlives_its_timeout_is_cancelled_and_tried_again(tmp_path: Path) -> None:
    with bench(tmp_path, PLUGIN, 'timeout = "1s"') as pool:
        result = pool.run(task(["a", "hang", "b", "own timeout", "throttled", "system", "cancel", "c"]))
        assert payloads(result) == ["a", "b", "c"]
        found = {f.index: (f.reason, f.verdict, f.delay_s) for f in result.failures}
        assert found == {
            1: ("the call outlived the timeout of 1 s", Verdict.RETRY, None),
            3: ("TimeoutError: from the service", Verdict.RETRY, None),
            4: ("throttled: retry after 7 s", Verdict.THROTTLED, 7.0),
            5: ("SystemExit: 3", Verdict.RETRY, None),
            6: ("CancelledError: ", Verdict.RETRY, None),
        }
        assert payloads(pool.run(task(["d"]))) == ["d"]


def test_many_outputs_of_an_async_call_wait_at_the_gate_and_hold_up_no_other_call(tmp_path: Path) -> None:
    with bench(tmp_path, PLUGIN, "count = 2") as pool:
        passed = threading.Semaphore(0)
        pool.on_early = passed.release
        pool.output_room.clear()
        pool.pool.put(task([["many", 2 * EARLY_MESSAGES + 1]]))
        assert passed.acquire(timeout=60)
        assert payloads(pool.run(task(["other"]))) == ["other"]
        pool.output_room.set()
        assert payloads(pool.result()[1]) == [2 * EARLY_MESSAGES]


BLOCKING = """
import threading

from zpipe import hookimpl

barrier = threading.Barrier(3)


@hookimpl
def zpipe_process(message):
    if message.payload == "exit":
        raise GeneratorExit
    if message.payload == "generator":
        return odd()
    barrier.wait(60)
    return threading.get_ident()


def odd():
    yield 1
    raise GeneratorExit
"""


def test_calls_that_block_have_a_thread_each(tmp_path: Path) -> None:
    with bench(tmp_path, BLOCKING, "count = 3") as pool:
        for _ in range(6):
            pool.pool.put(task(["x"]))
        idents = [payload for _ in range(6) for payload in payloads(pool.result()[1])]
        assert len(set(idents)) == 3


def test_whatever_a_hook_raises_is_its_messages_failure(tmp_path: Path) -> None:
    with bench(tmp_path, BLOCKING, "count = 1") as pool:

        def reasons(result: Result) -> list[str]:
            return [failure.reason for failure in result.failures]

        assert reasons(pool.run(task(["exit"]))) == ["GeneratorExit: "]
        assert reasons(pool.run(task(["generator"]))) == ["GeneratorExit: "]
        assert reasons(pool.run(task(["exit"]))) == ["GeneratorExit: "]


STUBBORN = """
import asyncio

from zpipe import hookimpl


@hookimpl
async def zpipe_process(message):
    while message.payload == "stubborn":
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass
    return message.payload
"""


def test_calls_that_do_not_end_are_left_behind_until_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_loop, "GRACE_S", 0.01)
    with bench(tmp_path, STUBBORN, 'timeout = "50ms"') as pool:
        for _ in range(event_loop.MOST_ABANDONED - 1):
            (failure,) = pool.run(task(["stubborn"])).failures
            assert (failure.verdict, failure.reason) == (Verdict.RETRY, "the call outlived the timeout of 0.05 s")
        assert payloads(pool.run(task(["b"]))) == ["b"]
        (last,) = pool.run(task(["stubborn"])).failures
        assert last.verdict is Verdict.FAIL and "must let asyncio.CancelledError through" in last.reason


class Clock:
    now = 0.0

    @classmethod
    def perf_counter(cls) -> float:
        return cls.now


@pytest.mark.parametrize(("decoding_s", "plugin_s", "drives"), [(10 * QUICK_S, 0.0, True), (0.0, 2 * QUICK_S, False)])
def test_who_drives_the_loop_is_decided_by_what_the_plugin_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoding_s: float, plugin_s: float, drives: bool
) -> None:
    """On a busy machine the rest of a task takes long, too, and longer yet if it is handed to another thread."""
    decode = section.decode

    def slow(body: bytes, count: int) -> section.Columns:
        Clock.now += decoding_s
        return decode(body, count)

    monkeypatch.setattr(section, "decode", slow)
    monkeypatch.setattr(runner.time, "perf_counter", Clock.perf_counter)
    monkeypatch.setattr(Clock, "spend", lambda: setattr(Clock, "now", Clock.now + plugin_s), raising=False)
    plugin = """
from test_thread_pool import Clock

from zpipe import hookimpl


@hookimpl
def zpipe_process(message):
    Clock.spend()
"""
    with bench(tmp_path, plugin, "count = 1") as pool:
        pool.pool.put(task([1]))
        _, result = pool.result()
        assert isinstance(pool.pool, ThreadPool)
        assert (result.seconds, result.calls_s) == pytest.approx((decoding_s + plugin_s, plugin_s))
        assert pool.pool.may_drive == drives


IN_A_CALL = """
from zpipe import hookimpl


@hookimpl
def zpipe_process(message, context):
    if message.payload == "many":
        return iter(range(NUMBER))
    if message.payload == "lasts":
        context.scratch.take_loop()
    return message.payload
""".replace("NUMBER", str(EARLY_MESSAGES + 1))


class _Main:
    """What the main thread does when a call lasts."""

    def __init__(self, pool: Bench) -> None:
        self.take_loop = pool.handover.give_back


@pytest.mark.parametrize("payload", ["quick", "lasts", "many"])
def test_what_a_thread_that_drives_has_worked_on_comes_back_at_once_unless_it_has_lost_the_loop(
    tmp_path: Path, payload: str
) -> None:
    """What comes back after that is posted, as it is another thread's turn by then."""
    quick, made = payload == "quick", task([payload])
    seen: SimpleQueue[tuple[bool, bool, bool]] = SimpleQueue()
    with bench(tmp_path, IN_A_CALL, "count = 1") as pool:
        pool.context.scratch = _Main(pool)
        thread_pool, handover = pool.pool, pool.handover
        assert isinstance(thread_pool, ThreadPool)
        handover.give()
        thread_pool.drive(
            lambda: seen.put((handover.end_call(), thread_pool.call(made), handover.worker_drives)),
        )
        assert seen.get(timeout=DEADLINE_S) == (True, quick, quick)
        came_back, result = pool.here.pop() if quick else pool.result()
        assert came_back is made and not result.failures and not pool.here
        chunks = [chunk for early in pool.early for chunk in early] + result.chunks
        assert sum(chunk.messages for chunk in chunks) == (EARLY_MESSAGES + 1 if payload == "many" else 1)
        assert payloads(pool.run(task(["quick"]))) == ["quick"], "its slot is free again"
        assert payload != "many" or not thread_pool.may_drive, "something had to be waited for, and may again"
