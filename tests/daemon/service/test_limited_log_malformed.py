"""Which frames that broke the protocol get a line in the log."""

from __future__ import annotations

import logging

import pytest

from zpipe.core.wire import cbor, frames
from zpipe.daemon.service.limited_log import FAULTS_A_MINUTE, MINUTE_S, MalformedFrameLog, Source
from zpipe.errors import PeerError


def broken(sequence: object) -> PeerError:
    frame = cbor.write({"kind": "parcel", "session": bytes(16), "sequence": sequence, "sections": [[1, 3, 1, 1, 0]]})
    with pytest.raises(PeerError) as caught:
        frames.read(frame)
    return caught.value


def test_one_fault_with_other_values_is_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    log = MalformedFrameLog(logging.getLogger("malformed"))
    for n in range(5):
        log.note(Source("inbox", "read.1"), broken(-1 - n), 0.0)
    assert caplog.messages == [
        'event=peer.malformed socket=inbox peer=read.1 frame=parcel field=sequence reason="parcel.sequence is -1"'
    ]
    log.note(Source("inbox", "read.1"), broken(-9), MINUTE_S)
    assert caplog.messages[1].endswith('reason="parcel.sequence is -9" left_out=4')


def test_ten_distinct_faults_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    log = MalformedFrameLog(logging.getLogger("malformed"))
    for n in range(FAULTS_A_MINUTE + 1):
        log.note(Source("feedback", sender=f"uid 1, pid {n}"), broken("x"), 1.0)
    assert len(caplog.messages) == FAULTS_A_MINUTE
    log.note(Source("feedback"), broken("x"), 1.0 + MINUTE_S)
    assert len(caplog.messages) == FAULTS_A_MINUTE + 1 and "left_out=1" in caplog.messages[-1]


def test_a_fault_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    log = MalformedFrameLog(logging.getLogger("malformed"))
    errors = [broken(-1), PeerError("a hello in the inbox", "hello"), PeerError("not the CBOR of the protocol: x")]
    for error in [*errors, *errors, PeerError("not the CBOR of the protocol: y")]:
        log.note(Source("inbox"), error, 0.0)
    log.note(Source("inbox", "read.2"), broken(-1), 0.0)
    assert len(caplog.messages) == 4
