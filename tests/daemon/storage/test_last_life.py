"""What the next life finds of a crash: how it ended, what was in a call, and how often that has happened."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from zpipe.core.wire import section
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Producer, Slice
from zpipe.core.work.task import CallHistory, Task
from zpipe.daemon.storage.call_journal import CallJournal
from zpipe.daemon.storage.last_life import (
    ENDED,
    LAST_DEATH,
    MOST_IDS,
    UNKNOWN,
    LastLife,
    LastLifeFiles,
    how_ended,
    reason_of_crash,
)


@pytest.mark.parametrize(
    ("words", "how", "reason"),
    [
        ("signal killed KILL\n", "killed by SIGKILL", "SIGKILL"),
        ("core-dump dumped SEGV\n", "killed by SIGSEGV", "SIGSEGV"),
        ("watchdog dumped ABRT\n", "killed by SIGABRT (watchdog)", "SIGABRT (watchdog)"),
        ("oom-kill killed KILL\n", "killed by SIGKILL (out of memory)", "SIGKILL (out of memory)"),
        ("exit-code exited 1\n", "exit code 1", "exit code 1"),
        ("", "", ""),
        ("half", "", ""),
        ("a b c d\n", "", ""),
    ],
)
def test_systemd_and_a_run_have_the_same_words_for_an_end(words: str, how: str, reason: str) -> None:
    assert how_ended(words) == how
    assert reason_of_crash(how) == reason


def test_crashes_are_counted_by_reason_until_an_end_in_order(tmp_path: Path) -> None:
    def start(cut_short: bool, how: str = "") -> LastLife:
        return LastLifeFiles(tmp_path).found({LAST_DEATH: how}, cut_short)

    assert start(False) == LastLife()
    assert start(True, "killed by SIGKILL").restarts == {"SIGKILL": 1}
    assert start(True, "exit code 1").restarts == {"SIGKILL": 1, "exit code 1": 1}
    assert start(True, "killed by SIGKILL").restarts == {"SIGKILL": 2, "exit code 1": 1}
    assert start(False).restarts == {}
    assert start(True, "killed by SIGKILL").restarts == {"SIGKILL": 1}


def test_a_damaged_count_begins_anew(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"a": "x"}', "3"):
        (tmp_path / "restarts.json").write_text(text)
        assert LastLifeFiles(tmp_path).found({LAST_DEATH: "exit code 1"}, True).restarts == {"exit code 1": 1}


def test_who_says_how_it_ended(tmp_path: Path) -> None:
    """The parent that saw it, else systemd's word or its own, else the traceback of a signal; else nobody knows."""
    ended, traceback = tmp_path / ENDED, tmp_path / "crash.txt"

    def how(env: dict[str, str] | None = None) -> str:
        return LastLifeFiles(tmp_path).found(env or {}, True).how

    assert how() == UNKNOWN
    traceback.write_text("Fatal Python error: Segmentation fault\n\nThread 0x1\n")
    assert how() == "killed by SIGSEGV"
    ended.write_text("exit-code exited 1\n")
    assert how({LAST_DEATH: "killed by SIGKILL"}) == "killed by SIGKILL"
    assert not ended.exists(), "it is of one life only"
    LastLifeFiles(tmp_path).failed(1)
    assert how() == "exit code 1"


def in_a_call(tmp_path: Path, count: int) -> None:
    """A life that left a batch of so many in a call."""

    body = section.encode([f"read:{n}" for n in range(count)], [0.0] * count, [None] * count, None)
    one = Section(body, count, 1)
    delivery = Delivery([one], lambda _: None, Producer("read", "", 1, "r1"))
    piece = Slice(delivery, one, 0, 0, count, 0.0)
    slot = CallJournal(tmp_path / "calls", 1).slot(0)
    slot.begin(Task(1, [piece], CallHistory(), True))
    slot.note[0] = 0xFFFFFFFF


def test_the_log_and_the_snapshot_say_what_was_in_the_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    in_a_call(tmp_path, 2)
    crash = LastLifeFiles(tmp_path).found({LAST_DEATH: "killed by SIGSEGV"}, True)
    said = crash.as_json()
    assert said == {"how": "killed by SIGSEGV", "at": crash.at, "messages_in_call": 2, "ids": ["read:0", "read:1"]}
    with caplog.at_level(logging.WARNING):
        crash.write_to(logging.getLogger("x"))
    assert caplog.messages == [
        'event=crash.found how="killed by SIGSEGV" messages_in_call=2 ids=read:0,read:1 restarts=1'
    ]


@pytest.mark.parametrize("count", [MOST_IDS, MOST_IDS + 1])
def test_so_many_ids_are_said_and_all_are_counted(tmp_path: Path, count: int) -> None:
    in_a_call(tmp_path, count)
    crash = LastLifeFiles(tmp_path).found({}, True)
    assert (len(crash.ids), crash.messages) == (MOST_IDS, count)


def test_an_end_in_order_leaves_nothing_to_say(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    CallJournal(tmp_path / "calls", 1)
    (tmp_path / ENDED).write_text("success exited 0\n")
    crash = LastLifeFiles(tmp_path).found({}, False)
    crash.write_to(logging.getLogger("x"))
    assert crash.as_json() is None and not caplog.messages
