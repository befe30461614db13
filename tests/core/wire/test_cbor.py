from __future__ import annotations

import contextlib
import datetime
import decimal
import math
import uuid
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zpipe.core.wire import cbor
from zpipe.errors import PeerError

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.binary(max_size=8)
)
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


@settings(max_examples=50)
@given(PLAIN)
def test_plain_values_come_back(value: Any) -> None:
    assert cbor.read(cbor.write(value)) == value
    assert cbor.read(cbor.write_payloads([[value]], [value])) == [[value]]


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"a": v}], ids=["arrays", "maps"])
def test_depth_is_limited_at_the_limit(wrap: Any) -> None:
    value: Any = 0
    for _ in range(cbor.MAX_DEPTH):
        value = wrap(value)
    cbor.read(cbor2.dumps(value))
    with pytest.raises(PeerError):
        cbor.read(cbor2.dumps(wrap(value)))


REFUSED = sorted({*range(300), 1004, 2000, 12345, 43000, 55799, 2**32, 2**64 - 1} - {2, 3})
INSIDES = [0, "2020-01-01", "1/2", b"abcd", b"abcdabcdabcdabcd", [], [1, 2], [b"abcd", 8], {}, {b"abcd": 8}, 1.5]


def tags_read(tags: list[int] | set[int]) -> list[tuple[int, Any]]:
    read = []
    for tag in tags:
        for inside in INSIDES:
            try:
                cbor.read(cbor2.dumps(cbor2.CBORTag(tag, inside)))
            except PeerError:
                continue
            read.append((tag, inside))
    return read


def test_every_tag_but_bignums_is_refused() -> None:
    assert tags_read(REFUSED) == []


@pytest.mark.parametrize(
    ("value", "back"), [(2**64, 2**64), (-(2**64) - 1, -(2**64) - 1), (2**64 - 1, 2**64 - 1), (-(2**64), -(2**64))]
)
def test_bignums_are_read(value: int, back: int) -> None:
    assert cbor.read(cbor.write(value)) == back


class Odd:
    pass


SELF: list[Any] = []
SELF.append(SELF)


@pytest.mark.parametrize(
    "payload",
    [
        {1: 2},
        {None: 1},
        {"a": {1.5: 1}},
        {1, 2},
        frozenset([1]),
        datetime.date(2020, 1, 1),
        datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
        decimal.Decimal("1.5"),
        1 + 2j,
        Odd(),
        Odd,
        "\ud800",
        SELF,
        nested(32),
        {"a": cbor2.CBORTag(12345, 1)},
    ],
    ids=lambda p: type(p).__name__,
)
def test_what_cannot_be_read_cannot_be_sent(payload: Any) -> None:
    for payloads in ([payload], [{"a": 1}, payload], [1, payload]):
        with pytest.raises(ValueError, match="cannot be sent"):
            cbor.write_payloads([payloads], payloads)


@pytest.mark.parametrize("payload", [{b"a": 1}, {"a": {b"b": [1]}}], ids=["alone", "inside"])
def test_keys_of_byte_strings_are_plain(payload: Any) -> None:
    assert cbor.read(cbor.write_payloads([[payload]], [payload])) == [[payload]]


@pytest.mark.parametrize("value", [cbor2.undefined, cbor2.CBORSimpleValue(9)], ids=["undefined", "simple"])
def test_a_reader_takes_what_a_writer_must_not_send(value: Any) -> None:
    """PROTOCOL.md section 4 allows it: refusing it would cost every section a pass over its values."""
    assert cbor.read(cbor2.dumps({"a": [value]})) == {"a": [value]}


def test_a_tuple_is_sent_as_an_array() -> None:
    assert cbor.read(cbor.write_payloads([[(1, (2,))]], [(1, (2,))])) == [[[1, [2]]]]


@pytest.mark.parametrize("payload", [memoryview(b"ab"), memoryview(b"a-b-")[::2], bytearray(b"ab")], ids=["view", "strided view", "bytearray"])
def test_bytes_of_any_kind_are_sent_as_a_byte_string(payload: Any) -> None:
    for one, back in ((payload, b"ab"), ({"a": [payload]}, {"a": [b"ab"]})):
        assert cbor.read(cbor.write_payloads([[one]], [one])) == [[back]]


@pytest.mark.parametrize("inner", [0, b"x", [], {}, (), {"a": 1}], ids=repr)
@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {"a": v}], ids=["arrays", "tuples", "maps"])
def test_what_is_written_is_no_deeper_than_what_is_read(wrap: Any, inner: Any) -> None:
    value = inner
    for _ in range(40):
        try:
            cbor.read(cbor2.dumps([[value]]))
        except PeerError:
            with pytest.raises(ValueError, match="cannot be sent"):
                cbor.write_payloads([[value]], [value])
        else:
            cbor.write_payloads([[value]], [value])
        value = wrap(value)


def test_payloads_whose_own_methods_fail_are_a_value_error() -> None:
    class Mean(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            raise RuntimeError("no")

    try:
        cbor.write_payloads([[Mean()]], [Mean()])
    except ValueError as error:
        assert "cannot be sent" in str(error)


def test_special_floats_are_plain() -> None:
    back = cbor.read(cbor.write_payloads([[math.inf, -math.inf, math.nan]], [math.inf, -math.inf, math.nan]))
    assert back[0][:2] == [math.inf, -math.inf]
    assert math.isnan(back[0][2])


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing_but_peer_errors(encoded: bytes) -> None:
    with contextlib.suppress(PeerError):
        cbor.read(encoded)


def test_lengths_that_are_lies_cost_nothing() -> None:
    for major in (0x40, 0x60, 0x80, 0xA0):
        for length in (2**20, 2**32, 2**63 - 1, 2**64 - 1):
            with pytest.raises(PeerError):
                cbor.read(bytes([major | 27]) + length.to_bytes(8, "big") + b"\x00" * 16)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"a": {1, 2}}, "a set at .a"),
        ({"a": [1, {"b": decimal.Decimal(1)}]}, "a Decimal at .a[1].b"),
        ({"at": datetime.datetime(2020, 1, 1)}, "a datetime at .at"),
        ({"on": datetime.date(2020, 1, 1)}, "a date at .on"),
        ({"a": {1: 2}}, "a map's key is a int at .a"),
        (uuid.UUID(int=1), "a UUID is not plain CBOR"),
    ],
)
def test_what_cannot_be_sent_is_named_with_its_place(payload: object, said: str) -> None:
    with pytest.raises(ValueError, match="cannot be sent: ") as caught:
        cbor.write_payloads([["id"], [0.0], [payload], None], [payload])
    assert said in str(caught.value)


# ---- the number of values


def values_in(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(values_in(key) + values_in(inner) for key, inner in value.items())
    if isinstance(value, list):
        return 1 + sum(map(values_in, value))
    bignum = isinstance(value, int) and not -(1 << 64) <= value < 1 << 64
    return 2 if bignum else 1  # a tag, and its bytes


@settings(max_examples=200)
@given(st.lists(PLAIN | st.text(max_size=300) | st.binary(max_size=300), max_size=30), st.integers(1, 60))
def test_every_value_is_counted(values: list[Any], repeats: int) -> None:
    many = [values] * repeats
    encoded, count = cbor2.dumps(many), values_in(many)
    assert not cbor.has_more_values(encoded, count)
    assert cbor.has_more_values(encoded, count - 1)


EACH = [0, -1, 1.5, 1000, 1 << 40, None, True, "", "short", "x" * 23, "x" * 24, "x" * 300, b"", b"y" * 30, [], {}]


@pytest.mark.parametrize("value", EACH, ids=lambda v: repr(v)[:8])
def test_the_number_of_values_is_limited_at_the_limit(value: Any) -> None:
    most = 70_000
    assert cbor.read(cbor2.dumps([value] * (most - 1)), most) == [value] * (most - 1)
    with pytest.raises(PeerError, match=f"more than {most} values"):
        cbor.read(cbor2.dumps([value] * most), most)


def test_a_payload_of_too_many_values_cannot_be_sent() -> None:
    for payload in ([0] * (cbor.MAX_VALUES - 3), dict.fromkeys(map(str, range(cbor.MAX_VALUES // 2 - 2)), 0)):
        cbor.write_payloads([[payload]], [payload])
    for payload in ([0] * (cbor.MAX_VALUES - 2), dict.fromkeys(map(str, range(cbor.MAX_VALUES // 2 - 1)), 0)):
        with pytest.raises(ValueError, match="more than 1000000 values"):
            cbor.write_payloads([[payload]], [payload])


@pytest.mark.parametrize("end", [b"\x9f", b"\xff", b"\x1c", b"\x5f", b"\x79\xff", b"\x5b" + b"\xff" * 8])
def test_what_is_cut_short_or_no_cbor_is_refused_whatever_is_counted(end: bytes) -> None:
    encoded = b"\x9a\x00\x01\x00\x00" + b"\0" * 300 + end
    assert not cbor.has_more_values(encoded, 302)
    with pytest.raises(PeerError, match="not the CBOR"):
        cbor.read(encoded, 302)
