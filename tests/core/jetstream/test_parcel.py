"""A parcel's bytes: what is put together comes apart, and nothing else does."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.jetstream import parcel
from zpipe.core.wire import cbor, section
from zpipe.core.wire.section import Section
from zpipe.errors import PeerError


def a_section(count: int, start: int = 0) -> Section:
    ids = [f"a:{n}" for n in range(start, start + count)]
    return Section(section.encode(ids, [1.0] * count, [{"n": n} for n in range(count)], None, "msgpack"), count)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=10), st.integers(1, 10**9), st.integers(1, 9))
def test_what_is_joined_comes_apart(counts: list[int], sequence: int, attempt: int) -> None:
    sent = [a_section(count) for count in counts]
    got = parcel.part(parcel.join(sent), sequence, attempt)
    assert [one.columns() for one in got] == [one.columns() for one in sent]
    assert [one.attempt for one in got] == [attempt] * len(sent)
    assert got[0].first == sequence * parcel.MOST_MESSAGES
    assert [b.first - a.first for a, b in pairwise(got)] == counts[:-1]


@given(st.binary(max_size=200))
def test_other_bytes_are_refused_in_words(payload: bytes) -> None:
    with pytest.raises(PeerError):
        parcel.part(payload, 1, 1)


@pytest.mark.parametrize("cut", range(0, 66, 3))
def test_a_parcel_that_is_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(PeerError):
        parcel.part(parcel.join([a_section(3)])[:cut], 1, 1)


@pytest.mark.parametrize(
    "head",
    [
        [2, [[1, 4]]],
        [1, []],
        [1, [[0, 4]]],
        [1, [[1, 0]]],
        [1, [[1, 4, 4]]],
        [1, [[True, 4]]],
        [1, [[2000, 4]]],
        7,
        [1],
    ],
)
def test_a_head_that_is_not_of_this_version_or_makes_no_sense_is_refused(head: object) -> None:
    rows = cbor.write(head)
    with pytest.raises(PeerError):
        parcel.part(len(rows).to_bytes(4, "big") + rows + b"body", 1, 1)
