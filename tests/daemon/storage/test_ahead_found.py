"""What one read of a disk buffer counts."""

from zpipe.daemon.storage.ahead_reader import _Found


def test_damage_that_was_passed_over_is_counted_though_the_next_segment_cannot_be_opened() -> None:
    found = _Found(1)
    found.note_bad()  # at the end of a segment
    found.pass_to(10)
    found.cut()  # the next one gave an error
    records = found.as_records()
    assert (records.next_number, records.bad) == (10, 1)


def test_damage_that_is_read_again_is_not_counted_twice() -> None:
    found = _Found(1)
    found.note_bad()
    found.cut()
    assert found.as_records().bad == 0
