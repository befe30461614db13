"""Which thread drives the loop: every order of steps of the two threads, and the two threads themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from zpipe.daemon.loop_handover import LONG_S, Handover

DEADLINE_S = 60.0


class Threads:
    """The two threads as they use a handover, a step at a time.

    main    "drives" or "watches"
    worker  "rests", "is given" the loop and has not begun, "drives", "calls" the plugin, or "lingers" in a call after it has
            given the loop back
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.handover = Handover(lambda: self.now)
        self.main = "drives"
        self.worker = "rests"

    def steps(self) -> Iterator[str]:
        """What may happen next."""
        yield "time passes"
        if self.main == "watches":
            yield "main looks"
        elif self.worker == "rests":
            yield "main gives"
        if self.worker == "is given":
            yield "worker begins to drive"
        elif self.worker == "drives":
            yield from ("worker begins a call", "worker gives back")
        elif self.worker == "calls":
            yield from ("worker ends the call", "worker gives back in the call")
        elif self.worker == "lingers":
            yield "worker ends the call"

    def make(self, step: str) -> None:
        match step:
            case "time passes":
                self.now += LONG_S / 2
            case "main looks":
                self.main = "drives" if self.handover.look() else "watches"
            case "main gives":
                self.handover.give()
                self.main, self.worker = "watches", "is given"
            case "worker begins to drive" | "worker ends the call":
                lingered = self.worker == "lingers"
                self.worker = "drives" if self.handover.end_call() else "rests"
                assert not (lingered and self.worker == "drives")
            case "worker begins a call":
                self.handover.begin_call()
                self.worker = "calls"
            case "worker gives back":
                self.handover.give_back()
                self.worker = "rests"
            case "worker gives back in the call":
                self.handover.give_back()
                self.worker = "lingers"

    def check(self) -> None:
        assert not (self.main == "drives" and self.worker == "drives"), "two threads drive"
        assert not (self.main == "drives" and self.handover.worker_drives), "the main thread drives, and nobody knows"
        assert self.worker != "drives" or self.handover.worker_drives, "the worker drives, and nobody knows"

    @property
    def situation(self) -> tuple[object, ...]:
        began_at = self.handover._began_at
        age = None if began_at is None else min(self.now - began_at, LONG_S)
        return self.main, self.worker, self.handover.worker_drives, age


def after(path: tuple[str, ...]) -> Threads:
    threads = Threads()
    for step in path:
        threads.make(step)
        threads.check()
    return threads


def every_situation() -> dict[tuple[object, ...], tuple[str, ...]]:
    """All that can be reached, with a shortest way there."""
    start: tuple[str, ...] = ()
    found = {after(start).situation: start}
    new = [start]
    while new:
        path = new.pop(0)
        for step in after(path).steps():
            longer = (*path, step)
            if (situation := after(longer).situation) not in found:
                found[situation] = longer
                new.append(longer)
    return found


def test_in_no_order_of_steps_do_two_threads_drive() -> None:
    found = every_situation()
    workers = {worker for _, worker, *_ in found}
    assert workers == {"rests", "is given", "drives", "calls", "lingers"}
    assert ("drives", "calls", False, LONG_S) in found, "a call goes on after it has lost the loop"


def test_from_everywhere_a_worker_that_hangs_loses_the_loop_and_one_that_rests_has_not_got_it() -> None:
    for path in every_situation().values():
        threads = after(path)
        if threads.main == "watches" and threads.worker != "drives":  # one that drives is in a turn, and no turn lasts
            threads.now += LONG_S
            threads.make("main looks")
            assert threads.main == "drives", path


def test_a_quick_call_keeps_the_loop() -> None:
    threads = after(("main gives", "worker begins to drive", "worker begins a call", "time passes", "main looks"))
    threads.make("worker ends the call")
    assert (threads.main, threads.worker) == ("watches", "drives")


def on_another_thread(call: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_the_main_thread_sleeps_until_calls_are_made_and_wakes_for_one_that_lasts() -> None:
    handover = Handover()
    kept: list[bool] = []
    go_on = threading.Event()

    def worker() -> None:
        kept.append(handover.end_call())
        sleeps = threading.Event()
        while not handover._asleep:
            sleeps.wait(0.01)
        handover.begin_call()
        assert go_on.wait(DEADLINE_S)
        kept.append(handover.end_call())

    handover.give()
    thread = on_another_thread(worker)
    handover.watch()
    assert not handover.worker_drives
    go_on.set()
    thread.join(DEADLINE_S)
    assert kept == [True, False]


def test_the_main_thread_wakes_when_the_loop_is_given_back() -> None:
    handover = Handover()

    def worker() -> None:
        handover.end_call()
        handover.give_back()

    handover.give()
    thread = on_another_thread(worker)
    handover.watch()
    assert not handover.worker_drives
    thread.join(DEADLINE_S)


def test_a_forked_child_drives_no_loop() -> None:
    handover = Handover()
    handover.give()
    assert handover.end_call()
    handover.begin_call()
    handover._changed.acquire()  # as if another thread had it at the moment of the fork
    handover.leave_to_parent()
    assert not handover.end_call()
