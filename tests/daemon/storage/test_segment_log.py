"""The segment log and the disk buffer together, on a disk in memory and on a real one."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from pathlib import Path

import pytest
from buffer_lives import FOLDER, Lives
from fake_disk import FakeDisk

from zpipe.core.buffer.orders import Append, BufferEvent, Durable, Finish, Read, Records, Remove, Space
from zpipe.core.downstream.buffered_link import BufferedLink
from zpipe.core.policy import Bound, BufferPolicy, LinkPolicy
from zpipe.core.wire import section
from zpipe.daemon.storage import segment_writer
from zpipe.daemon.storage.segment_log import SegmentLog
from zpipe.errors import OperatorError

ROOMY = BufferPolicy(bytes=1 << 40)
CHANCE = random.Random(1)


class Small(BufferPolicy):
    """Segments of some records."""

    @property
    def segment_bytes(self) -> int:
        return 1000


def segments(lives: Lives) -> list[Path]:
    return sorted(path for path in lives.disk.files if path.suffix == ".seg")


# ---- group commit


def test_all_that_waits_is_made_durable_by_one_sync() -> None:
    lives = Lives(ROOMY)
    for _ in range(50):
        lives.offer(2)
    lives.turn()
    assert (len(lives.acked), lives.disk.syncs) == (100, 1)


def test_with_an_interval_nothing_is_acked_before_its_sync() -> None:
    lives = Lives(BufferPolicy(bytes=1 << 40, sync_s=0.05))
    lives.offer(1)
    lives.turn()
    assert len(lives.acked) == 1
    for _ in range(3):
        lives.offer(1)
        lives.wait(0.01)
    assert (len(lives.acked), lives.disk.syncs) == (1, 1)
    lives.wait(0.03)
    assert (len(lives.acked), lives.disk.syncs) == (4, 2)


def test_the_log_asks_to_be_called_again_when_a_sync_is_due() -> None:
    events: list[BufferEvent] = []
    log = SegmentLog(FOLDER, BufferPolicy(bytes=1 << 40, sync_s=0.05), events.append, FakeDisk())
    log.open()
    assert log.turn([], 10.0) == float("inf")
    assert log.turn([Append(1, 1, 1, b"a")], 10.0) == float("inf")
    assert log.turn([Append(2, 1, 1, b"b")], 10.01) == pytest.approx(10.05)
    assert log.turn([], 10.05) == float("inf")
    assert [event.stop for event in events if isinstance(event, Durable)] == [2, 3]


# ---- bounds


@pytest.mark.parametrize("messages", [1, 3])
def test_the_bound_on_messages_is_exact(messages: int) -> None:
    lives = Lives(BufferPolicy(bytes=1 << 40, messages=30))
    for _ in range(30 // messages):
        assert lives.buffer.room >= messages
        lives.offer(messages)
        lives.turn()
    assert (lives.buffer.room, len(lives.acked)) == (0, 30)
    lives.offer(1)
    lives.turn()
    assert len(lives.acked) == 30, "one more than the bound was stored"
    lives.send(1)
    lives.take(1, CHANCE)
    lives.turn()
    assert len(lives.acked) == 31
    lives.settle_down(CHANCE)


def test_a_section_of_more_messages_than_the_bound_is_cut() -> None:
    lives = Lives(BufferPolicy(bytes=1 << 40, messages=4))
    lives.offer(10)
    lives.turn()
    assert len(lives.acked) == 4
    lives.settle_down(CHANCE)
    assert len(lives.taken) == 10


def test_the_bound_on_bytes_is_never_passed_and_room_comes_back() -> None:
    lives = Lives(Small(bytes=5000))
    for _ in range(200):
        lives.offer(1, 50)
        lives.turn()
    full = len(lives.acked)
    on_disk = sum(len(lives.disk.files[path].data) for path in segments(lives))
    assert on_disk <= 5000 and lives.buffer.room == 0
    assert on_disk > 5000 - 1000, "a fifth and more of what is allowed is not used"
    lives.settle_down(CHANCE)
    assert full < len(lives.acked) == 200


def test_the_last_byte_of_the_bound_is_used() -> None:
    def stored(size: int) -> int:
        lives = Lives(BufferPolicy(bytes=size))
        for _ in range(3):
            lives.offer(1, 50)
            lives.turn()
        return len(lives.acked)

    least = next(size for size in range(600, 3000) if stored(size) == 3)
    assert (stored(least - 1), stored(least)) == (2, 3)


def test_a_message_larger_than_the_bound_is_stored_alone() -> None:
    lives = Lives(Small(bytes=3000))
    lives.offer(1)
    lives.turn()
    lives.offer(1, 10_000)
    lives.turn()
    assert len(lives.acked) == 1
    lives.disk.total = 0
    lives.send(1)
    lives.take(1, CHANCE)
    for _ in range(3):
        lives.turn_unchecked()
    assert len(lives.acked) == 2


def test_a_torn_file_without_a_message_goes_before_the_bound_is_passed() -> None:
    lives = Lives(Small(bytes=2500))
    lives.offer(1, 800)
    lives.turn()
    (path,) = segments(lives)
    lives.disk.files[path].data[:] = bytes(950)
    lives.sync_failed = True
    lives.kill()
    assert lives.buffer.figures().disk_bytes == 950 and not lives.buffer.stored_messages
    new = lives.offer(1, 1900)
    for _ in range(3):
        lives.wait(0.2)
    assert lives.acked >= set(new) and path not in lives.disk.files


def test_a_message_larger_than_the_bound_leaves_room_behind_it() -> None:
    lives = Lives(Small(bytes=3000))
    lives.offer(1, 10_000)
    lives.turn_unchecked()
    lives.send(1)
    lives.take(1, CHANCE)
    lives.wait(0.2)
    assert lives.buffer.room > 0


def test_what_is_not_durable_is_bounded_by_unacked() -> None:
    lives = Lives(ROOMY, unacked=Bound(10, 1 << 20))
    lives.fail("sync")
    lives.offer(8)
    lives.turn()
    assert lives.buffer.room == 0, "the log does not work"
    lives.disk.failing.clear()
    lives.wait(1.1)
    assert lives.buffer.room == 10


# ---- a disk that is full, failing, or read-only


def test_after_a_failed_sync_what_was_not_durable_goes_to_another_segment() -> None:
    lives = Lives(ROOMY)
    lives.offer(3)
    lives.turn()
    lives.fail("sync")
    lives.offer(3)
    lives.turn()
    assert len(lives.acked) == 3 and "Input/output error" in lives.buffer.trouble
    lives.disk.failing.clear()
    lives.wait(1.1)
    assert len(lives.acked) == 6 and lives.buffer.trouble == ""
    assert [int(path.stem) for path in segments(lives)] == [1, 4]
    lives.lose_power(CHANCE)
    lives.settle_down(CHANCE)


def test_a_failed_sync_of_the_first_records_gives_the_name_to_another_file() -> None:
    lives = Lives(ROOMY)
    lives.fail("sync")
    lives.offer(3)
    lives.turn()
    lives.disk.failing.clear()
    lives.wait(1.1)
    assert len(lives.acked) == 3
    lives.lose_power(CHANCE)
    lives.settle_down(CHANCE)


def test_what_a_killed_process_has_not_synced_is_synced_before_it_is_sent() -> None:
    lives = Lives(BufferPolicy(bytes=1 << 40, sync_s=0.05))
    lives.wait(1)
    for _ in range(2):
        lives.offer(1)
        lives.turn()
    (path,) = segments(lives)
    inode = lives.disk.files[path]
    assert inode.kept != inode.data
    lives.kill()
    assert inode.kept == inode.data and lives.buffer.stored_messages == 2


@pytest.mark.parametrize("call", ["write", "open", "truncate", "sync_folder", "sync", "remove", "rename", "all"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_any_call_may_fail_and_work_again(call: str, number: int) -> None:
    lives = Lives(Small(bytes=1 << 40))
    for _ in range(20):
        lives.offer(2)
        lives.turn()
    lives.fail(call, number)
    lives.send(10)
    lives.take(10, CHANCE)
    for _ in range(20):
        lives.offer(2)
        lives.turn()
    lives.disk.failing.clear()
    lives.wait(1.1)
    assert len(lives.acked) == 80
    lives.lose_power(CHANCE)
    lives.settle_down(CHANCE)


def test_a_full_disk_is_waited_for_and_nothing_is_damaged_by_it() -> None:
    lives = Lives(ROOMY)
    lives.offer(2)
    lives.turn()
    lives.disk.capacity = lives.disk.used + 60
    lives.offer(2, 100)
    lives.offer(2, 100)
    lives.turn()
    assert len(lives.acked) == 2 and "No space left" in lives.buffer.trouble and lives.buffer.room == 0
    lives.wait(0.5)
    assert len(lives.acked) == 2
    lives.disk.capacity = 1 << 40
    lives.wait(1.1)
    assert len(lives.acked) == 6 and lives.buffer.room > 0
    lives.kill()
    assert lives.found.torn_bytes == 0
    lives.settle_down(CHANCE)


def test_what_is_finished_is_removed_from_a_full_disk() -> None:
    lives = Lives(Small(bytes=1 << 40))
    for _ in range(40):
        lives.offer(2)
        lives.turn()
    lives.disk.capacity = lives.disk.used
    lives.send(40)
    while lives.consumers.in_flight:
        lives.take(1000, CHANCE)
    lives.turn()
    assert len(segments(lives)) == 1
    lives.offer(2)
    lives.wait(1.1)
    assert len(lives.acked) == 82


def full_with_the_last_segment_finished() -> tuple[Lives, int]:
    """At the bound on bytes, with the first segments in flight. Also the first number of the last, which may go."""
    lives = Lives(Small(bytes=3000))
    while lives.buffer.room:
        lives.offer(1, 50)
        lives.turn()
    last = int(segments(lives)[-1].stem)
    lives.offer(1, 900)
    lives.turn()
    lives.send(1000)
    for one in [one for one in lives.consumers.in_flight if one.first >= last]:
        lives.consumers.in_flight.remove(one)
        lives.taken.update(one.columns().ids)
        one.settle()
    return lives, last


def test_the_last_name_stays_on_a_disk_without_room_for_another() -> None:
    lives, last = full_with_the_last_segment_finished()
    lives.disk.capacity = lives.disk.used
    lives.turn()
    lives.kill()
    assert lives.found.next_number > last + 1, "numbers that consumers know are used again"
    lives.settle_down(CHANCE)


def test_the_last_name_is_durable_before_the_one_before_it_goes() -> None:
    for seed in range(50):
        lives, last = full_with_the_last_segment_finished()
        lives.turn()
        lives.lose_power(random.Random(seed))
        assert lives.found.next_number > last + 1, "numbers that consumers know are used again"
        lives.settle_down(CHANCE)


def test_the_last_name_stays_while_its_file_is_replaced() -> None:
    for seed in range(50):
        lives, _ = full_with_the_last_segment_finished()
        lives.turn()
        lives.close()
        lives.disk.sync_folder(FOLDER)  # time goes by
        number = lives.found.next_number
        lives.fail("sync")
        lives.offer(1)
        lives.turn()
        lives.lose_power(random.Random(seed))
        assert lives.found.next_number >= number, "numbers that consumers know are used again"
        lives.settle_down(CHANCE)


def test_it_takes_no_more_when_a_twentieth_of_the_disk_or_two_segments_are_left() -> None:
    disk = FakeDisk(capacity=1_000_000)
    lives = Lives(Small(bytes=1 << 40), disk=disk)
    disk.total = 1_000_000
    lives.offer(1)
    lives.wait(2)
    assert lives.buffer.room
    disk.capacity = disk.used + 50_000 - 1
    lives.offer(1)
    lives.wait(2)
    assert not lives.buffer.room and "are left to others" in lives.buffer.trouble
    disk.capacity = disk.used + 50_000
    lives.wait(2)
    assert lives.buffer.room
    disk.total = 0
    disk.capacity = disk.used + 1999
    lives.offer(1)
    lives.wait(2)
    assert not lives.buffer.room
    disk.capacity = disk.used + 2000
    lives.wait(2)
    assert lives.buffer.room


def test_a_read_only_disk_gives_what_is_there() -> None:
    lives = Lives(ROOMY)
    lives.offer(5)
    lives.turn()
    lives.fail("all", errno.EROFS)
    lives.fail("open_to_write", errno.EROFS)
    lives.kill()
    lives.turn()
    lives.send(10)
    assert sum(one.count for one in lives.consumers.in_flight) == 5
    lives.take(10, CHANCE)
    lives.wait(1.1)
    lives.offer(1)
    lives.wait(1.1)
    assert "Read-only file system" in lives.buffer.trouble and not lives.buffer.room
    lives.settle_down(CHANCE)


def test_a_disk_with_no_room_says_also_that_nothing_can_be_removed_from_it() -> None:
    lives = Lives(Small(bytes=1 << 40))
    for _ in range(40):
        lives.offer(2)
        lives.turn()
    lives.disk.capacity = lives.disk.used + 1500  # less than two segments
    lives.offer(2)
    lives.wait(1.1)
    lives.fail("remove", errno.EROFS)
    lives.send(1000)
    while lives.consumers.in_flight:
        lives.take(1000, CHANCE)
    lives.wait(1.1)
    assert "left to others" in lives.buffer.trouble and "removed: Read-only file system" in lives.buffer.trouble
    lives.settle_down(CHANCE)
    assert lives.buffer.trouble == ""


def test_a_folder_that_cannot_be_listed_is_said_to_the_operator() -> None:
    disk = FakeDisk()
    disk.failing["names"] = errno.EACCES
    log = SegmentLog(FOLDER, ROOMY, lambda event: None, disk)
    with pytest.raises(OperatorError, match="its owner must be the user"):
        log.open()


def test_too_many_open_files_are_waited_for() -> None:
    lives = Lives(ROOMY)
    lives.offer(5)
    lives.turn()
    lives.close()
    lives.fail("open", errno.EMFILE)
    lives.turn()
    assert "Too many open files" in lives.buffer.trouble
    lives.disk.failing.clear()
    lives.settle_down(CHANCE)


def test_time_that_jumps_changes_nothing() -> None:
    lives = Lives(Small(bytes=1 << 40, sync_s=0.05))
    for jump in (0.0, 1e6, 3.0, 1e9, 0.1):
        lives.now += jump
        for _ in range(10):
            lives.offer(2)
            lives.wait(0.06)
    lives.settle_down(CHANCE)
    assert len(lives.taken) == 100


# ---- lives


def test_identity_and_numbers_go_on_in_the_next_life() -> None:
    lives = Lives(ROOMY)
    lives.offer(5)
    lives.turn()
    lives.close()
    assert lives.found.next_number == 6 and lives.found.torn_bytes == 0
    identity = lives.found.identity
    lives.settle_down(CHANCE)
    lives.close()
    assert (lives.found.identity, lives.found.next_number) == (identity, 6)
    lives.offer(1)
    lives.turn()
    lives.close()
    assert (lives.found.identity, lives.found.next_number) == (identity, 7)


def test_after_a_kill_numbers_are_passed_over_and_none_is_used_twice() -> None:
    lives = Lives(ROOMY)
    lives.offer(5)
    lives.turn()
    identity = lives.found.identity
    lives.kill()
    assert lives.found.identity == identity and lives.found.next_number > 6
    lives.offer(1)
    lives.settle_down(CHANCE)
    assert lives.buffer.lowest == lives.found.next_number + 1


def test_what_was_finished_is_not_sent_again_after_a_restart() -> None:
    lives = Lives(ROOMY)
    for _ in range(10):
        lives.offer(4)
        lives.turn()
    lives.send(6)
    one = lives.consumers.in_flight.pop(5)
    first, second = one.cut(0, 1), one.cut(1, 4)
    lives.taken.update(first.columns().ids)
    first.settle()
    lives.consumers.in_flight.append(second)
    for done in lives.consumers.in_flight[:4]:
        lives.taken.update(done.columns().ids)
        done.settle()
    lives.turn()
    lives.wait(0.2)
    lives.kill()
    assert lives.buffer.stored_messages == 40 - 17
    lives.turn()
    lives.send(100)
    sent = {id for one in lives.consumers.in_flight for id in one.columns().ids}
    assert len(sent) == 23 and not sent & lives.taken


def test_hints_that_are_lost_mean_duplicates_and_no_loss() -> None:
    lives = Lives(ROOMY)
    for _ in range(10):
        lives.offer(4)
        lives.turn()
    lives.send(10)
    lives.take(5, CHANCE)
    lives.wait(0.2)
    (path,) = [path for path in lives.disk.files if path.suffix == ".done"]
    lives.disk.files[path].data[3] ^= 1
    del lives.disk.files[path].data[-3:]
    lives.kill()
    lives.settle_down(CHANCE)
    assert len(lives.taken) == 40


# ---- memory


def test_no_more_is_read_ahead_than_the_policy_says() -> None:
    lives = Lives(BufferPolicy(bytes=1 << 40, ahead_bytes=2000))
    for _ in range(200):
        lives.offer(2, 40)
        lives.turn()
        assert lives.consumers.unsent_bytes <= 2000
    while lives.buffer.stored_messages:
        lives.send(3)
        lives.take(100, CHANCE)
        lives.take(100, CHANCE)
        lives.turn()
        assert lives.consumers.unsent_bytes <= 2000 + 200, "more than one record above what was asked for"
    assert lives.acked == lives.taken
    reads = [order for order in lives.ordered if isinstance(order, Read)]
    assert 10 < len(reads) < 60


def test_a_consumer_that_keeps_up_has_nothing_read_for_it() -> None:
    lives = Lives(ROOMY)
    for _ in range(50):
        lives.offer(2)
        lives.turn()
        lives.send(10)
        lives.take(10, CHANCE)
    assert not [order for order in lives.ordered if isinstance(order, Read)]
    assert [order for order in lives.ordered if isinstance(order, Finish)]


def test_finished_segments_are_removed_in_any_order() -> None:
    lives = Lives(Small(bytes=1 << 40))
    for _ in range(60):
        lives.offer(2)
        lives.turn()
    lives.send(100)
    before = segments(lives)
    kept = lives.consumers.in_flight[0]
    for one in reversed(lives.consumers.in_flight[1:]):
        lives.taken.update(one.columns().ids)
        one.settle()
    lives.turn()
    assert segments(lives) == [before[0], before[-1]]
    lives.consumers.in_flight[:] = [kept]
    lives.settle_down(CHANCE)
    assert any(isinstance(order, Remove) for order in lives.ordered)


# ---- on a real disk, with its thread


def test_the_thread_writes_and_reads_real_files(tmp_path: Path) -> None:
    events: list[BufferEvent] = []
    heard = threading.Condition()

    def hear(event: BufferEvent) -> None:
        with heard:
            events.append(event)
            heard.notify_all()

    def wait_for(kind: type[BufferEvent], number: int) -> BufferEvent:
        def found() -> list[BufferEvent]:
            return [e for e in events if isinstance(e, kind) and (not isinstance(e, Durable) or e.stop >= number)]

        with heard:
            assert heard.wait_for(lambda: bool(found()), 60)
        return found()[-1]

    folder = tmp_path / "buffers" / "out"
    policy = BufferPolicy(bytes=1 << 40)
    log = SegmentLog(folder, policy, hear)
    found = log.open()
    assert (found.next_number, found.segments) == (1, ())
    log.start()
    bodies = [os.urandom(50_000) for _ in range(400)]
    for n, body in enumerate(bodies):
        log.perform(Append(1 + 10 * n, 10, 1, body))
    durable = wait_for(Durable, 4001)
    assert isinstance(durable, Durable)
    log.perform(Read(2001, 100_000))
    records = wait_for(Records, 0)
    assert isinstance(records, Records)
    assert [one.body for one in records.records] == bodies[200:202]
    log.perform(Finish(1, 2001))
    log.close()
    assert not any(isinstance(event, Space) and event.trouble for event in events)

    again = SegmentLog(folder, policy, hear)
    found = again.open()
    assert (found.next_number, len(found.segments)) == (4001, 2)
    assert sum(stop - start for start, stop in found.finished) == 2000
    assert sum(path.stat().st_size for path in folder.glob("*.seg")) == found.disk_bytes
    again.start()
    events.clear()
    again.perform(Remove((1,)))
    again.close()
    assert [path.name for path in folder.glob("*.seg")] == [f"{found.segments[1].first:020d}.seg"]
    assert oct(folder.stat().st_mode & 0o777) == "0o700"


def test_the_age_of_what_is_stored_outlives_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the origin of the oldest that is wanted, between the first and the last write to its file; of others by the last."""
    hour = 3600.0
    now = time.time()
    policy = Small(bytes=1 << 40)
    log = SegmentLog(tmp_path, policy, lambda event: None)
    log.open()
    for number, origin, begun in ((1, 5, 9), (2, 90, 7), (3, 1, 3)):  # hours ago
        monkeypatch.setattr(segment_writer.time, "time", lambda at=now - begun * hour: at)
        body = section.encode([f"m{number}"], [now - origin * hour], ["x" * 1000], None)
        log.turn([Append(number, 1, 1, body)], number)
    monkeypatch.undo()
    log.close()
    for path, hours in zip(sorted(tmp_path.glob("*.seg")), (4, 2, 2), strict=True):
        os.utime(path, (now - hours * hour, now - hours * hour))
    for number, expected in enumerate(
        ([(2, 5), (2, 4), (3, 2), (4, 2)], [(3, 7), (3, 2), (4, 2)], [(4, 2), (4, 2)]), 1
    ):
        log = SegmentLog(tmp_path, policy, lambda event: None)
        found = log.open()
        assert [(number, round((time.monotonic() - at) / hour, 1)) for number, at in found.stored_at] == expected
        link = BufferedLink("", "b", "disk", LinkPolicy(), policy, Bound(1000, 1 << 20), found)
        assert link.figures(time.monotonic())["oldest_s"] == pytest.approx(expected[0][1] * hour, abs=60)
        log.turn([Finish(number, number + 1)], 20.0)
        log.close()


def test_a_disk_that_fails_to_open_a_segment_for_a_while_loses_nothing() -> None:
    lives = Lives(ROOMY)
    lives.offer(5)
    lives.turn()
    lives.kill()
    lives.fail("open", errno.EIO)
    lives.turn()
    assert "Input/output error" in lives.buffer.trouble and lives.buffer.unread_messages == 5
    lives.disk.failing.clear()
    lives.settle_down(CHANCE)
