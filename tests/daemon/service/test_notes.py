"""What others can have written to the log: each thing once a minute, and not without end."""

from __future__ import annotations

import logging

import pytest

from zpipe.core.actions import Note
from zpipe.daemon.service.notes import LINES_A_MINUTE, MINUTE_S, Notes


def notes() -> Notes:
    return Notes(logging.getLogger("test_notes"))


def refused(reason: str) -> Note:
    return Note("hello.refused", {"sender": "127.0.0.1", "reason": reason})


def request(what: str = "pause") -> Note:
    return Note("operator.request", {"what": what, "refused": None}, warning=False, repeats=True)


def test_a_note_is_a_line_and_the_same_note_is_none_for_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = notes()
    for now in (0.0, 1.0, MINUTE_S - 1, MINUTE_S, MINUTE_S + 1):
        made.write(refused("no link"), now)
    made.write(refused("another"), MINUTE_S + 1)
    line = 'event=hello.refused sender=127.0.0.1 reason="no link"'
    another = "event=hello.refused sender=127.0.0.1 reason=another left_out=1"
    assert caplog.messages == [line, f"{line} left_out=2", another]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_an_order_is_a_line_each_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = notes()
    for what in ("pause", "resume", "pause", "resume"):
        made.write(request(what), 1.0)
    assert [text.split("what=")[1] for text in caplog.messages] == ["pause", "resume", "pause", "resume"]
    assert {record.levelname for record in caplog.records} == {"INFO"}


@pytest.mark.parametrize("extra", [0, 1, 100_000])
def test_one_kind_of_note_has_so_many_lines_a_minute(extra: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = notes()
    for n in range(LINES_A_MINUTE + extra):
        made.write(refused(str(n)), 0.0)
    assert len(caplog.messages) == LINES_A_MINUTE
    made.write(request(), 0.0)
    assert len(caplog.messages) == LINES_A_MINUTE + 1, "others have lines of their own"
    made.write(refused("later"), 60.0)
    assert caplog.messages[-1].endswith(f"reason=later left_out={extra}" if extra else "reason=later")
