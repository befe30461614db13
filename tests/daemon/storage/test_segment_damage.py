"""Files of a disk buffer that are cut off or damaged: it opens, gives nothing wrong, and loses no more than what was damaged."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from buffer_lives import FOLDER, Lives
from fake_disk import FakeDisk, Inode

from zpipe.core.buffer.record import HEAD_BYTES, RECORD_BYTES
from zpipe.core.policy import BufferPolicy
from zpipe.runtime.segment_folder import segment_numbers, segment_path

POLICY = BufferPolicy(bytes=1 << 40)


class Small(BufferPolicy):
    @property
    def segment_bytes(self) -> int:
        return 500


def filled(sections: int = 6, messages: int = 2, policy: BufferPolicy = POLICY) -> Lives:
    """A buffer whose sections are all durable and none taken."""
    lives = Lives(policy)
    for _ in range(sections):
        lives.offer(messages)
        lives.turn()
    assert len(lives.acked) == sections * messages
    return lives


def content(lives: Lives) -> dict[Path, bytes]:
    return {path: bytes(inode.data) for path, inode in lives.disk.files.items()}


def disk_of(files: dict[Path, bytes]) -> FakeDisk:
    disk = FakeDisk()
    for path, data in files.items():
        inode = disk.files[path] = disk.kept[path] = Inode()
        inode.data, inode.kept = bytearray(data), bytearray(data)
    return disk


def reopened(lives: Lives, files: dict[Path, bytes]) -> set[str]:
    """What another life reads of these files: ids of messages, all of which were offered. Their numbers are not used again."""
    other = Lives(lives.policy, disk=disk_of(files))
    other.offered, other.next_id, other.sync_failed = dict(lives.offered), lives.next_id, True
    other.by_number = dict(lives.numbered)  # a consumer may have each of them
    new = other.offer(1)
    other.settle_down(random.Random(0))
    assert set(new) <= other.taken, "nothing more can be stored"
    return other.taken - set(new)


def flipped(data: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def flips(lives: Lives, bits: range | None) -> Iterator[tuple[Path, int, int]]:
    for path, data in content(lives).items():
        for at in range(len(data)):
            for bit in bits or (at % 8,):
                yield path, at, bit


def check_flips(lives: Lives, bits: range | None, messages: int) -> None:
    files = content(lives)
    for path, at, bit in flips(lives, bits):
        got = reopened(lives, {**files, path: flipped(files[path], at, bit)})
        lost = lives.acked - lives.taken - got
        assert len(lost) <= messages, f"bit {bit} of byte {at} of {path.name} lost {len(lost)} messages"
        if at < HEAD_BYTES:
            assert not lost, f"bit {bit} of byte {at} of the head of {path.name} lost messages"


def test_a_flipped_bit_loses_one_record_at_most() -> None:
    check_flips(filled(), None, 2)


def test_a_flipped_bit_in_one_of_many_segments_loses_one_record_at_most() -> None:
    lives = filled(14, policy=Small(bytes=1 << 40))
    assert len(lives.disk.files) > 2
    lives.close()
    check_flips(lives, None, 2)


def of_three_lives() -> Lives:
    """Files with all that there may be in them: one life that was closed, one that was killed, one that goes on, and hints."""
    lives = Lives(Small(bytes=1 << 40))
    for life in range(3):
        for _ in range(4):
            lives.offer(2)
            lives.turn()
        lives.send(3)
        lives.take(2, random.Random(life))
        lives.wait(1.0)
        lives.wait(1.0)
        if life < 2:
            (lives.close, lives.kill)[life]()
    kinds = {path.suffix for path in lives.disk.files}
    assert kinds == {".seg", ".done"} and len(lives.acked) == 24 and len(lives.taken) > 6
    return lives


@pytest.mark.stress
@pytest.mark.parametrize(
    "make",
    [partial(filled, 12, 3), partial(filled, 20, policy=Small(bytes=1 << 40)), of_three_lives],
    ids=["one segment", "segments", "lives"],
)
def test_each_flipped_bit_loses_one_record_at_most(make: Callable[[], Lives]) -> None:
    check_flips(make(), range(8), 3)


def test_a_segment_may_be_cut_off_at_every_byte() -> None:
    lives = filled()
    files = content(lives)
    (path,) = files
    ends = [HEAD_BYTES]
    while ends[-1] < len(files[path]):
        length = int.from_bytes(files[path][ends[-1] + 12 : ends[-1] + 16], "little")
        ends.append(ends[-1] + RECORD_BYTES + length)
    for size in range(len(files[path])):
        got = reopened(lives, {path: files[path][:size]})
        whole = sum(1 for end in ends[1:] if end <= size)
        assert len(got) == 2 * whole, f"cut to {size} bytes"


def test_a_middle_segment_may_be_cut_off_at_every_byte() -> None:
    lives = filled(14, policy=Small(bytes=1 << 40))
    files = content(lives)
    path = segment_path(FOLDER, segment_numbers(path.name for path in files)[1])
    for size in range(len(files[path])):
        got = reopened(lives, {**files, path: files[path][:size]})
        assert len(lives.acked - got) <= 10, f"cut to {size} bytes"


def test_a_segment_that_is_gone_or_all_zeros_loses_its_own_messages() -> None:
    lives = filled(14, policy=Small(bytes=1 << 40))
    files = content(lives)
    for path in files:
        for broken in (None, b"", bytes(len(files[path]))):
            if broken is None and path == max(files):
                continue  # who takes away the last one takes the number to go on with
            kept = {one: data for one, data in files.items() if one != path}
            got = reopened(lives, kept if broken is None else {**kept, path: broken})
            assert len(lives.acked - got) <= 10


def test_numbers_that_were_passed_over_are_not_counted_as_lost() -> None:
    """The power goes before the first sync, twice: of both files the disk has the name and the size, and nothing in them. Neither
    is it kept that the first was removed."""
    files: dict[Path, bytes] = {}
    for _ in range(3):
        lives = Lives(POLICY, disk=disk_of(files))
        lives.offer(3)
        lives.turn()
        files |= {path: bytes(len(data)) for path, data in content(lives).items() if path.suffix == ".seg"}
    lives = Lives(POLICY, disk=disk_of(files))
    assert lives.buffer.stored_messages == 0
    lives.wait(1)
    assert lives.buffer.figures().lost_total == 0


def test_what_was_damaged_is_kept_and_counted() -> None:
    lives = filled()
    (path,) = content(lives)
    damaged = flipped(content(lives)[path], HEAD_BYTES + 40, 0)
    lives.disk.files[path].data[:] = damaged
    lives.kill()
    lives.sync_failed = True  # so that losses are allowed
    lives.settle_down(random.Random(0), but=2)
    figures = lives.buffer.figures()
    assert (figures.bad_total, figures.lost_total) == (1, 2)
    ((name, data),) = [(path.name, data) for path, data in content(lives).items() if path.parent.name == "bad"]
    assert name == f"{path.stem}-{HEAD_BYTES}" and data == damaged[HEAD_BYTES : HEAD_BYTES + len(data)]
    lives.kill()
    assert lives.buffer.figures().bad_total == 1, "what a former life found is still shown"


def test_a_payload_that_is_a_copy_of_a_segment_is_not_taken_for_records() -> None:
    """Where the length in a header is damaged, the next header is looked for in what was the body."""
    lives = filled(2)
    (path,) = content(lives)
    lives.offer(1, payload=content(lives)[path] * 2)
    lives.offer(2)
    lives.turn()
    check_flips(lives, None, 2)


def test_numbers_are_passed_over_also_where_two_lives_end_before_they_write() -> None:
    lives = filled()
    lives.kill()
    number = lives.found.next_number
    assert number > 13
    lives.kill()
    assert lives.found.next_number == number


def test_a_write_that_was_cut_off_by_a_kill_is_no_damage() -> None:
    lives = filled()
    (path,) = content(lives)
    inode = lives.disk.files[path]
    whole = len(inode.data)
    for size in (10, 40, 60):
        inode.data[whole:] = inode.data[HEAD_BYTES : HEAD_BYTES + size]
        if size >= RECORD_BYTES:  # at its own place it is a header
            record = lives.log._writer._codec.write(whole, 13, 2, 1, b"x" * 100)
            inode.data[whole:] = (record + b"x" * 100)[:size]
        files = content(lives)
        other = Lives(POLICY, disk=disk_of(files))
        assert (other.found.torn_bytes, other.found.bad_files) == (size, 0)
    inode.data[whole:] = b"?" * 60
    other = Lives(POLICY, disk=disk_of(content(lives)))
    assert (other.found.torn_bytes, other.found.bad_files) == (60, 1)


@pytest.mark.parametrize(
    "stem", ["9" * 20, "18446744073709551615", "09223372036854775807", "0" * 20, "\u0660" * 19 + "1", "1", "x"]
)
def test_a_file_whose_name_is_no_number_of_a_message_changes_nothing(stem: str) -> None:
    lives = filled()
    lives.disk.files[FOLDER / f"{stem}.seg"] = Inode()
    lives.kill()
    assert lives.buffer.stored_messages == 12
    lives.offer(1)
    lives.settle_down(random.Random(0))
    assert len(lives.taken) == 13
