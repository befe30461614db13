"""A disk buffer as its stage uses it, without threads: life after life over one disk, with what each message should be.

What is checked after every step: a message that upstream was told of is readable or was taken by a consumer, and every message is
what was offered, in order and under a number that no other has.
"""

from __future__ import annotations

import errno
import random
from collections import deque
from pathlib import Path

from fake_disk import FakeDisk

from zpipe.core.buffer.disk_buffer import DiskBuffer
from zpipe.core.buffer.orders import Append, BufferEvent, FoundBuffer, Order
from zpipe.core.ledger import EachDerivation
from zpipe.core.policy import Bound, BufferPolicy
from zpipe.core.wire import section
from zpipe.core.wire.section import Section
from zpipe.core.work.task import Chunk
from zpipe.daemon.storage.segment_log import SegmentLog
from zpipe.runtime.segment_folder import PAGE_BYTES

FOLDER = Path("/buffer")


class Consumers:
    """What stands in for the outlet and its consumers: a queue of sections, and those that are in flight."""

    def __init__(self) -> None:
        self.unsent: deque[Section] = deque()
        self.in_flight: list[Section] = []
        self.put_numbers: list[tuple[int, int]] = []

    @property
    def unsent_bytes(self) -> int:
        return sum(one.size for one in self.unsent)

    def put(self, section: Section) -> None:
        self.put_numbers.append((section.first, section.first + section.count))
        self.unsent.append(section)


class Upstream:
    """An input of the stage: one message, which is finished when what was made of it is durable."""

    def __init__(self, told: set[str], id: str) -> None:
        self._told = told
        self._id = id
        self.count = 1

    def part(self, start: int, stop: int) -> Upstream:
        return self

    def finish(self) -> None:
        self._told.add(self._id)


class Lives:
    """The buffer of a stage over all lives of its process.

    acked      ids that upstream was told of;  taken  those that consumers have finished
    by_number  the id of each (identity, number) that was sent;  numbered: that was offered last
    """

    def __init__(self, policy: BufferPolicy, unacked: Bound | None = None, disk: FakeDisk | None = None) -> None:
        self.disk = disk or FakeDisk()
        self.policy = policy
        self.unacked = unacked or Bound(10_000, 1 << 24)
        self.now = 0.0
        self.acked: set[str] = set()
        self.taken: set[str] = set()
        self.offered: dict[str, object] = {}
        self.by_number: dict[tuple[str, int], str] = {}
        self.numbered: dict[tuple[str, int], str] = {}
        self.sync_failed = False
        self.next_id = 0
        self.begin()

    def begin(self) -> None:
        """The next life of the process."""
        self.events: list[BufferEvent] = []
        self.log = SegmentLog(FOLDER, self.policy, self.events.append, self.disk)
        self.found: FoundBuffer = self.log.open()
        self.consumers = Consumers()
        self.buffer = DiskBuffer(self.policy, self.unacked, self.found, self.consumers)
        self.ordered: list[Order] = []
        self.check()

    def offer(self, messages: int, size: int = 10, payload: object = None) -> list[str]:
        """So many messages in one section. Returns their ids."""
        ids = [f"m{self.next_id + n}" for n in range(messages)]
        self.next_id += messages
        payloads = [payload or f"{id}:" + "x" * size for id in ids]
        self.offered.update(zip(ids, payloads, strict=True))
        for number, id in enumerate(ids, self.buffer.next_number):
            self.numbered[self.buffer.identity, number] = id
        derivation = EachDerivation([Upstream(self.acked, id) for id in ids])
        body = section.encode(ids, [0.0] * messages, payloads, None)
        self.buffer.offer(Chunk("", messages, body, range(messages)), derivation)
        derivation.close_but(())
        return ids

    def turn(self) -> None:
        """What is ordered is carried out, and told."""
        self.turn_unchecked()
        self.check()

    def turn_unchecked(self) -> None:
        """Where a bound is passed on purpose."""
        orders = list(self.buffer.orders())
        self.ordered += orders
        unsynced = "sync" in self.disk.failing or "sync_folder" in self.disk.failing
        if unsynced and any(isinstance(order, Append) for order in orders):
            self.sync_failed = True
        self.log.turn(orders, self.now)
        self.hear()

    def hear(self) -> None:
        for event in self.events:
            self.buffer.heard(event)
        self.events.clear()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.turn()

    def send(self, sections: int) -> None:
        for _ in range(min(sections, len(self.consumers.unsent))):
            one = self.consumers.unsent.popleft()
            columns = one.columns()
            for offset, (id, payload) in enumerate(zip(columns.ids, columns.payloads, strict=True)):
                assert self.offered.get(id) == payload, f"{id} is not what was offered"
                number = self.buffer.identity, one.first + offset
                assert self.by_number.setdefault(number, id) == id, (
                    f"number {number} was {self.by_number[number]}, and is {id}"
                )
            self.consumers.in_flight.append(one)

    def take(self, sections: int, chance: random.Random) -> None:
        """Consumers finish some of what is in flight, in any order, and parts of sections."""
        for _ in range(min(sections, len(self.consumers.in_flight))):
            one = self.consumers.in_flight.pop(chance.randrange(len(self.consumers.in_flight)))
            if one.count > 1 and chance.random() < 0.3:
                at = chance.randrange(1, one.count)
                self.consumers.in_flight.append(one.cut(at, one.count))
                one = one.cut(0, at)
            self.taken.update(one.columns().ids)
            one.settle()

    def lose_consumers(self) -> None:
        for one in sorted(self.consumers.in_flight, key=lambda one: one.first, reverse=True):
            self.consumers.unsent.appendleft(one)
        self.consumers.in_flight.clear()

    # ---- ends of a life

    def lose_power(self, chance: random.Random) -> None:
        self.disk.failing.clear()
        self.disk.lose_power(chance)
        self.begin()

    def kill(self) -> None:
        self.disk.end_process()
        self.begin()

    def close(self) -> None:
        self.log.close()
        self.hear()
        self.check()
        self.disk.end_process()
        self.begin()

    # ---- what must hold

    def check(self) -> None:
        assert self.buffer.off() == 0, f"off by {self.buffer.off()}"
        assert self.buffer.stored_messages >= 0 and self.buffer.unread_messages >= 0
        stops = [stop for _, stop in self.consumers.put_numbers]
        assert stops == sorted(stops), "messages were put out of order"
        if not self.sync_failed:
            assert self.buffer.figures().lost_total == 0
        segments = sum(len(inode.data) for path, inode in self.disk.files.items() if path.suffix == ".seg")
        if not self.disk.failing and segments > self.policy.bytes:
            raise AssertionError(f"{segments} bytes of segments, of {self.policy.bytes}")

    def settle_down(self, chance: random.Random, turns: int = 300, but: int = 0) -> None:
        """The disk works again and consumers take everything that is there, but so many messages that are damaged."""
        self.disk.failing.clear()
        self.disk.bad_pages.clear()
        self.disk.capacity = 1 << 40
        if self.found.unreadable or self.buffer.unreadable_messages:  # that is for the next life
            self.kill()
        for _ in range(turns):
            self.wait(1.1)
            self.send(1000)
            self.take(1000, chance)
            if not self.buffer.stored_messages and not self.consumers.in_flight:
                break
        else:
            raise AssertionError(f"{self.buffer.figures()} after {turns} turns")
        missing = self.acked - self.taken
        assert len(missing) <= but, f"{len(missing)} messages were acked and are gone, such as {min(missing)}"

    def spoil_pages(self, chance: random.Random, pages: int) -> None:
        """Some pages of the files cannot be read, until they can."""
        places = [
            (path, at) for path, inode in self.disk.files.items() for at in range(-(-len(inode.data) // PAGE_BYTES))
        ]
        self.disk.bad_pages.update(chance.sample(places, min(pages, len(places))))

    def fail(self, call: str, number: int = errno.EIO) -> None:
        self.disk.failing[call] = number
