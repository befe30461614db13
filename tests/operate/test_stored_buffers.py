"""What commands read of a disk buffer, and how they empty it."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from zpipe.core.buffer.orders import Append, Finish, FoundBuffer
from zpipe.core.buffer.record import MARKER, RECORD_BYTES, SegmentCodec
from zpipe.core.policy import BufferPolicy
from zpipe.core.wire import section
from zpipe.daemon.storage.segment_log import SegmentLog
from zpipe.errors import OperatorError
from zpipe.operate import stored_buffers
from zpipe.operate.stored_buffers import drop, list_buffer, show, verify
from zpipe.runtime.segment_folder import Disk

POLICY = BufferPolicy(bytes=8 * 4096)  # segments of 4 KiB


def body(first: int, messages: int) -> bytes:
    numbers = range(first, first + messages)
    return section.encode(
        [f"m{n}" for n in numbers], [1.0] * messages, [{"n": n, "x": "y" * 300} for n in numbers], None
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """100 messages in records of 5, of which 1 to 22 are finished."""
    log = SegmentLog(tmp_path / "out", POLICY, lambda event: None)
    log.open()
    log.turn([*(Append(first, 5, 1, body(first, 5)) for first in range(1, 101, 5)), Finish(1, 23)], 1.0)
    log.close()
    return tmp_path / "out"


def found(folder: Path) -> FoundBuffer:
    return SegmentLog(folder, POLICY, lambda event: None).open()


def test_a_buffer_is_listed(folder: Path) -> None:
    listing = list_buffer(folder)
    assert (listing.messages, listing.finished, listing.first, listing.next) == (78, 22, 23, 101)
    assert listing.segments == len(list(folder.glob("*.seg"))) > 3
    assert listing.disk_bytes == sum(path.stat().st_size for path in folder.glob("*.seg"))
    assert (listing.identity, listing.damaged) == (found(folder).identity, 0)


def test_what_is_wanted_is_shown_in_order(folder: Path) -> None:
    shown = list(show(folder))
    assert [one.number for one in shown] == list(range(23, 101))
    assert all(one.id == f"m{one.number}" and one.payload["n"] == one.number for one in shown)
    assert [one.number for one in show(folder, 98)] == [98, 99, 100]


def test_every_record_is_verified(folder: Path) -> None:
    sound = verify(folder)
    assert (sound.records, sound.messages, sound.damages, sound.whole) == (20, 100, (), True)
    path = sorted(folder.glob("*.seg"))[-2]
    content = bytearray(path.read_bytes())
    content[200] ^= 4
    path.write_bytes(content)
    (place,) = verify(folder).damages
    assert (place.segment, place.messages) == (path.name, 5) and place.start <= 200 < place.stop
    assert len(list(show(folder))) == 73
    assert list_buffer(folder).messages == 78


def test_a_segment_that_cannot_be_opened_is_not_whole(folder: Path) -> None:
    _, _, third, *_ = sorted(folder.glob("*.seg"))
    third.unlink()
    third.symlink_to(third)
    (place,) = verify(folder).damages
    assert (place.segment, place.stop) == (third.name, 0)
    assert place.messages == list_buffer(folder).messages - len(list(show(folder))) > 0


def test_what_cannot_be_read_now_is_told_from_what_is_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second, *_, last = sorted(folder.glob("*.seg"))[1:]

    class Failing(Disk):
        """A file of another user, and a page that cannot be read."""

        def open(self, path: Path, flags: int) -> int:
            if path == last:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            self.second = path == second
            return super().open(path, flags)

        def read(self, fd: int, size: int, offset: int) -> bytes:
            if self.second and offset < 4096:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(fd, size, offset)

    monkeypatch.setattr(stored_buffers, "Disk", Failing)
    found = verify(folder)
    assert found.unfinished_bytes == 0
    assert {(place.segment, place.error) for place in found.damages} == {
        (second.name, "Input/output error"),
        (last.name, "Permission denied"),
    }
    assert list_buffer(folder).unreadable == 1, "of the other the last record is there"


def test_a_buffer_is_dropped_and_its_numbers_go_on(folder: Path) -> None:
    identity = list_buffer(folder).identity
    assert drop(folder).messages == 78
    assert list_buffer(folder).messages == 0 and not list(show(folder))
    assert len(list(folder.glob("*.seg"))) == 1
    again = found(folder)
    assert (again.identity, again.next_number) == (identity, 101)
    assert drop(folder).messages == 0


def test_a_buffer_is_dropped_where_a_hint_was_cut_off(folder: Path) -> None:
    hints = sorted(folder.glob("*.seg"))[-1].with_suffix(".done")
    hints.write_bytes(b"cut")
    drop(folder)
    assert list_buffer(folder).messages == 0 and not list(show(folder))


def test_a_buffer_is_dropped_up_to_a_number(folder: Path) -> None:
    assert drop(folder, 50).messages == 27
    assert [one.number for one in show(folder)] == list(range(50, 101))


def test_what_cannot_be_read_is_dropped_only_if_all_goes_that_it_may_have(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second, third, *_ = sorted(folder.glob("*.seg"))
    until = int(third.stem)

    class Failing(Disk):
        def open(self, path: Path, flags: int) -> int:
            if path == second:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return super().open(path, flags)

    monkeypatch.setattr(stored_buffers, "Disk", Failing)
    drop(folder, until - 1)
    assert second.exists()
    drop(folder, until)
    assert not second.exists() and third.exists()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot read the disk buffer"):
        list_buffer(tmp_path / "none")


def test_the_page_has_the_layout_of_a_record() -> None:
    page = (Path(__file__).parents[2] / "docs" / "disk-buffer.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)
    header = SegmentCodec(1, 2).write(128, 7, 3, 2, b"body")
    assert sum(int(size) for size, _ in rows) == RECORD_BYTES == len(header)
    assert MARKER.hex(" ") in rows[0][1]
    told = [
        int.from_bytes(header[at : at + size], "little") for at, size in ((12, 4), (16, 4), (20, 8), (28, 2), (30, 2))
    ]
    assert told == [4, 3, 7, 2, 0]
    fields = [re.split("[:;]", text)[0] for _, text in rows[3:]]
    assert fields == ["bytes of the body", "messages", "number of the first", "attempt", "flags"]
