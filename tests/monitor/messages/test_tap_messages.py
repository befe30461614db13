"""What a tap makes of the sections it is shown: conditions, redaction, the rate, and the forms of a message."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.wire import frames, section
from zpipe.fixture import as_row, from_json, to_json
from zpipe.messages import Message
from zpipe.monitor.messages.condition import read_condition
from zpipe.monitor.messages.redaction import MARK, Redaction, read_names
from zpipe.monitor.messages.tapped_messages import TappedMessages
from zpipe.testing import load_fixture

MESSAGE = Message(
    {"n": 5, "ok": True, "none": None, "user": {"email": "ann@example.org"}, "items": [{"price": 2.5}], "text": "5"},
    id="read:5",
    origin=100.0,
    headers={"trace": "abc"},
    attempt=2,
)

# ---- conditions


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("n=5", True),
        ("n=5.0", True),
        ("n=6", False),
        ("n!=6", True),
        ("text=5", True),
        ("n>4", True),
        ("n>5", False),
        ("n>=5", True),
        ("n<=4", False),
        ("n < 6", True),
        ("n>ten", False),
        ("ok=true", True),
        ("ok=1", False),
        ("none=null", True),
        ("gone=null", False),
        ("gone!=null", True),
        ("user.email=ann@example.org", True),
        ("user.email~@example\\.org$", True),
        ("user.email~^bob", False),
        ("user~ann", True),
        ("user.email>b", False),
        ("user.email<b", True),
        ("items.0.price>2", True),
        ("items.1.price>2", False),
        ("n.deeper=1", False),
        ("@id=read:5", True),
        ("@id~^read:", True),
        ("@attempt>1", True),
        ("@headers.trace=abc", True),
        ("@origin<200", True),
    ],
)
def test_conditions(text: str, holds: bool) -> None:
    assert read_condition(text).holds(MESSAGE) is holds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n", "allowed are FIELD=VALUE"),
        ("=5", "no condition"),
        ("n~(", "no regular expression"),
        ("@x=1", "no @x"),
        ("id>", "nothing stands after >, so no message would ever meet it; write id>VALUE"),
        ("id <= ", "nothing stands after <="),
    ],
)
def test_what_is_no_condition_says_why(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_condition(text)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("user.email=ann", True),
        ("user.name=Ann", True),
        ("user.email.host=x", False),
        ("a.b.c=1", True),
        ("raw=text", True),
        ("raw~^te", True),
        ("bad~x", True),
        ("map~secret", True),
        ("huge~0xff", True),
        ("huge>1", True),
        ("[[=1", False),
        (f"user={'[' * 100_000}", False),
        (f"list.{'9' * 5000}=1", False),
    ],
)
def test_conditions_on_what_is_odd(text: str, holds: bool) -> None:
    payload = {
        "user.email": "ann",
        "user": {"name": "Ann"},
        "a": {"b.c": 1, "b": 2},
        "raw": b"text",
        "bad": b"\xffx",
        "map": {b"k": {"secret": b"\xff"}},
        "huge": 16**5000 * 255,
        "list": [1],
    }
    assert read_condition(text).holds(Message(payload)) is holds


def test_a_payload_that_is_no_map_meets_conditions_of_its_own() -> None:
    assert read_condition("@id=a").holds(Message("text", id="a"))
    assert not read_condition("n=1").holds(Message("text"))
    assert read_condition("0=1").holds(Message([1]))


# ---- redaction

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.binary(max_size=3), inner),
    max_leaves=12,
)


def test_a_name_hides_the_field_wherever_it_stands() -> None:
    payload = {"email": 1, "Email": 2, "users": [{"email": 3, "name": "x"}], "user": {"token": {"a": 1}}, b"email": 4}
    hidden = Redaction(["email", "user.token"])(Message(payload, "i", headers={"email": 5, "token": 6}))
    users = [{"email": MARK, "name": "x"}]
    assert hidden.payload == {
        "email": MARK,
        "Email": MARK,
        "users": users,
        "user": {"token": MARK},
        b"email": MARK,
    }
    assert hidden.headers == {"email": MARK, "token": 6}
    assert payload["email"] == 1, "what is shown is a copy"


@given(PLAIN, st.sampled_from(["a", "b", ""]))
def test_no_value_of_a_hidden_field_is_left(value: Any, name: str) -> None:
    secret = {"deep": [{"key": value, "secret": {"x": "sesame"}}], name: [[{"secret": "sesame"}]]}
    shown = Redaction(["secret"])(Message(secret, headers={"h": {"secret": "sesame"}}))
    assert "sesame" not in repr((shown.payload, shown.headers))


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("items.0.price", {"items": [{"price": MARK}, {"price": 2}], "a.b": {"c": 3}, "rows": [[4, 5]]}),
        ("items.price", {"items": [{"price": MARK}, {"price": MARK}], "a.b": {"c": 3}, "rows": [[4, 5]]}),
        ("items.1", {"items": [{"price": 1}, MARK], "a.b": {"c": 3}, "rows": [[4, 5]]}),
        ("rows.0.1", {"items": [{"price": 1}, {"price": 2}], "a.b": {"c": 3}, "rows": [[4, MARK]]}),
        ("a.b", {"items": [{"price": 1}, {"price": 2}], "a.b": MARK, "rows": [[4, 5]]}),
        ("a", {"items": [{"price": 1}, {"price": 2}], "a.b": MARK, "rows": [[4, 5]]}),
        ("b", {"items": [{"price": 1}, {"price": 2}], "a.b": MARK, "rows": [[4, 5]]}),
        ("a.b.c", {"items": [{"price": 1}, {"price": 2}], "a.b": {"c": MARK}, "rows": [[4, 5]]}),
    ],
)
def test_a_name_that_a_condition_takes_is_one_that_is_hidden(name: str, left: Any) -> None:
    payload = {"items": [{"price": 1}, {"price": 2}], "a.b": {"c": 3}, "rows": [[4, 5]]}
    assert Redaction([name])(Message(payload)).payload == left


def test_what_is_the_messages_own_can_be_hidden() -> None:
    message = Message({"token": 1}, "ann@example.org", headers={"token": 2, "sub": {"token": 3}})
    assert Redaction(["@headers.token"])(message).headers == {"token": MARK, "sub": {"token": 3}}
    assert Redaction(["@headers.sub.token"])(message).headers == {"token": 2, "sub": {"token": MARK}}
    whole = Redaction(["@headers", "@ID"])(message)
    assert (whole.id, whole.headers, whole.payload) == (MARK, {"token": MARK, "sub": MARK}, {"token": 1})
    assert Redaction(["@headers"])(Message(1)).headers is None


def test_names_to_redact() -> None:
    assert read_names(("@headers.token,@id,@headers",)) == ["@headers.token", "@id", "@headers"]
    for bad in ("@header.token", "@origin", "@id.x"):
        with pytest.raises(ValueError, match=r"@id, @headers and @headers\.NAME"):
            read_names((bad,))
    assert read_names(("email,user.token", " a ")) == ["email", "user.token", "a"]
    for bad in ("", "a,,b", ".a", "a."):
        with pytest.raises(ValueError, match="no field"):
            read_names((bad,))


# ---- fixtures


@given(PLAIN)
def test_every_payload_survives_a_fixture(value: Any) -> None:
    text = json.dumps(to_json(value), allow_nan=False)
    assert repr(from_json(json.loads(text))) == repr(value)  # nan is not nan, but has the same repr


def test_a_fixture_of_all_that_json_has_not(tmp_path: Path) -> None:
    payload = {
        "b": b"\xff",
        "nan": math.nan,
        "inf": -math.inf,
        "like": {"$bytes": "AAAA"},
        "line": "a\u2028b",
        "n": 2**70,
        "like int": {"$int": "0x1"},
    }
    message = Message(payload, "i", 1.5, {"k": b"v"}, "errors", attempt=3)
    path = tmp_path / "f.ndjson"
    path.write_text(json.dumps(as_row(message), ensure_ascii=False) + "\n\n" + '{"payload": 1}\n', encoding="utf-8")
    first, second = load_fixture(path)
    assert (first.id, first.origin, first.headers, first.outlet, first.attempt) == ("i", 1.5, {"k": b"v"}, "errors", 3)
    assert repr(first.payload) == repr(payload)
    assert (second.id, second.payload, second.headers) == ("fixture:3", 1, None)


@pytest.mark.parametrize(
    "number", [10**5000, -(10**5000), 2**2048, 2**2048 - 1], ids=lambda number: str(number.bit_length())
)
def test_numbers_of_thousands_of_digits_survive_a_fixture(number: int) -> None:
    text = json.dumps(to_json({"n": [number]}))
    assert from_json(json.loads(text)) == {"n": [number]}


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"payload": 1, "attempt": "x"}', '{"payload": {"$bytes": "?"}}'])
def test_what_is_no_fixture_is_named_with_its_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "f.ndjson"
    path.write_text(f'{{"payload": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=r"f\.ndjson:2: "):
        load_fixture(path)


# ---- what is shown of what passes


def frame(first: int, count: int, passed: int, payload: Any = None, **more: Any) -> frames.Tap:
    ids = [f"read:{n}" for n in range(first, first + count)]
    payloads = [{"n": n} if payload is None else payload for n in range(first, first + count)]
    body = section.encode(ids, [100.0] * count, payloads, None)
    fields = {"pipeline": "p", "stage": "map", "instance": 2, "upstream": "read", "outlet": "", "consumer": "map"}
    fields |= {"peer": 1, "passed": passed, "count": count, "attempt": 1, "size": len(body), "body": body}
    return frames.Tap(**(fields | more))


def tapped(
    rate: float = 1000, link: Any = None, where: tuple[str, ...] = (), redact: tuple[str, ...] = ()
) -> TappedMessages:
    return TappedMessages(link, [read_condition(one) for one in where], Redaction(list(redact)), rate, 0.0)


def test_a_rate_spreads_over_a_section() -> None:
    made = tapped(rate=4)
    assert [one.message.id for one in made.take(frame(0, 100, 100), 200.0, 0.0)] == [
        "read:0",
        "read:25",
        "read:50",
        "read:75",
    ]
    assert made.take(frame(100, 100, 200), 200.0, 0.0) == []
    assert len(made.take(frame(200, 100, 300), 201.0, 0.5)) == 2
    assert made.summary() == "messages: 6 shown, 300 looked at, of 300 that passed"


def test_a_rate_below_one_shows_one_now_and_then() -> None:
    made = tapped(rate=0.5)
    shown = [len(made.take(frame(n, 1, n + 1), 0.0, float(n))) for n in range(9)]
    assert sum(shown) == 5, shown


def test_only_the_link_is_counted() -> None:
    made = tapped(link=("read", "errors", "map"))
    assert made.take(frame(0, 3, 3), 0.0, 0.0) == []
    assert len(made.take(frame(0, 3, 3, outlet="errors"), 0.0, 0.0)) == 3
    assert made.passed == 3


def test_conditions_see_what_redaction_hides() -> None:
    made = tapped(where=("n>1",), redact=("n",))
    shown = made.take(frame(0, 4, 4), 200.0, 0.0)
    assert [(one.message.id, one.message.payload) for one in shown] == [
        ("read:2", {"n": MARK}),
        ("read:3", {"n": MARK}),
    ]
    assert made.summary() == "messages: 2 shown, 2 met the conditions, 4 looked at, of 4 that passed"


def test_what_passed_is_counted_over_restarts_and_from_where_this_tap_began() -> None:
    made = tapped()
    made.take(frame(0, 10, 1010), 0.0, 0.0)
    assert made.passed == 10
    made.take(frame(50, 10, 1060), 0.0, 0.0)
    assert made.passed == 60
    made.take(frame(60, 5, 5), 0.0, 0.0)  # a new life of the instance
    assert made.passed == 65


@pytest.mark.parametrize("body", [b"", b"\xff", section.encode(["a"], [1.0], [1], None)])
def test_a_section_that_cannot_be_shown_is_counted(body: bytes) -> None:
    made = tapped()
    assert made.take(frame(0, 3, 3, body=body), 0.0, 0.0) == []
    assert made.summary() == (
        "messages: 0 shown, 0 looked at, of 3 that passed, 3 too large to be shown, or not to be decoded"
    )


def test_the_forms_of_a_message() -> None:
    [one] = tapped().take(frame(7, 1, 1, attempt=2), 100.25, 0.0)
    assert one.heading() == "read 1 -> map 2  read:7  attempt 2  0.250 s old"
    assert one.body() == '    {"n": 7}'
    row = json.loads(one.as_json())
    assert row.pop("at") == 100.25
    assert row == {"stage": "map", "instance": 2, "from": "read", "to": "map", "id": "read:7", "origin": 100.0} | {
        "attempt": 2,
        "outlet": "",
        "headers": None,
        "payload": {"n": 7},
    }
    [left] = tapped().take(frame(7, 1, 1, stage="read", instance=1, peer=2, outlet="odd"), 99.0, 0.0)
    assert left.heading() == "read.odd 1 -> map 2  read:7  0.000 s old"


def test_nothing_in_a_payload_can_move_the_cursor_or_fill_the_screen() -> None:
    [one] = tapped().take(frame(0, 1, 1, payload="\x1b[2J\x9b2J\u202e" + "x" * 10_000), 0.0, 0.0)
    assert one.body().isprintable()
    assert len(one.body()) < 2200
    assert "(10,0" in one.body()


def test_nothing_in_a_line_of_json_can_move_the_cursor_or_end_the_line() -> None:
    payload = {"odd": "\x1b[2J\x9b2J\x7f\x85\u2028\u2029\u200e\u202e"}
    [one] = tapped().take(frame(0, 1, 1, payload=payload), 0.0, 0.0)
    line = one.as_json()
    assert line.isprintable() and len(line.splitlines()) == 1
    assert json.loads(line)["payload"] == payload
