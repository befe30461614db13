"""An outage is logged at a limited rate, shown, and what failed is tried again."""

from __future__ import annotations

import logging

import pytest

from zpipe.daemon.outages import NEVER, RETRY_S, Outage, RepeatedWrite

LOG = logging.getLogger("zpipe-test-outage")


def make(patience_s: float = 0.0) -> Outage:
    return Outage(LOG, "it.fails", "it.works", "cannot do it", patience_s)


def test_failures_are_shown_and_said_once_and_so_is_the_end(caplog: pytest.LogCaptureFixture) -> None:
    outage = make()
    outage.worked()
    assert (outage.text, caplog.messages) == ("", [])
    for _ in range(1000):
        outage.failed("disk full")
    assert outage.text == "cannot do it: disk full"
    assert caplog.messages == ['event=it.fails reason="cannot do it: disk full" times=1']
    outage.worked()
    outage.worked()
    assert outage.text == ""
    assert [message.split()[0] for message in caplog.messages] == ["event=it.fails", "event=it.works"]


def test_an_outage_of_ten_minutes_is_said_each_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    outage = make()
    for _ in range(600):
        outage.failed("service down")
        now += 1.0
    assert len(caplog.messages) == 10
    assert caplog.messages[-1].endswith("times=541")
    outage.worked()
    outage.failed("service down")
    outage.worked()
    outage.failed("service down")
    assert len(caplog.messages) == 13, "two ends, and the first of two outages that follow at once"
    now += 6.0
    outage.failed("service down")
    assert len(caplog.messages) == 14, "an outage that has not been said yet does not wait a minute"


def test_what_comes_and_goes_is_not_said_each_time(caplog: pytest.LogCaptureFixture) -> None:
    outage = make()
    for _ in range(1000):
        outage.failed("disk full")
        outage.worked()
    assert len(caplog.messages) <= 4, "a pair at once, and perhaps another after some seconds"


def test_patience_lets_the_first_moments_pass(caplog: pytest.LogCaptureFixture) -> None:
    outage = make(patience_s=1000.0)
    outage.failed("slow down")
    assert (outage.text, caplog.messages) == ("", [])


def test_a_write_is_repeated_until_it_works_and_only_the_newest_call() -> None:
    outage = make()
    write = RepeatedWrite(outage)
    done: list[str] = []
    broken = True

    def call(name: str) -> None:
        if broken:
            raise OSError(28, "No space left on device")
        done.append(name)

    assert not write.pending and write.turn(0.0) == NEVER
    write.run(lambda: call("first"))
    write.run(lambda: call("second"))
    at = write.turn(0.0)
    assert write.pending and at < NEVER and "No space left" in outage.text
    broken = False
    assert write.turn(at - RETRY_S / 2) == at and done == []
    assert write.turn(at) == NEVER
    assert (done, write.pending, outage.text) == (["second"], False, "")
