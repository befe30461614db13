"""A disk buffer as its instance shows it: what holds up the stage, and what does not."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zpipe.core.buffer.orders import FoundBuffer, Space
from zpipe.core.downstream.buffered_link import BufferedLink
from zpipe.core.policy import MIB, Bound, BufferPolicy, LinkPolicy
from zpipe.daemon.links.disk_buffers import DiskBufferShell
from zpipe.daemon.outages import Outage
from zpipe.daemon.storage.segment_log import SegmentLog


def shell(folder: Path) -> tuple[DiskBufferShell, BufferedLink, Outage]:
    log = logging.getLogger("zpipe.test")
    policy = BufferPolicy()
    link = BufferedLink("", "b", "disk", LinkPolicy(), policy, Bound(100, MIB), FoundBuffer("4f1d" * 8))
    stage: Any = SimpleNamespace(handle=lambda event, now: event.link.heard(event.what, now))
    outage = Outage(log, "buffer.failing", "buffer.working", "the disk buffer to b")
    unread = Outage(log, "buffer.unreadable", "buffer.readable", "the disk buffer to b")
    segments = SegmentLog(folder, policy, lambda event: None)
    return DiskBufferShell(segments, link, stage, outage, unread), link, outage


def test_what_cannot_be_read_is_logged_and_does_not_hold_up_the_stage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, link, outage = shell(tmp_path)
    made.heard(Space(True, "cannot read it"))
    assert "event=buffer.unreadable" in caplog.text and not outage.text
    assert link.room and link.figures(0.0)["buffer"]["trouble"] == "cannot read it"
    made.heard(Space(False, "the disk is full"))
    assert outage.text == "the disk buffer to b: the disk is full" and not link.room
    made.heard(Space(True))
    assert "event=buffer.readable" in caplog.text and "event=buffer.working" in caplog.text and not outage.text
