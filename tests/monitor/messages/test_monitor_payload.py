from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.wire import cbor
from zpipe.monitor.messages import payload

texts = st.text(st.characters(exclude_categories=["Cs"]))
keys = texts | st.sampled_from([payload.UTF8, payload.BASE64, payload.INT, payload.MAP])
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | texts | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_every_payload_comes_back_from_its_json(value: Any) -> None:
    text = payload.payload_text(value)
    json.loads(text)
    assert cbor.write(payload.read_payload(text)) == cbor.write(value)


@given(st.dictionaries(st.binary(max_size=6), st.integers(), max_size=3))
def test_keys_that_are_bytes_come_back_too(value: dict[bytes, int]) -> None:
    assert payload.read_payload(payload.payload_text(value)) == value


@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_of_thousands_of_digits_come_back_too(sign: int) -> None:
    value = {"n": [sign * 10**5000], "$int": 1}
    assert payload.read_payload(payload.payload_text(value)) == value


@pytest.mark.parametrize("text", ['{"$int": "many"}', '{"$int": 5}'])
def test_what_is_no_number_says_so(text: str) -> None:
    with pytest.raises(ValueError, match="takes it in hexadecimal"):
        payload.read_payload(text)


def test_what_would_not_come_back_is_not_given_to_an_editor() -> None:
    with pytest.raises(ValueError, match="JSON cannot hold"):
        payload.editable_text({"$base64:AA==": 1})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1, column 2"),
        ('{"$base64": "%"}', "is not base64"),
        ('{"$utf8": 1}', "takes text"),
        ("[" * 100_000, "too deeply"),
    ],
)
def test_json_that_is_none_says_where(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        payload.read_payload(text)


def test_fields_are_set_beside_the_others() -> None:
    assert payload.with_fields({"a": 1, "b": 2}, ["b=[3]", "c=null"]) == {"a": 1, "b": [3], "c": None}
    with pytest.raises(ValueError, match="without fields"):
        payload.with_fields([1], ["a=1"])
