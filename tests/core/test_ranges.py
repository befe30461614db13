from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from zpipe.core.ranges import RangeSet

NUMBER = st.integers(0, 24)
STEPS = st.lists(st.tuples(st.sampled_from(["add", "add_new", "remove", "discard_below"]), NUMBER, NUMBER), max_size=25)


@settings(max_examples=150)
@given(STEPS)
def test_a_range_set_does_what_a_set_does(steps: list[tuple[str, int, int]]) -> None:
    ranges, model = RangeSet(), set[int]()
    for step, a, b in steps:
        if step == "add":
            ranges.add(a, b)
            model |= set(range(a, b))
        elif step == "add_new":
            assert ranges.add_new(a, b) is not any(n in model for n in range(a, b))
            model |= set(range(a, b)) if not any(n in model for n in range(a, b)) else set()
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


RANGES = st.lists(st.tuples(NUMBER, NUMBER), max_size=8)


@settings(max_examples=150)
@given(RANGES, RANGES)
def test_what_is_in_one_and_not_in_the_other(mine: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    ranges, other = RangeSet(), RangeSet()
    for start, stop in mine:
        ranges.add(start, stop)
    for start, stop in others:
        other.add(start, stop)
    rest = list(ranges.minus(other))
    assert all(start < stop for start, stop in rest)
    assert [n for start, stop in rest for n in range(start, stop)] == [
        n for n in range(25) if n in ranges and n not in other
    ]


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
