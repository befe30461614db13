"""Lines that others can cause: each is written once a minute, and only so many of one event."""

from __future__ import annotations

import logging

import pytest

from zpipe.core.actions import LogEvent
from zpipe.daemon.service.limited_log import LINES_A_MINUTE, MINUTE_S, LimitedLog
from zpipe.runtime.logs import TRACEBACK


def limited_log() -> LimitedLog:
    return LimitedLog(logging.getLogger("test_limited_log"))


def written(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Without what threads of other tests may still have to say."""
    return [record for record in caplog.records if record.name == "test_limited_log"]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in written(caplog)]


def refused(reason: str) -> LogEvent:
    return LogEvent("hello.refused", {"sender": "127.0.0.1", "reason": reason})


def request(what: str = "pause") -> LogEvent:
    return LogEvent("operator.request", {"what": what, "refused": None}, warning=False, repeats=True)


def test_an_event_is_a_line_and_the_same_event_is_none_for_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = limited_log()
    for now in (0.0, 1.0, MINUTE_S - 1, MINUTE_S, MINUTE_S + 1):
        log.write(refused("no link"), now)
    log.write(refused("another"), MINUTE_S + 1)
    line = 'event=hello.refused sender=127.0.0.1 reason="no link"'
    another = "event=hello.refused sender=127.0.0.1 reason=another left_out=1"
    assert lines(caplog) == [line, f"{line} left_out=2", another]
    assert {record.levelname for record in written(caplog)} == {"WARNING"}


def test_an_order_is_a_line_each_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = limited_log()
    for what in ("pause", "resume", "pause", "resume"):
        log.write(request(what), 1.0)
    assert [text.split("what=")[1] for text in lines(caplog)] == ["pause", "resume", "pause", "resume"]
    assert {record.levelname for record in written(caplog)} == {"INFO"}


def test_events_that_are_alike_are_one_line_a_minute_whatever_they_say(caplog: pytest.LogCaptureFixture) -> None:
    log = limited_log()

    def failed(error: str, held: int) -> LogEvent:
        return LogEvent(
            "tick.failed", {"reason": error, "held": held}, alike=error.partition(":")[0], traceback="where"
        )

    for n in range(100):
        log.write(failed(f"KeyError: {n}", held=n), now=n / 2)
    log.write(failed("OSError: gone", held=0), 50.0)
    log.write(failed("KeyError: 100", held=100), 60.0)
    assert lines(caplog) == [
        'event=tick.failed reason="KeyError: 0" held=0',
        'event=tick.failed reason="OSError: gone" held=0 left_out=99',
        'event=tick.failed reason="KeyError: 100" held=100',
    ]
    assert {getattr(record, TRACEBACK) for record in written(caplog)} == {"where"}


@pytest.mark.parametrize("extra", [0, 1, 100_000])
def test_one_kind_of_event_has_so_many_lines_a_minute(extra: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = limited_log()
    for n in range(LINES_A_MINUTE + extra):
        log.write(refused(str(n)), 0.0)
    assert len(lines(caplog)) == LINES_A_MINUTE
    log.write(request(), 0.0)
    assert len(lines(caplog)) == LINES_A_MINUTE + 1, "others have lines of their own"
    log.write(refused("later"), 60.0)
    assert lines(caplog)[-1].endswith(f"reason=later left_out={extra}" if extra else "reason=later")
