"""A pipeline with a disk buffer, simulated: what was acked is never lost, whoever is killed, and numbers outlive the producer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from zpipe.core.buffer.orders import (
    Append,
    Durable,
    Finish,
    FoundBuffer,
    FoundSegment,
    Noted,
    Read,
    Records,
    Remove,
    Removed,
)
from zpipe.core.buffer.orders import StoredRecord as Record
from zpipe.core.downstream.buffered_link import BufferedLink
from zpipe.core.policy import MIB, Bound, BufferPolicy, LinkPolicy, StagePolicy
from zpipe.core.ranges import RangeSet
from zpipe.testing import Simulation, Spec
from zpipe.testing.simulated_plugin import Heard, SimulatedLinks

COUNT = 1000
SEGMENT = 100
"""Messages of a segment."""
SYNC_S, READ_S, HINTS_S = 0.002, 0.001, 0.1


class Disk:
    """What outlives the instance: records that were synced, and what was noted as finished. Nothing is noted without `hints`."""

    def __init__(self, policy: BufferPolicy, hints: bool = True) -> None:
        self.policy = policy
        self.segments: dict[int, list[Record]] = {}
        self.finished = RangeSet()
        self.unreadable = RangeSet()
        self.next_number = 1
        self.links: list[BufferedLink] = []
        self._hints = hints

    def make(self, instance: int, heard: Heard) -> SimulatedLinks:
        """The links of one life."""
        segments = [FoundSegment(first, _stop(records), 1) for first, records in self.segments.items() if records]
        found = FoundBuffer("4f1d" * 8, self.next_number, tuple(segments), tuple(self.finished), len(segments))
        link = BufferedLink("", "b", "disk", LinkPolicy(), self.policy, Bound(200, MIB), found)
        self.links.append(link)
        appended: list[Append] = []

        def perform(shell: str, order: Any) -> None:
            match order:
                case Append():
                    appended.append(order)
                    heard(SYNC_S, partial(self._sync, link, appended))
                case Read(number, _):
                    heard(READ_S, lambda: link.heard(self._read(number), 0.0))
                case Finish(start, stop) if self._hints:
                    heard(HINTS_S, partial(self._note, link, start, stop))
                case Remove(firsts):
                    for first in firsts:
                        del self.segments[first]
                    heard(READ_S, lambda: link.heard(Removed(firsts, len(self.segments)), 0.0))

        return SimulatedLinks(outgoing=[link], perform=perform)

    def _sync(self, link: BufferedLink, appended: list[Append]) -> tuple[()]:
        """Everything that waits is durable from here on. A process that was killed before does not come here."""
        if not appended:
            return ()
        begun = []
        for one in appended:
            last = max(self.segments, default=0)
            if not last or one.first >= last + SEGMENT:
                self.segments[last := one.first] = []
                begun.append(last)
            self.segments[last].append(Record(one.first, one.messages, one.attempt, bytes(one.body)))
            self.next_number = one.first + one.messages
        appended.clear()
        return link.heard(Durable(self.next_number, tuple(begun), len(self.segments)), 0.0)

    def _note(self, link: BufferedLink, start: int, stop: int) -> tuple[()]:
        """A process that was killed before does not come here."""
        self.finished.add(start, stop)
        return link.heard(Noted(((start, stop),)), 0.0)

    def _read(self, number: int) -> Records:
        """Some records at a time."""
        records = [one for part in self.segments.values() for one in part if one.first + one.messages > number][:5]
        stop = _stop(records) if records else self.next_number
        given = tuple(one for one in records if one.first not in self.unreadable)
        return Records(number, stop, given, unreadable=tuple(self.unreadable))


def _stop(records: list[Record]) -> int:
    return records[-1].first + records[-1].messages


def pipeline(disk: Disk, seed: int = 0, consumers: int = 1) -> Simulation:
    policy = StagePolicy(unacked=Bound(200, MIB))
    return Simulation(
        [
            Spec("a", messages=COUNT, section=10, policy=policy, make_links=disk.make),
            Spec("b", (("a", ""),), consumers, seconds=lambda instance: 0.0005),
            Spec("c", (("b", ""),), seconds=lambda instance: 0.0001),
        ],
        seed,
    )


def ids(sim: Simulation) -> list[str]:
    return [one.id for one in sim.stored]


def run_until(sim: Simulation, condition: Callable[[], bool]) -> None:
    assert sim.run(condition), "it does not come so far"


def test_the_source_finishes_while_the_consumer_is_away_which_then_gets_each_once_and_in_order() -> None:
    disk = Disk(BufferPolicy())
    sim = pipeline(disk)
    sim.kill(("b", 1))
    run_until(sim, lambda: sim.disks["a", 1].position == COUNT)
    assert disk.links[-1].buffer.stored_messages == COUNT
    sim.boot("b", 1)
    run_until(sim, lambda: len(sim.stored) > COUNT // 3)
    sim.kill(("a", 1))  # everything is acked to its source, so only the disk has the rest
    sim.boot_later(("a", 1), 0.05)
    assert sim.run() and not sim.problems
    assert len(ids(sim)) == COUNT == len(set(ids(sim)))
    assert ids(sim) == sorted(ids(sim), key=lambda id: int(id.rpartition(":")[2]))
    assert not disk.links[-1].buffer.stored_messages


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("hints", [True, False])
def test_nothing_that_was_acked_is_lost_whoever_is_killed(seed: int, hints: bool) -> None:
    """Without hints everything that is still on the disk comes again: duplicates, and no loss."""
    disk = Disk(BufferPolicy(), hints)
    sim = pipeline(disk, seed, consumers=2)
    for n, key in enumerate([("a", 1), ("b", 1), ("a", 1), ("b", 2), ("a", 1)]):
        run_until(sim, lambda n=n: len(sim.stored) > COUNT * n // 8)  # type: ignore[misc]
        sim.kill(key)
        sim.boot_later(key, 0.03)
    assert sim.run() and not sim.problems
    assert len(set(ids(sim))) == COUNT


def test_a_full_buffer_stops_the_source_at_its_bound_and_goes_on() -> None:
    disk = Disk(BufferPolicy(messages=300))
    sim = pipeline(disk)
    sim.kill(("b", 1))
    sim.run(lambda: False, seconds=5.0)
    [link] = disk.links
    assert link.buffer.stored_messages - link.unsent_messages <= 300 and link.room == 0
    assert sim.disks["a", 1].position <= 300
    sim.boot("b", 1)
    assert sim.run() and not sim.problems
    assert len(ids(sim)) == COUNT == len(set(ids(sim)))


def test_a_stage_that_leaves_its_buffer_ends_with_the_rest_stored() -> None:
    disk = Disk(BufferPolicy())
    sim = pipeline(disk)
    sim.kill(("b", 1))
    sim.nodes["a", 1].stage.shutdown.leave_stored()
    run_until(sim, lambda: ("a", 1) not in sim.nodes)
    [link] = disk.links
    assert link.left and link.stored_messages == COUNT and not sim.problems
    assert sim.disks["a", 1].completed


def test_what_the_disk_does_not_give_stays_stored_and_holds_up_neither_others_nor_the_end() -> None:
    disk = Disk(BufferPolicy())
    sim = pipeline(disk)
    sim.kill(("b", 1))
    run_until(sim, lambda: sim.disks["a", 1].position == COUNT)
    link = disk.links[-1]
    sim.kill(("a", 1))  # so that all is read from the disk
    first = disk.segments[201][3].first
    disk.unreadable.add(first, first + 10)
    sim.boot_later(("a", 1), 0.05)
    sim.boot("b", 1)
    run_until(sim, lambda: ("a", 1) not in sim.nodes and bool(len(ids(sim)) == COUNT - 10))
    link = disk.links[-1]
    assert (link.stored_messages, link.buffer.unreadable_messages, link.buffer.lost_total) == (10, 10, 0)
    assert link.drained and not link.left and not sim.problems
    assert list(disk.segments) == [201, 901], "its segment stays, and the last"


def test_a_consumer_is_never_told_to_forget_what_the_next_life_would_send_again() -> None:
    disk = Disk(BufferPolicy())
    sim = pipeline(disk)

    def forgotten_early() -> bool:
        return disk.links[0].outlet.lowest > max(disk.finished.first_stop, 1)

    run_until(sim, lambda: forgotten_early() or len(sim.stored) == COUNT)
    assert not forgotten_early() and disk.links[0].outlet.lowest > 1
