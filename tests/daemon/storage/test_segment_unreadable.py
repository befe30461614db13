"""Files of a disk buffer that the disk does not give, in part or at all: nothing of that is taken for damaged, or removed."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from buffer_lives import FOLDER, Lives

from zpipe.core.policy import BufferPolicy
from zpipe.daemon.storage.ahead_reader import READ_TRIES
from zpipe.daemon.storage.segment_log import UNREADABLE_RETRY_S
from zpipe.runtime.segment_folder import CHUNK_BYTES, PAGE_BYTES

CHANCE = random.Random(1)
SIZE = 3000
"""Of a message: more than half a page, so that a page that cannot be read hits two or three of them."""


class Segments(BufferPolicy):
    """Of seven messages."""

    @property
    def segment_bytes(self) -> int:
        return 20_000


def stored(messages: int) -> Lives:
    """In the files, and not in memory."""
    lives = Lives(Segments(bytes=1 << 40, ahead_bytes=20_000))
    for _ in range(messages):
        lives.offer(1, SIZE)
        lives.turn()
    lives.close()
    assert len(lives.acked) == lives.buffer.stored_messages == messages
    return lives


def files(lives: Lives) -> list[Path]:
    return sorted(path for path in lives.disk.files if path.suffix == ".seg")


def contents(lives: Lives) -> dict[Path, bytes]:
    return {path: bytes(lives.disk.files[path].data) for path in files(lives)}


def take_all(lives: Lives, seconds: float) -> None:
    """Consumers take what is given to them, for so long."""
    for _ in range(round(seconds)):
        lives.wait(1.0)
        lives.send(1000)
        lives.take(1000, CHANCE)


def test_a_page_that_cannot_be_read_for_a_while_is_read_in_order_when_it_can() -> None:
    lives = stored(20)
    lives.disk.bad_pages.add((files(lives)[1], 2))
    take_all(lives, READ_TRIES - 3)
    before = len(lives.taken)
    assert 0 < before < 20 and "tries again: Input/output error" in lives.buffer.trouble
    assert lives.buffer.room, "what cannot be read is no reason to take nothing"
    lives.disk.bad_pages.clear()
    take_all(lives, 9)
    assert len(lives.taken) == 20 and lives.buffer.trouble == ""
    assert sorted(lives.consumers.put_numbers) == lives.consumers.put_numbers


def test_a_page_that_is_never_read_keeps_its_messages_for_another_life_and_holds_up_no_others() -> None:
    lives = stored(20)
    before, bad = contents(lives), files(lives)[1]
    lives.disk.bad_pages.add((bad, 2))
    take_all(lives, READ_TRIES + 10)
    figures = lives.buffer.figures()
    left = 20 - len(lives.taken)
    assert 2 <= left <= 3
    assert (figures.stored_messages, figures.unreadable_messages) == (left, left)
    assert (figures.lost_total, figures.bad_total) == (0, 0)
    assert f"cannot read {left} messages of" in lives.buffer.trouble and lives.buffer.room
    assert contents(lives)[bad] == before[bad], "its file is not as it was"
    for _ in range(20):
        lives.offer(1, SIZE)
    take_all(lives, 9)
    assert len(lives.taken) == 40 - left
    lives.kill()
    lives.disk.bad_pages.clear()
    take_all(lives, 9)
    assert len(lives.taken) == 40 and bad not in lives.disk.files


def test_what_cannot_be_read_behind_a_page_that_was_given_up_is_tried_again_as_often() -> None:
    """In one file, so large that it is read by several chunks."""
    lives = Lives(BufferPolicy(bytes=1 << 40, ahead_bytes=60_000))
    for _ in range(80):
        lives.offer(1, 30_000)
        lives.turn()
    lives.close()
    (path,) = files(lives)[:1]
    lives.disk.bad_pages.add((path, 2))
    while not lives.buffer.unreadable_messages:
        take_all(lives, 1)
    lives.disk.bad_pages.update((path, page) for page in range(2 * CHUNK_BYTES // PAGE_BYTES, 1000))
    take_all(lives, 30)
    assert "tries again: Input/output error" in lives.buffer.trouble
    lives.disk.bad_pages = {(path, 2)}
    take_all(lives, UNREADABLE_RETRY_S + 60)
    assert (len(lives.taken), lives.buffer.unreadable_messages) == (79, 1)


def test_where_nothing_can_be_read_it_is_waited_for() -> None:
    lives = stored(20)
    lives.fail("read")
    take_all(lives, READ_TRIES + 3 * UNREADABLE_RETRY_S)
    assert lives.buffer.unread_messages == 20 and not lives.buffer.figures().unreadable_messages
    lives.offer(1)
    lives.turn()
    assert len(lives.acked) == 21, "what cannot be read keeps others from being stored"
    lives.disk.failing.clear()
    take_all(lives, UNREADABLE_RETRY_S + 9)
    assert len(lives.taken) == 21


def test_no_page_of_any_segment_is_given_up_when_it_cannot_be_read_at_the_start() -> None:
    """Also those with the head of a segment, and with its last record."""
    lives = stored(20)
    clean = contents(lives)
    lives.offer(3, SIZE)
    lives.turn()  # a segment without its last record
    for path, data in (clean | contents(lives)).items():
        for page in range(-(-len(data) // PAGE_BYTES)):
            spoiled = stored(20)
            spoiled.offer(3, SIZE)
            spoiled.turn()
            before = contents(spoiled)
            spoiled.disk.bad_pages.add((path, page))
            spoiled.kill()
            if path in before:
                assert contents(spoiled)[path] == before[path], f"{path.name} was changed"
            spoiled.offer(1)
            take_all(spoiled, READ_TRIES + 5)
            assert spoiled.buffer.figures().lost_total == 0
            spoiled.settle_down(CHANCE)
            assert len(spoiled.taken) == 24, f"page {page} of {path.name}"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_segments_that_cannot_be_opened_at_the_start_are_kept_for_the_next(number: int) -> None:
    lives = stored(20)
    before = contents(lives)
    lives.fail("open", number)
    lives.kill()
    assert f": {os.strerror(number)}; they are kept, and read again at the next start" in lives.buffer.trouble
    lives.disk.failing.clear()
    for _ in range(20):
        lives.offer(1, SIZE)
    take_all(lives, 9)
    assert len(lives.taken) == 20, "what is offered goes on"
    assert {path: data for path, data in contents(lives).items() if path in before} == before
    lives.kill()
    take_all(lives, 9)
    assert len(lives.taken) == 40 and len(files(lives)) == 1


def test_a_segment_that_cannot_be_opened_any_more_is_waited_for_and_more_is_stored_meanwhile() -> None:
    lives = stored(20)
    lives.offer(1)
    lives.turn()  # the file that is written to is open
    lives.fail("open", errno.EACCES)
    take_all(lives, READ_TRIES + UNREADABLE_RETRY_S)
    assert len(lives.taken) < 8 and lives.buffer.unread_messages > 12
    assert "cannot read" in lives.buffer.trouble and "Permission denied" in lives.buffer.trouble
    lives.offer(1)
    lives.turn()
    assert len(lives.acked) == 22
    lives.disk.failing.clear()
    take_all(lives, UNREADABLE_RETRY_S + 9)
    assert len(lives.taken) == 22


def test_a_damaged_record_beside_an_unreadable_page_is_lost_alone() -> None:
    lives = stored(20)
    path = files(lives)[0]
    lives.disk.files[path].data[200] ^= 1
    lives.disk.bad_pages.add((path, 3))
    lives.sync_failed = True  # losses are allowed
    lives.kill()
    take_all(lives, READ_TRIES + 5)
    figures = lives.buffer.figures()
    assert (figures.lost_total, figures.bad_total) == (1, 1) and figures.unreadable_messages
    assert FOLDER / "bad" / f"{path.stem}-128" in lives.disk.files
