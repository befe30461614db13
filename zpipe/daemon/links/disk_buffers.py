"""The disk buffers of one instance: a folder, a segment log and a link for each stage that reads its outputs. Must not live here:
what is in the files, and which messages are where.

A log has a thread of its own, which only posts what it has done: the link hears it on the loop's thread.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path

from zpipe.config import PipelineConfig
from zpipe.core.buffer.orders import BufferEvent, Order, Space
from zpipe.core.downstream.buffered_link import BufferedLink
from zpipe.core.events import LinkHeard
from zpipe.core.policy import StagePolicy
from zpipe.core.stage import Stage
from zpipe.daemon.mailbox import Mailbox
from zpipe.daemon.outages import Outage
from zpipe.daemon.storage.segment_log import SegmentLog
from zpipe.folders import buffer_folder
from zpipe.runtime.logs import fields

NEVER = float("inf")


class DiskBuffers:
    """`outgoing` are for the stage, and none where it has no buffer. Opening them blocks (some ten milliseconds a gigabyte).

    Raises OperatorError if a folder cannot be made or listed.
    """

    def __init__(
        self,
        config: PipelineConfig,
        stage: str,
        policy: StagePolicy,
        state: Path,
        mailbox: Mailbox,
        log: logging.Logger,
    ) -> None:
        self.outgoing: list[BufferedLink] = []
        self.outages: list[Outage] = []
        self._logs: dict[str, SegmentLog] = {}
        self._shells: dict[str, DiskBufferShell] = {}
        self._mailbox = mailbox
        self._log = log
        if (buffer := config.stages[stage].buffer) is None:
            return
        for outlet, consumer in config.consumers(stage):
            if config.stages[consumer].link is not None:
                continue  # the cluster stores what it reads
            folder = buffer_folder(state, outlet, consumer)
            segments = self._logs[folder.name] = SegmentLog(folder, buffer, partial(self._post, folder.name))
            found = segments.open()
            link = BufferedLink(outlet, consumer, folder.name, policy.link, buffer, policy.unacked, found)
            self.outgoing.append(link)
            if link.stored_messages or found.torn_bytes or found.bad_files:
                log.info(
                    fields(
                        event="buffer.found",
                        to=consumer,
                        stored=link.stored_messages,
                        torn_bytes=found.torn_bytes,
                        bad_files=found.bad_files,
                        folder=folder,
                    )
                )

    def say_kept(self) -> None:
        """Warns that stored messages are sent although the run starts over (`--fresh`): they were acked to earlier lives, so
        nobody would send them again."""
        for link in self.outgoing:
            if stored := link.stored_messages:
                reason = "--fresh keeps what was acked: it is sent; to have it never be sent: zpipe buffer drop"
                self._log.warning(fields(event="buffer.kept", to=link.consumer, stored=stored, reason=reason))

    def shells(self, stage: Stage) -> dict[str, DiskBufferShell]:
        """The shells, not started, by the names that their links know them by."""
        for link in self.outgoing:
            what = f"the disk buffer to {link.consumer}"
            outage = Outage(self._log, "buffer.failing", "buffer.working", what)
            unread = Outage(self._log, "buffer.unreadable", "buffer.readable", what)
            self.outages.append(outage)
            self._shells[link.shell] = DiskBufferShell(self._logs[link.shell], link, stage, outage, unread)
        return self._shells

    def _post(self, name: str, event: BufferEvent) -> None:
        """On the log's thread."""
        self._mailbox.post(lambda: self._shells[name].heard(event))


class DiskBufferShell:
    """The shell of one buffered link.

    outage  the log cannot write, which holds up the stage;  unread: it cannot read, which does not
    """

    def __init__(self, segments: SegmentLog, link: BufferedLink, stage: Stage, outage: Outage, unread: Outage) -> None:
        self._segments = segments
        self._link = link
        self._stage = stage
        self._outage = outage
        self._unread = unread

    def start(self) -> None:
        self._note_trouble(self._link.buffer.space)
        self._segments.start()

    def close(self) -> None:
        """Blocks until what waits is durable, if the disk works."""
        self._segments.close()

    def perform(self, what: Order) -> None:
        self._segments.perform(what)

    def turn(self, now: float) -> float:
        return NEVER

    def heard(self, event: BufferEvent) -> None:
        """On the loop's thread."""
        self._stage.handle(LinkHeard(self._link, event), time.monotonic())
        if isinstance(event, Space):
            self._note_trouble(event)

    def _note_trouble(self, space: Space) -> None:
        if space.taking:
            self._outage.worked()
        else:
            self._outage.failed(space.trouble)
        if space.taking and space.trouble:
            self._unread.failed(space.trouble)
        elif space.taking:
            self._unread.worked()
