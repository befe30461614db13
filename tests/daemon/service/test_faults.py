"""What fails for a while is said seldom, shown, and tried again."""

from __future__ import annotations

import logging

import pytest

from zpipe.daemon.faults import NEVER, RETRY_S, Fault, RepeatedWrite

LOG = logging.getLogger("zpipe-test-fault")


def make(patience_s: float = 0.0) -> Fault:
    return Fault(LOG, "it.fails", "it.works", "cannot do it", patience_s)


def test_failures_are_shown_and_said_once_and_so_is_the_end(caplog: pytest.LogCaptureFixture) -> None:
    fault = make()
    fault.worked()
    assert (fault.text, caplog.messages) == ("", [])
    for _ in range(1000):
        fault.failed("disk full")
    assert fault.text == "cannot do it: disk full"
    assert caplog.messages == ['event=it.fails reason="cannot do it: disk full" times=1']
    fault.worked()
    fault.worked()
    assert fault.text == ""
    assert [message.split()[0] for message in caplog.messages] == ["event=it.fails", "event=it.works"]


def test_an_outage_of_ten_minutes_is_said_each_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    fault = make()
    for _ in range(600):
        fault.failed("service down")
        now += 1.0
    assert len(caplog.messages) == 10
    assert caplog.messages[-1].endswith("times=541")
    fault.worked()
    fault.failed("service down")
    fault.worked()
    fault.failed("service down")
    assert len(caplog.messages) == 13, "two ends, and the first of two outages that follow at once"
    now += 6.0
    fault.failed("service down")
    assert len(caplog.messages) == 14, "an outage that has not been said yet does not wait a minute"


def test_what_comes_and_goes_is_not_said_each_time(caplog: pytest.LogCaptureFixture) -> None:
    fault = make()
    for _ in range(1000):
        fault.failed("disk full")
        fault.worked()
    assert len(caplog.messages) <= 4, "a pair at once, and perhaps another after some seconds"


def test_patience_lets_the_first_moments_pass(caplog: pytest.LogCaptureFixture) -> None:
    fault = make(patience_s=1000.0)
    fault.failed("slow down")
    assert (fault.text, caplog.messages) == ("", [])


def test_an_errand_is_done_at_last_and_only_the_newest_call() -> None:
    fault = make()
    errand = RepeatedWrite(fault)
    done: list[str] = []
    broken = True

    def call(name: str) -> None:
        if broken:
            raise OSError(28, "No space left on device")
        done.append(name)

    assert not errand.pending and errand.turn(0.0) == NEVER
    errand.run(lambda: call("first"))
    errand.run(lambda: call("second"))
    at = errand.turn(0.0)
    assert errand.pending and at < NEVER and "No space left" in fault.text
    broken = False
    assert errand.turn(at - RETRY_S / 2) == at and done == []
    assert errand.turn(at) == NEVER
    assert (done, errand.pending, fault.text) == (["second"], False, "")
