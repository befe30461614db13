"""What is said of dead letters: each where it is searched for, equal ones as one where people read along."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest

from zpipe.daemon.storage.dead_letter_log import FOLD_S, MOST_KINDS, NEVER, DeadLetterLog
from zpipe.runtime import logs
from zpipe.runtime.dead_letter_table import LetterRow
from zpipe.runtime.exception_text import reason_of, traceback_of

ROW = LetterRow("work", "read:0", 0.0, "message", "no", "", 1, 0, (), None, b"\x00", "read")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    made = logging.getLogger("dead-letters")
    made.propagate = True
    return made


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def failed(key: str) -> LetterRow:
    """As a plugin's exception leaves it, whose text is another one for each message."""
    try:
        {}[key]
    except KeyError as error:
        return replace(ROW, id=key, reason=reason_of(error), traceback=traceback_of(error))
    raise AssertionError


AT = ":".join(re.findall(r'/(test_\w+\.py)", line (\d+)', failed("x").traceback)[-1])


def test_elsewhere_each_letter_has_its_line(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    said = DeadLetterLog(log, fold=False)
    for n in range(3):
        said.write(failed(f"read:{n}"), replayed=False, now=0.0)
    assert [line.split()[:2] for line in events(caplog)] == [["event=message.dead", f"id=read:{n}"] for n in range(3)]
    said.close()
    assert (said.turn(100.0), events(caplog)) == (NEVER, [])


def test_in_a_terminal_equal_ones_are_folded(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    said = DeadLetterLog(log, fold=True)
    for n in range(5):
        said.write(failed(f"read:{n}"), replayed=False, now=0.0)
    said.write(replace(ROW, id="x", reason="row 7 of 9 is short"), replayed=True, now=1.0)
    said.write(replace(ROW, id="y", reason="row 8 of 9 is short"), replayed=True, now=1.0)
    assert events(caplog) == [
        "event=message.dead id=read:0 reason=\"KeyError: 'read:0'\" attempts=1",
        'event=message.dead id=x reason="row 7 of 9 is short" attempts=1 replayed=True',
    ]
    assert said.turn(FOLD_S - 0.1) == FOLD_S and events(caplog) == []
    assert said.turn(FOLD_S) == FOLD_S + 1.0
    assert events(caplog) == [
        f"event=message.dead_repeated messages=×4 at={AT} equal_to=read:0 last=read:4 reason=\"KeyError: 'read:0'\""
    ]
    said.write(failed("read:5"), replayed=False, now=FOLD_S + 0.5)
    said.close()
    assert [line.split()[1:4] for line in events(caplog)] == [
        ["messages=×1", f"at={AT}", "equal_to=read:0"],
        ["messages=×1", "equal_to=x", "last=y"],
    ]


def test_the_kinds_that_are_remembered_are_bounded_and_none_is_left_unsaid(
    log: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    said = DeadLetterLog(log, fold=True)

    def tell(kind: int) -> None:
        word = "".join(chr(ord("a") + int(digit)) for digit in str(kind))
        said.write(replace(ROW, id=f"m{kind}", reason=word), replayed=False, now=0.0)

    for kind in range(MOST_KINDS):
        tell(kind)
    tell(0)
    assert len(events(caplog)) == MOST_KINDS
    tell(MOST_KINDS)
    too, new = events(caplog)
    assert too.startswith("event=message.dead_repeated messages=×1 equal_to=m0") and f"id=m{MOST_KINDS}" in new
    tell(0)
    assert events(caplog)[-1].startswith("event=message.dead id=m0"), "it is shown anew, as it is not remembered"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_traceback_has_lines_of_its_own_only_in_a_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, terminal: bool
) -> None:
    log = logging.getLogger("zpipe")
    before = log.handlers[:], log.level, log.propagate
    with (tmp_path / "log").open("w") as out:
        monkeypatch.setattr(logs.sys, "stderr", out)
        made = logs.start("work.1", "info", {logs.TERMINAL: "1"} if terminal else {})
        try:
            raise ValueError("red \x1b[31m")
        except ValueError as error:
            made.error("event=a.failed", exc_info=error)
        made.warning("event=b reason=\x1b[31m", extra={logs.TRACEBACK: "one\ntwo"})
        for _ in range(2):
            made.warning("event=worker.died", extra={logs.TRACEBACK: 'Fatal\n  File "w.py", line 3 in work'})
        monkeypatch.undo()
    log.handlers[:], log.level, log.propagate = before
    lines = (tmp_path / "log").read_text().splitlines()
    if not terminal:
        assert len(lines) == 4
        assert lines[2].split(" ", 1)[1] == lines[3].split(" ", 1)[1]
        assert re.search(r'error work.1 event=a.failed traceback="Traceback .*ValueError: red', lines[0])
        assert lines[1].endswith('traceback="one\\ntwo"')
        return
    assert lines[0].endswith("error work.1 event=a.failed")
    assert lines[1] == "    Traceback (most recent call last):"
    assert "    ValueError: red \\x1b[31m" in lines
    assert lines[-7].endswith("warning work.1 event=b reason=\\x1b[31m") and lines[-6:-4] == ["    one", "    two"]
    assert lines[-3:-1] == ["    Fatal", '      File "w.py", line 3 in work']
    assert lines[-1].endswith('event=worker.died traceback="as before"'), "an equal one is shown once"
