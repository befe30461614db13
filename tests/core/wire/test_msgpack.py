"""MessagePack beside CBOR: the same values arrive by either, the same are refused, and hostile bytes cost as little."""

from __future__ import annotations

import collections
import contextlib
import datetime
import enum
import gc
import math
import mmap
import uuid
from collections.abc import Callable
from typing import Any, get_args

import ormsgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zpipe.core.policy import Codec
from zpipe.core.wire import cbor, msgpack, section
from zpipe.errors import PeerError

CODECS: tuple[Codec, ...] = get_args(Codec)
INTS = st.integers() | st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1])
SCALARS = st.none() | st.booleans() | INTS | st.floats() | st.text(max_size=40) | st.binary(max_size=40)
KEYS = st.text(max_size=40) | st.sampled_from([b"bytes", b""])
PAYLOADS = st.recursive(
    SCALARS | st.binary(max_size=8).map(bytearray) | st.binary(max_size=8).map(memoryview),
    lambda inner: (
        st.lists(inner, max_size=20)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=20)
    ),
)
NO_TEXT = "\ud800"


class Number(enum.IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


class Pair(collections.namedtuple("Pair", ("a", "b"))):
    __slots__ = ()


class Odd:
    pass


NOT_PLAIN = [
    {1: 2}, {None: 1}, {1.5: 1}, {(1,): 1}, {Text("a"): 1}, {1}, frozenset([1]), Number.ONE, Text("x"), Pair(1, [2]), Odd(), Odd,
    datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), uuid.UUID(int=1), 1 + 2j, NO_TEXT,
    {NO_TEXT: 1}, collections.OrderedDict(a=1), range(3), True, math.nan,
]  # fmt: skip


def encoded(payload: Any, codec: Codec, headers: Any = None) -> bytes:
    return section.encode(["a"], [0.0], [payload], None if headers is None else [headers], codec)


def is_msgpack(body: bytes) -> bool:
    return body[0] == 0x94


def arrived(payload: Any, codec: Codec) -> Any:
    """What a payload is at the consumer; a text if it cannot be sent."""
    try:
        return section.decode(encoded(payload, codec), 1).payloads
    except ValueError as error:
        return f"refused: {error}"


def with_types(value: Any) -> Any:
    """As something that is equal only if all types in it are, and NaN to NaN."""
    if isinstance(value, list):
        return list, [with_types(one) for one in value]
    if isinstance(value, dict):
        return dict, [(with_types(key), with_types(one)) for key, one in value.items()]
    return type(value), repr(value)


def nested(depth: int, wrap: type = list) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = {"a": value} if wrap is dict else wrap([value])
    return value


# ---- one value, whichever codec


@settings(max_examples=200)
@given(PAYLOADS)
def test_a_payload_arrives_the_same_by_either_codec(payload: Any) -> None:
    assert with_types(arrived(payload, "msgpack")) == with_types(arrived(payload, "cbor"))


@settings(max_examples=200)
@given(
    st.recursive(
        st.sampled_from(NOT_PLAIN), lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.just({"a": 1})
    )
)
def test_what_is_not_plain_is_taken_or_refused_the_same_by_either(payload: Any) -> None:
    assert with_types(arrived(payload, "msgpack")) == with_types(arrived(payload, "cbor"))


@pytest.mark.parametrize(
    ("payload", "packed"),
    [
        ({"a": [1, 1.5, "x", b"y", None, True]}, True),
        (2**64 - 1, True),
        (2**64, False),
        (-(2**63), True),
        (-(2**63) - 1, False),
        ({b"a": 1}, False),
        ((1, 2), False),
        (Number.ONE, False),
    ],
)
def test_what_msgpack_does_not_take_goes_as_cbor(payload: Any, packed: bool) -> None:
    assert is_msgpack(encoded(payload, "msgpack")) == packed
    assert not is_msgpack(encoded(payload, "cbor"))


def test_bytes_of_any_kind_arrive_as_bytes() -> None:
    for payload in (b"ab", bytearray(b"ab"), memoryview(b"ab"), {"a": memoryview(b"ab")}, memoryview(b"a-b-")[::2]):
        for codec in CODECS:
            assert arrived(payload, codec) in ([b"ab"], [{"a": b"ab"}])


# ---- depth


@pytest.mark.parametrize("wrap", [list, dict, tuple])
@pytest.mark.parametrize("codec", CODECS)
def test_payloads_and_headers_may_be_30_deep(codec: Codec, wrap: type) -> None:
    gc.collect()  # which may untrack what holds nothing that could be in a cycle
    encoded(nested(30, wrap), codec)
    encoded(1, codec, {"a": nested(29, wrap)})
    for too_deep in (nested(31, wrap), [nested(30, wrap)], nested(200, wrap), [1, {}, nested(30, wrap)]):
        with pytest.raises(ValueError, match="cannot be sent"):
            encoded(too_deep, codec)
        with pytest.raises(ValueError, match="cannot be sent"):
            encoded(1, codec, {"a": too_deep})


@pytest.mark.parametrize("inner", [[], {}, {"a": 1}], ids=repr)
def test_a_container_that_holds_nothing_deeper_counts(inner: Any) -> None:
    for depth, refused in ((29, False), (30, True)):
        payload = inner
        for _ in range(depth):
            payload = [payload]
        body = ormsgpack.packb([["a"], [0.0], [payload], None])
        assert msgpack.is_too_deep([payload]) == refused
        with pytest.raises(PeerError, match="nested") if refused else contextlib.nullcontext():
            section.decode(body, 1)


@pytest.mark.parametrize("depth", [31, 100, 1000, 1100, 100_000])
def test_deep_nesting_is_refused_at_reading(depth: int) -> None:
    body = b"\x94\x91\xa1a\x91\x00\x91" + b"\x91" * depth + b"\x00\xc0"
    with pytest.raises(PeerError):
        section.decode(body, 1)


# ---- number


def payload_of(count: int) -> list[Any]:
    """A payload with which a section of one message has so many values."""
    return [0] * (count - 1 - 4 - 3)  # the section, its columns and no headers, an id, an origin and the payload itself


def test_the_number_of_values_is_limited_at_the_limit() -> None:
    fits, over = payload_of(cbor.MAX_VALUES), payload_of(cbor.MAX_VALUES + 1)
    body = encoded(fits, "msgpack")
    assert is_msgpack(body)
    assert section.decode(body, 1).payloads == [fits]
    for codec in CODECS:
        with pytest.raises(ValueError, match="more than 1000000 values"):
            encoded(over, codec)
    with pytest.raises(PeerError, match="more than 1000000 values"):
        section.decode(ormsgpack.packb([["a"], [0.0], [over], None]), 1)


def values_in(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(values_in(key) + values_in(inner) for key, inner in value.items())
    return 1 + sum(map(values_in, value)) if isinstance(value, list) else 1


STRINGS = st.text(max_size=300) | st.binary(max_size=300)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | STRINGS,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
)


@settings(max_examples=200)
@given(st.lists(VALUES, max_size=30), st.integers(1, 10))
def test_every_value_is_counted(values: list[Any], repeats: int) -> None:
    many = [values] * repeats
    packed, count = ormsgpack.packb(many), values_in(many)
    assert not msgpack.has_more_values(packed, count)
    assert msgpack.has_more_values(packed, count - 1)


EACH = [0, -1, -33, 1.5, 1000, 1 << 20, 1 << 40, None, True, "", "short", "x" * 31, "x" * 32, "x" * 300, "x" * 70_000]
EACH += [b"", b"y" * 30, b"y" * 300, [], {}, [0] * 20, [0] * 70_000, {str(n): n for n in range(20)}]


@pytest.mark.parametrize("value", EACH, ids=lambda v: repr(v)[:8])
def test_every_kind_of_head_is_counted(value: Any) -> None:
    each = values_in(value)
    for count in (1, 255, 256, 257, 1000) if each < 100 else (1, 3):
        packed = ormsgpack.packb([value] * count)
        assert not msgpack.has_more_values(packed, count * each + 1)
        if len(packed) > count * each:
            assert msgpack.has_more_values(packed, count * each)


@pytest.mark.parametrize("value", [b"\x80", b"\x90", b"\xc0", b"\xdc\x00\x00", b"\xc4\x00", b"\x91"])
def test_millions_of_values_are_refused_and_not_decoded(value: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ormsgpack, "unpackb")
    with pytest.raises(PeerError, match="more than 1000000 values"):
        section.decode(b"\x94\x91\xa1a\x91\x00\x91\xdd\x00\xff\xff\xff" + value * 2_000_000, 1)


# ---- bytes from anybody


@pytest.mark.parametrize("head", [0xC6, 0xDB, 0xDD, 0xDF, 0xC9])
@pytest.mark.parametrize("length", [2**20, 2**31, 2**32 - 1])
@pytest.mark.parametrize("repeats", [1, 25])
def test_lengths_that_are_lies_cost_nothing(head: int, length: int, repeats: int) -> None:
    lie = bytes([head]) + length.to_bytes(4, "big")
    with pytest.raises(PeerError):
        section.decode(b"\x94\x91\xa1a\x91\x00\x91" + lie * repeats + b"\x00" * 16, 1)


@settings(max_examples=300)
@given(st.binary(max_size=60), st.integers(0, 3))
def test_random_bytes_raise_nothing_but_peer_errors(tail: bytes, count: int) -> None:
    with contextlib.suppress(PeerError):
        section.decode(b"\x94" + tail, count)


def test_a_key_that_comes_twice_has_its_last_value() -> None:
    """PROTOCOL.md section 11 allows it: looking for them would cost every section a pass over its values."""
    assert section.decode(b"\x94\x91\xa1a\x91\x00\x91\x82\xa1k\x01\xa1k\x02\xc0", 1).payloads == [{"k": 2}]


@pytest.mark.parametrize("wrap", [lambda view: view, lambda view: {"view": view}, lambda view: [[{"view": [view]}]]])
@pytest.mark.parametrize("codec", CODECS)
def test_a_memoryview_arrives_as_its_bytes_whatever_memory_it_is_of(wrap: Callable[[Any], Any], codec: Codec) -> None:
    """It refers to its memory, that to its type, and so on: looked into, it is all of the interpreter."""
    with mmap.mmap(-1, 4096) as memory, memoryview(memory) as view, view.cast("d") as numbers:
        for one in (view, numbers):
            assert arrived(wrap(one), codec) == [wrap(bytes(one))]
            assert not msgpack.is_plain([wrap(one)])


def test_the_encoder_says_itself_how_deep_it_goes() -> None:
    payload = nested(msgpack._deepest())
    assert ormsgpack.packb(payload)
    with pytest.raises(TypeError):
        ormsgpack.packb([payload])


@pytest.mark.parametrize("payload", [*NOT_PLAIN, bytearray(b"x"), [1, (2,)], 1 << 70, {"a": [{b"k": None}]}])
def test_the_quick_check_before_cbor_changes_nothing_of_what_is_sent(payload: Any) -> None:
    def sent(*quick_check: Any) -> Any:
        try:
            return cbor.write_payloads([[payload]], [payload], *quick_check)
        except ValueError as error:
            return str(error)

    assert sent(msgpack.is_plain) == sent()


def test_the_quick_check_is_for_small_payloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """To encode a large one a second time takes longer than to look at it."""
    checked: list[int] = []

    def is_plain(payloads: list[Any]) -> bool:
        checked.append(len(payloads))
        return True

    for size, expected in ((cbor.SMALL_BYTES - 20, [2]), (cbor.SMALL_BYTES, [])):
        checked.clear()
        cbor.write_payloads([[bytes(size)] * 2], [bytes(size)] * 2, is_plain)
        assert checked == expected


def test_a_section_of_no_messages_is_malformed() -> None:
    with pytest.raises(PeerError):
        section.decode(b"\x94\x90\x90\x90\xc0", 0)
