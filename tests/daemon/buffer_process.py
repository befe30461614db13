"""A process that stores messages in a disk buffer and takes them out again, until it is killed: FOLDER LIFE [drain].

It says on stdout what was acked ("A life start stop") and what a consumer got ("T life start stop"), each before anything follows
from it; "W" and an id is for a message that is not what was offered.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from zpipe.core.buffer.disk_buffer import DiskBuffer
from zpipe.core.buffer.orders import BufferEvent
from zpipe.core.ledger import Derivation
from zpipe.core.policy import Bound, BufferPolicy
from zpipe.core.wire import section
from zpipe.core.wire.section import Section
from zpipe.core.work.task import Chunk
from zpipe.daemon.storage.segment_log import SegmentLog


class Segments(BufferPolicy):
    """Small ones, so that a short life has some."""

    @property
    def segment_bytes(self) -> int:
        return 64 * 1024


POLICY = Segments(bytes=2 << 20, messages=20_000, ahead_bytes=64 * 1024)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def payload(id: str) -> str:
    return hashlib.sha256(id.encode()).hexdigest() * (1 + sum(id.encode()) % 5)


class Acked:
    """The input that a section was made from."""

    def __init__(self, *words: object) -> None:
        self._words = words

    def finish(self) -> None:
        say("A", *self._words)


class Consumers:
    def __init__(self) -> None:
        self.unsent: deque[Section] = deque()
        self.in_flight: list[Section] = []

    @property
    def unsent_bytes(self) -> int:
        return sum(one.size for one in self.unsent)

    def put(self, section: Section) -> None:
        self.unsent.append(section)

    def work(self, chance: random.Random) -> None:
        for _ in range(min(len(self.unsent), chance.randrange(8))):
            one = self.unsent.popleft()
            ids, _, payloads, _ = one.columns()
            for id, got in zip(ids, payloads, strict=True):
                if got != payload(id):
                    say("W", id)
            life, start = ids[0].split(":")
            say("T", life, start, int(start) + len(ids))
            self.in_flight.append(one)
        while self.in_flight and chance.random() < 0.7:
            self.in_flight.pop(chance.randrange(len(self.in_flight))).settle()


def main(folder: str, life: str, drain: bool) -> None:
    chance = random.Random(int(life))
    events: SimpleQueue[BufferEvent] = SimpleQueue()
    log = SegmentLog(Path(folder), POLICY, events.put)
    consumers = Consumers()
    buffer = DiskBuffer(POLICY, Bound(2000, 1 << 20), log.open(), consumers)
    log.start()
    number = 0
    while not drain or buffer.stored_messages:
        for _ in range(0 if drain else chance.randrange(6)):
            messages = chance.randrange(1, 40)
            if buffer.room < messages:
                break
            ids = [f"{life}:{number + n}" for n in range(messages)]
            body = section.encode(ids, [0.0] * messages, [payload(id) for id in ids], None)
            derivation = Derivation([Acked(life, number, number + messages)])
            buffer.offer(Chunk("", messages, body), derivation)
            derivation.close()
            number += messages
        for order in buffer.orders():
            log.perform(order)
        with suppress(Empty):  # nothing comes where the buffer waits for its consumers
            buffer.heard(events.get(timeout=0.02))
            while True:
                buffer.heard(events.get_nowait())
        consumers.work(chance)
        assert buffer.off() == 0
    log.close()
    say("E")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], "drain" in sys.argv)
