"""Crashes stay visible while the pipeline goes on: how a life ended and which message was in the call, from real kills."""

from __future__ import annotations

import signal

import pytest
from e2e_types import MakePipeline
from pipeline import send, wait_until

POISON = """
import ctypes

def work(payload):
    if payload["id"] == 17:
        ctypes.string_at(0)  # in this thread and at once; a signal to the process may come a message later
    return payload
"""
PASS = """
def work(payload):
    return payload
"""
FAILS = """
from zpipe.errors import OperatorError

def work(payload):
    raise OperatorError("the licence has run out")
"""
SOON_S = 60.0


def test_a_run_shows_what_killed_a_stage_and_in_which_call(make_work: MakePipeline) -> None:
    pipeline = make_work(POISON)
    run = pipeline.run()
    wait_until(lambda: pipeline.letters("work"), "the message is a dead letter", SOON_S)
    stage = pipeline.monitored("work")
    assert stage["restarts"]["SIGSEGV"] >= 2 and set(stage["restarts"]) == {"SIGSEGV"}
    assert stage["last_crash"]["how"] == "killed by SIGSEGV"
    assert stage["last_crash"]["ids"] == ["read:17"]
    [letter] = pipeline.letters("work")
    assert letter[0] == "read:17" and "(the last was killed by SIGSEGV)" in letter[1]
    found = 'how="killed by SIGSEGV" messages_in_call=1 ids=read:17'
    wait_until(lambda: any("event=crash.found" in line and found in line for line in run.stderr.splitlines()), found)
    run.interrupt()
    run.ledger()
    again = pipeline.run()
    wait_until(lambda: pipeline.monitored("work")["state"] == "RUNNING", "another run", SOON_S)
    assert pipeline.monitored("work")["restarts"] == {}, "an end in order begins the count anew"
    again.interrupt()
    again.ledger()


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGKILL, "unknown"), (signal.SIGABRT, "SIGABRT")])
def test_a_stage_that_nobody_supervises_says_what_it_can(
    make_work: MakePipeline, number: signal.Signals, reason: str
) -> None:
    pipeline = make_work(PASS)
    for stage in ("read", "store"):
        pipeline.stage(stage)
    work = pipeline.stage("work")
    wait_until(lambda: "event=ready" in work.stderr, "it is ready", SOON_S)
    send(work.pid, number)
    assert work.over_within(SOON_S)
    pipeline.stage("work")
    wait_until(lambda: pipeline.monitored("work")["restarts"] == {reason: 1}, "the crash is counted", SOON_S)


def test_a_stage_that_fails_by_itself_says_so_at_its_next_start(make_work: MakePipeline) -> None:
    pipeline = make_work(FAILS)
    for stage in ("read", "store"):
        pipeline.stage(stage)
    assert pipeline.stage("work").wait(SOON_S) == 1
    (pipeline.folder / "work.py").write_text(PASS)
    pipeline.stage("work")
    wait_until(lambda: pipeline.monitored("work")["restarts"] == {"exit code 1": 1}, "the crash is counted", SOON_S)
