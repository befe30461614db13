from __future__ import annotations

import contextlib
import itertools
import math
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zpipe.core.policy import Codec
from zpipe.core.wire import section
from zpipe.core.wire.frames import Parcel
from zpipe.core.wire.section import Section, sections_of
from zpipe.errors import PeerError

PAYLOADS = st.lists(st.none() | st.integers(-5, 5) | st.text(max_size=9) | st.just({"a": [1]}), min_size=1, max_size=12)


def columns(payloads: list[Any], headers: bool = False) -> section.Columns:
    return section.Columns(
        [f"s:{n}" for n in range(len(payloads))],
        [float(n) for n in range(len(payloads))],
        payloads,
        [None if n % 2 else {"h": n} for n in range(len(payloads))] if headers else None,
    )


CODECS: tuple[Codec, ...] = get_args(Codec)


def codec_of(body: bytes) -> Codec:
    return "msgpack" if body[0] == 0x94 else "cbor"


@pytest.mark.parametrize("codec", CODECS)
def test_a_section_is_read_where_the_transport_has_it(codec: Codec) -> None:
    encoded = section.encode(*columns(["a", b"b", {"c": [1]}], headers=True), codec)
    [whole] = sections_of(Parcel(b"s" * 16, 1, [[3, len(encoded), 1, 1, 0]]), memoryview(encoded))
    assert whole.columns() == section.decode(encoded, 3)
    assert [*map(type, whole.columns().payloads)] == [str, bytes, dict], (
        "nothing that is decoded refers to the transport's memory"
    )
    assert whole.cut(1, 3).columns().ids == ["s:1", "s:2"]
    assert type(whole.body()) is bytes and whole.body() == encoded, "what is stored or sent on is a copy"


@settings(max_examples=80)
@given(PAYLOADS, st.booleans(), st.sampled_from(CODECS), st.sampled_from(CODECS), st.data())
def test_parts_cut_in_any_way_are_the_whole(
    payloads: list[Any], headers: bool, codec: Codec, wanted: Codec, data: st.DataObject
) -> None:
    whole = Section(section.encode(*columns(payloads, headers), codec), len(payloads), first=10, attempt=3)
    size = whole.size
    pieces = [whole]
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(pieces) - 1))
        piece = pieces[at]
        if piece.count < 2:
            continue
        cut = data.draw(st.integers(1, piece.count - 1))
        pieces[at : at + 1] = [piece.cut(0, cut), piece.cut(cut, piece.count)]
    assert sum(p.count for p in pieces) == len(payloads)
    assert sum(p.size for p in pieces) == size, "shares add up exactly before they are encoded"
    assert all(p.size >= p.count for p in pieces)
    number, back = 10, ([], [], [], [])  # type: ignore[var-annotated]
    for piece in pieces:
        assert (piece.first, piece.attempt) == (number, 3)
        number += piece.count
        body = piece.body(wanted)
        assert piece.size == len(body)
        assert codec_of(body) == (codec if piece is whole and wanted == "msgpack" else wanted)
        decoded = section.decode(body, piece.count)
        for column, more in zip(back, decoded, strict=True):
            column.extend(more or [])
    assert back == tuple(column or [] for column in columns(payloads, headers))


@given(st.integers(1, 40), st.integers(1, 4000), st.lists(st.integers(0, 40), max_size=5))
def test_byte_shares_of_disjoint_parts_add_up(count: int, size: int, cuts: list[int]) -> None:
    piece = Section(b"x" * size, count)
    edges = sorted({0, count, *(c for c in cuts if c < count)})
    assert sum(piece.bytes_between(a, b) for a, b in itertools.pairwise(edges)) == size


def test_the_body_of_an_uncut_section_is_the_very_same() -> None:
    body = section.encode(*columns([1, 2]))
    whole = Section(body, 2)
    whole.columns()
    assert whole.body() is body
    assert whole.columns() is whole.columns()


def test_a_section_is_written_anew_only_for_who_does_not_read_it() -> None:
    packed = section.encode(*columns([[100] * 50, {"a": b"x"}], headers=True), "msgpack")
    one = Section(packed, 2, first=7, attempt=3, suspicion=1)
    assert one.body("msgpack") is packed
    written = one.body("cbor")
    assert written == section.encode(*section.decode(packed, 2))
    assert one.row() == [2, len(written), 7, 3, 1] and len(written) > len(packed)
    assert one.body("msgpack") is written, "everybody reads CBOR"
    assert one.columns() == section.decode(packed, 2)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_count_that_is_wrong_is_a_peer_error(count: int) -> None:
    with pytest.raises(PeerError, match="columns"):
        section.decode(section.encode(*columns([1, 2])), count)


@pytest.mark.parametrize("origin", [0, 0.0, 1, section.MAX_ORIGIN_S - 1])
def test_an_origin_is_a_time_of_this_age(origin: float) -> None:
    assert section.decode(section.encode(["a", "b"], [1.0, origin], [1, 2], None), 2)[1] == [1.0, origin]


@pytest.mark.parametrize(
    "origin", [math.inf, -math.inf, math.nan, -1, -1e-9, section.MAX_ORIGIN_S, 1e308, 2**63, 10**400, True]
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_origin_that_is_no_time_is_a_peer_error(origin: float, at: int) -> None:
    origins = [1.0, 2, 3.0]
    origins[at] = origin
    with pytest.raises(PeerError, match="origins"):
        section.decode(section.encode(["a", "b", "c"], origins, [1, 2, 3], None), 3)


@pytest.mark.parametrize("origins", [[1.0, True], [0.0, False], [True, 1.0]])
def test_what_only_equals_a_time_is_none(origins: list[Any]) -> None:
    with pytest.raises(PeerError, match="origins"):
        section.decode(section.encode(["a", "b"], origins, [1, 2], None), 2)


@pytest.mark.parametrize("id", [1, None, b"a", ["a"]])
def test_an_id_that_is_no_text_is_a_peer_error(id: Any) -> None:
    with pytest.raises(PeerError, match="ids"):
        section.decode(section.encode(["a", id], [1.0, 1.0], [1, 2], None), 2)


def test_parting_a_parcel() -> None:
    bodies = [section.encode(*columns([1])), section.encode(*columns(["x"] * 3))]
    rows = [[1, len(bodies[0]), 5, 1, 0], [3, len(bodies[1]), 9, 2, 4]]
    parts = sections_of(Parcel("s", 1, rows), b"".join(bodies))
    assert [(p.count, p.size, p.first, p.attempt, p.suspicion) for p in parts] == [tuple(row) for row in rows]
    assert parts[1].columns()[2] == ["x"] * 3
    for body in (b"".join(bodies)[:-1], b"".join(bodies) + b"\x00", b""):
        with pytest.raises(PeerError, match="add up"):
            sections_of(Parcel("s", 1, rows), body)


@settings(max_examples=150)
@given(st.binary(max_size=60), st.integers(0, 5))
def test_random_bodies_raise_nothing_but_peer_errors(body: bytes, count: int) -> None:
    with contextlib.suppress(PeerError):
        section.decode(body, count)


@settings(max_examples=150)
@given(st.sampled_from(CODECS), st.data())
def test_mutated_bodies_raise_nothing_but_peer_errors(codec: Codec, data: st.DataObject) -> None:
    body = bytearray(section.encode(*columns([1, {"a": b"x"}, None], headers=True), codec))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PeerError):
        section.decode(bytes(body), 3)


def test_a_part_has_every_field_of_its_messages() -> None:
    whole = columns(["a", "b", "c", "d"], headers=True)
    part = whole.part(1, 3)
    assert [len(column or ()) for column in part] == [2] * len(section.Columns._fields)
    assert all(part[at] == (column or [])[1:3] for at, column in enumerate(whole))
    assert columns(["a"]).part(0, 1).headers is None


def test_a_row_of_a_parcel_says_all_of_a_section() -> None:
    whole = Section(section.encode(*columns(["a", "b"])), 2, first=7, attempt=3, suspicion=2)
    assert whole.row() == [2, len(whole.body()), 7, 3, 2]
    [arrived] = sections_of(Parcel(b"", 1, [whole.row()]), whole.body())
    assert arrived.row() == whole.row()
