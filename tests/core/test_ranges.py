from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from zpipe.core.ranges import RangeSet

NUMBER = st.integers(0, 24)
STEPS = st.lists(st.tuples(st.sampled_from(["add", "remove", "discard_below"]), NUMBER, NUMBER), max_size=25)


@settings(max_examples=150)
@given(STEPS)
def test_a_range_set_does_what_a_set_does(steps: list[tuple[str, int, int]]) -> None:
    ranges, model = RangeSet(), set[int]()
    for step, a, b in steps:
        if step == "add":
            ranges.add(a, b)
            model |= set(range(a, b))
        elif step == "remove":
            ranges.remove(a, b)
            model -= set(range(a, b))
        else:
            ranges.discard_below(a)
            model = {n for n in model if n >= a}
        rows = list(ranges)
        assert {n for start, stop in rows for n in range(start, stop)} == model
        assert len(ranges) == len(rows)
        assert all(start < stop for start, stop in rows)
        assert all(stop < start for (_, stop), (start, _) in itertools.pairwise(rows)), "touching or unsorted"
        assert [n in ranges for n in range(-1, 27)] == [n in model for n in range(-1, 27)]
        assert ranges.overlaps(a, b) == any(n in model for n in range(a, b))


def test_neighbours_become_one_range() -> None:
    ranges = RangeSet()
    for start, stop in ((1, 2), (3, 4), (2, 3)):
        ranges.add(start, stop)
    assert list(ranges) == [(1, 4)]


def test_numbers_may_be_as_large_as_frames_allow() -> None:
    ranges = RangeSet()
    ranges.add(2**63 - 2, 2**63 - 1)
    ranges.remove(2**63 - 2, 2**63 - 1)
    assert not len(ranges)


def test_an_empty_range_overlaps_nothing() -> None:
    ranges = RangeSet()
    ranges.add(0, 5)
    assert not ranges.overlaps(3, 3)
