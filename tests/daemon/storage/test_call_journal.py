"""What is noted of calls, and what a later life makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from zpipe.core.wire import section
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Producer, Slice
from zpipe.core.work.task import CallHistory, Task
from zpipe.daemon.storage.call_journal import ALL, LEAST_SLOT_BYTES, SLOT_BYTES, STORE, CallJournal, in_call, slot_bytes

PRODUCER = Producer("read", "", 2, "r1")


def task(first: int, count: int, pieces: int = 1) -> Task:
    slices = []
    for n in range(pieces):
        body = section.encode([str(k) for k in range(count)], [0.0] * count, [None] * count, None)
        one = Section(body, count, first + n * count)
        slices.append(Slice(Delivery([one], lambda _: None, PRODUCER), one, 0, 0, count, 0.0))
    return Task(1, slices, CallHistory(), False)


def numbers(path: Path) -> list[tuple[int, int]]:
    """(number, alone) of each suspect."""
    found, _ = in_call(path)
    assert set(found) <= {("read", "", 2)}
    return [(start, alone) for incarnation, rows in found.values() for start, _, alone in rows if incarnation == "r1"]


@pytest.mark.parametrize("slots", [1, 3, 64, 65, 5000])
def test_the_message_in_a_call_is_found_in_any_slot(tmp_path: Path, slots: int) -> None:
    path = tmp_path / "calls"
    journal = CallJournal(path, slots)
    last = journal.slot(slots - 1)
    last.begin(task(100, 10, pieces=2))
    assert numbers(path) == []
    last.note[0] = 13
    assert numbers(path) == [(112, 1)]
    last.end()
    assert numbers(path) == []


def test_several_calls_and_a_batch_are_in_company(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    journal = CallJournal(path, 2)
    journal.slot(0).begin(task(1, 3))
    journal.slot(0).note[0] = ALL
    assert numbers(path) == [(1, 0), (2, 0), (3, 0)]
    journal.slot(1).begin(task(50, 1))
    journal.slot(1).note[0] = 1
    assert numbers(path) == [(1, 0), (2, 0), (3, 0), (50, 0)]


def test_a_task_of_too_many_slices_is_noted_as_far_as_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    journal = CallJournal(path, 5000)
    journal.slot(0).begin(task(1, 1, pieces=500))
    journal.slot(0).note[0] = 1
    assert numbers(path) == [(1, 1)]
    journal.slot(0).note[0] = 500
    assert numbers(path) == []


def test_slots_are_large_until_there_are_very_many() -> None:
    assert slot_bytes(1) == slot_bytes(64) == SLOT_BYTES
    assert slot_bytes(65) < SLOT_BYTES
    assert slot_bytes(10**6) == LEAST_SLOT_BYTES


@pytest.mark.parametrize("content", [b"", b"x", b"\x01\0\0\0" * 3, b"\xff" * 5000, b"\0" * 70_000])
def test_what_cannot_be_read_accuses_nobody(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "calls"
    assert in_call(path) == ({}, [])
    path.write_bytes(content)
    assert in_call(path) == ({}, [])


def ids_of(path: Path) -> list[str]:
    return in_call(path)[1]


def test_the_ids_of_what_is_in_a_call_are_known(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    slot = CallJournal(path, 1).slot(0)
    slot.begin(task(100, 10, pieces=2))
    slot.note[0] = 13
    assert ids_of(path) == ["2"]  # the third of the second piece
    slot.note[0] = ALL
    assert ids_of(path) == [str(n) for n in range(10)] * 2
    slot.end()
    assert ids_of(path) == []


def test_ids_that_do_not_fit_are_left_out_before_messages_are(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    slot = CallJournal(path, 5000).slot(0)
    assert slot_bytes(5000) == LEAST_SLOT_BYTES
    slot.begin(task(7, 400))
    slot.note[0] = 400
    assert ids_of(path) == [] and numbers(path) == [(406, 1)]
    slot.begin(task(7, 100))
    slot.note[0] = 100
    assert ids_of(path) == ["99"]


def test_of_a_task_only_the_messages_are_written_that_are_called_for_next(tmp_path: Path) -> None:
    """A group of them is noted at a time, and the note counts through the whole task."""
    path = tmp_path / "calls"
    slot = CallJournal(path, 1).slot(0)
    slot.begin(task(100, 10, pieces=4), slice(1, 3))
    slot.note[0] = 11
    assert (numbers(path), ids_of(path)) == ([(110, 1)], ["0"])
    slot.note[0] = 30
    assert (numbers(path), ids_of(path)) == ([(129, 1)], ["9"])
    slot.note[0] = ALL
    assert [number for number, _ in numbers(path)] == [*range(110, 130)]
    for outside in (10, 31):
        slot.note[0] = outside
        assert numbers(path) == []


def test_an_id_with_a_null_character_makes_no_wrong_ids(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    body = section.encode(["a\0b", "c"], [0.0] * 2, [None] * 2, None)
    one = Section(body, 2, 1)
    piece = Slice(Delivery([one], lambda _: None, PRODUCER), one, 0, 0, 2, 0.0)
    slot = CallJournal(path, 1).slot(0)
    slot.begin(Task(1, [piece], CallHistory(), False))
    slot.note[0] = 2
    assert ids_of(path) == [] and numbers(path) == [(2, 1)]


def test_a_section_that_cannot_be_decoded_has_no_ids(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    one = Section(b"\xff" * 9, 2, 1)
    piece = Slice(Delivery([one], lambda _: None, PRODUCER), one, 0, 0, 2, 0.0)
    slot = CallJournal(path, 1).slot(0)
    slot.begin(Task(1, [piece], CallHistory(), False))
    slot.note[0] = 1
    assert ids_of(path) == [] and numbers(path) == [(1, 1)]


ANOTHER, LATER = Producer("read", "", 3, "r3"), Producer("read", "", 2, "r2")
BUFFERED = Producer("read", "side", 2, "r2", numbers="b1")


@pytest.mark.parametrize(
    "producers",
    [
        [None, PRODUCER, None, None, PRODUCER],
        [PRODUCER, None, PRODUCER, ANOTHER, PRODUCER],
        [PRODUCER, LATER, BUFFERED, None, LATER],
    ],
    ids=["letters first", "letters between", "a later life, and one with a buffer"],
)
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in a task"])
def test_a_message_is_noted_as_its_own_producers_whoever_sent_the_one_before(
    tmp_path: Path, producers: list[Producer | None], together: bool
) -> None:
    """Replayed dead letters have none, and are between those of producers."""
    path = tmp_path / "calls"
    slot = CallJournal(path, 1).slot(0)
    pieces = []
    for number, producer in enumerate(producers, 1):
        one = Section(section.encode([str(number)], [0.0], [None], None), 1, number)
        pieces.append(Slice(Delivery([one], lambda _: None, producer), one, 0, 0, 1, 0.0))
    if together:
        slot.begin(Task(1, pieces, CallHistory(), False))
    for number, (piece, producer) in enumerate(zip(pieces, producers, strict=True), 1):
        if not together:
            slot.begin(Task(number, [piece], CallHistory(), False))
        slot.note[0] = number if together else 1
        whose = (STORE, "") if producer is None else (producer[:3], producer.sequence)
        assert in_call(path) == ({whose[0]: (whose[1], [[number, number + 1, 1]])}, [str(number)])
        slot.end()
