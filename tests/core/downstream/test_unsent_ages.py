from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.downstream.memory_link import Ages

STEPS = st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40)


@given(STEPS)
def test_an_age_is_right_to_within_the_time_between_two_marks(steps: list[tuple[float, int, int]]) -> None:
    """Each step: time passes, some numbers come, some of the oldest go, and it is looked at."""
    ages, now, oldest = Ages(), 0.0, 0
    born: list[float] = []
    for seconds, come, go in steps:
        now += seconds
        born += [now] * come
        ages.mark(now, len(born))
        oldest = min(oldest + go, len(born))
        age = ages.age(now, oldest)
        if oldest == len(born):
            assert age == 0.0
        else:
            assert age == now - born[oldest]  # a mark at each step: exactly


def test_between_marks_it_is_too_young_by_no_more_than_their_distance() -> None:
    ages = Ages()
    ages.mark(0.0, 0)
    # Numbers 0 to 9 come somewhere between 0 and 1.
    ages.mark(1.0, 10)
    assert ages.age(5.0, 3) == 4.0
    assert ages.age(5.0, 10) == 0.0
