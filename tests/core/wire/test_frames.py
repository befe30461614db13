from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zpipe.core.wire import cbor, frames
from zpipe.errors import PeerError

VECTORS = [
    bytes.fromhex(row["hex"])
    for row in json.loads((Path(__file__).parent / "vectors" / "frames.json").read_text(encoding="utf-8"))
]
TEXT = st.text(max_size=12)
COUNT = st.integers(0, 2**63 - 1)
NAME = st.text(min_size=1, max_size=12)
QUEUE = st.integers(0, frames.MAX_QUEUE_MESSAGES)
BOOL = st.booleans()
SECRET = st.binary(min_size=frames.SECRET_BYTES, max_size=frames.SECRET_BYTES)
ROWS = {n: st.lists(st.lists(COUNT, min_size=n, max_size=n), max_size=4) for n in (2, 3)}
FRAMES = st.one_of(
    st.builds(frames.Hello, COUNT, TEXT, TEXT, COUNT, NAME, SECRET, TEXT, TEXT, TEXT, COUNT, QUEUE, TEXT, ROWS[3]),
    st.builds(frames.Welcome, COUNT, SECRET, NAME, COUNT, TEXT),
    st.builds(frames.Refuse, SECRET | st.just(b""), TEXT, COUNT),
    st.builds(
        frames.Statement,
        SECRET,
        COUNT,
        COUNT,
        COUNT,
        COUNT,
        COUNT,
        COUNT,
        ROWS[2],
        ROWS[3],
        ROWS[3],
        st.floats(0, 2**63, exclude_max=True),
        BOOL,
        BOOL,
        BOOL,
    ),
    st.builds(frames.Confirm, SECRET, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT),
    st.builds(frames.Announcement, TEXT, TEXT, COUNT, NAME, st.just("RUNNING"), BOOL, BOOL),
    st.builds(frames.Request, COUNT, TEXT),
    st.builds(frames.Done, COUNT, st.just("STOPPED")),
    st.builds(frames.Parcel, SECRET, COUNT, st.lists(st.just([1, 2, 3, 4, 5]), min_size=1, max_size=5)),
    st.builds(frames.Parcel, SECRET, COUNT, st.just([])),
    st.builds(
        frames.Tap, TEXT, TEXT, COUNT, TEXT, TEXT, TEXT, COUNT, COUNT, COUNT, COUNT, COUNT, st.binary(max_size=8)
    ),
    st.builds(frames.Snapshot, st.dictionaries(TEXT, COUNT | TEXT | BOOL, max_size=4)),
)
ODD = st.sampled_from(
    [
        None,
        -1,
        2**63,
        1.5,
        "",
        "x",
        b"",
        b"x",
        b"x" * 17,
        [],
        [[]],
        [[1]],
        [["a"]],
        {},
        True,
        "x" * 1025,
        [None],
        10**400,
    ]
)


@settings(max_examples=200)
@given(FRAMES)
def test_frames_come_back(frame: frames.Frame) -> None:
    assert frames.read(frames.write(frame)) == frame


@settings(max_examples=300)
@given(st.binary(max_size=80))
def test_random_bytes_raise_nothing_but_peer_errors(encoded: bytes) -> None:
    with contextlib.suppress(PeerError):
        frames.read(encoded)


@pytest.mark.parametrize("most", [(1 << 32) - 1, 1 << 32, (1 << 63) - 1])
@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_parcels_header_reads_as_it_was_written(most: int, rows: int) -> None:
    sections = [[1, most, most, most, most]] * rows
    parcel = frames.Parcel(bytes(frames.SECRET_BYTES), most, sections)
    assert frames.read(frames.write_parcel(parcel.session, most, sections)) == parcel


def test_a_header_of_one_section_is_read_as_strictly_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read as CBOR. Each of its bytes is changed here, and what comes of it is the same with and without that."""

    def read(header: bytes) -> frames.Frame | str:
        try:
            return frames.read(header)
        except PeerError as error:
            return str(error)

    whole = frames.write_parcel(b"session.session.", 7, [[1, 2, 1, 1, 0]])
    changed = [
        whole[:at] + bytes([byte]) + whole[at + 1 :] for at in range(len(whole)) for byte in (0, 1, 3, 0x19, 255)
    ]
    quick = list(map(read, changed))
    monkeypatch.setattr(frames, "_read_one_section", lambda encoded: None)
    assert quick == list(map(read, changed))
    assert {type(one) for one in quick} == {frames.Parcel, str}


@settings(max_examples=400)
@given(st.sampled_from(VECTORS), st.data())
def test_mutated_frames_raise_nothing_but_peer_errors(vector: bytes, data: st.DataObject) -> None:
    mutated = bytearray(vector)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        match data.draw(st.integers(0, 2)):
            case 0:
                mutated[at] = data.draw(st.integers(0, 255))
            case 1:
                del mutated[at : at + data.draw(st.integers(1, 8))]
            case _:
                mutated[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        if not mutated:
            break
    with contextlib.suppress(PeerError):
        frames.read(bytes(mutated))


@settings(max_examples=300)
@given(FRAMES, st.data())
def test_a_field_of_another_type_is_a_peer_error_or_a_frame(frame: frames.Frame, data: st.DataObject) -> None:
    value = cbor.read(frames.write(frame))
    value[data.draw(st.sampled_from(sorted(value)))] = data.draw(ODD)
    try:
        again = frames.read(cbor2.dumps(value))
    except PeerError:
        return
    assert frames.read(frames.write(again)) == again


@given(st.sampled_from(VECTORS), st.data())
def test_a_missing_field_is_a_peer_error(vector: bytes, data: st.DataObject) -> None:
    value = cbor.read(vector)
    del value[data.draw(st.sampled_from(sorted(value.keys() - frames.MISSING.get(value["kind"], {}).keys())))]
    with pytest.raises(PeerError):
        frames.read(cbor2.dumps(value))


def test_the_edges_of_numbers_and_texts() -> None:
    for number in (0, 2**63 - 1):
        assert frames.read(cbor2.dumps({"kind": "request", "number": number, "what": "a" * 1024})).number == number  # type: ignore[union-attr]
    for bad in ({"number": 2**63, "what": ""}, {"number": -1, "what": ""}, {"number": 0, "what": "a" * 1025}):
        with pytest.raises(PeerError):
            frames.read(cbor2.dumps({"kind": "request", **bad}))


HELLO = {
    "kind": "hello",
    "version": frames.VERSION,
    "pipeline": "p",
    "stage": "c",
    "instance": 1,
    "incarnation": "c1",
    "secret": bytes(16),
    "outlet": "",
    "upstream": "u",
    "inbox": "i",
    "number": 1,
    "queue_messages": 1,
    "suspects_of": "",
    "suspects": [],
}
STATEMENT = {
    "kind": "statement",
    "session": bytes(16),
    **dict.fromkeys(("number", "limit_messages", "limit_bytes", "received", "released", "floor"), 1),
    "ranges": [],
    "returned": [],
    "finished": [],
    "rate": 0.0,
    **dict.fromkeys(("reply", "leaving", "seen_stopped"), False),
}


@pytest.mark.parametrize(
    ("field", "most", "over"),
    [
        ("incarnation", "ü" * frames.MAX_NAME_CHARACTERS, "ü" * (frames.MAX_NAME_CHARACTERS + 1)),
        ("incarnation", "a", ""),
        ("secret", bytes(16), bytes(15)),
        ("secret", bytes(16), bytes(17)),
        ("queue_messages", frames.MAX_QUEUE_MESSAGES, frames.MAX_QUEUE_MESSAGES + 1),
        ("queue_messages", 0, -1),
    ],
)
def test_the_edges_of_a_hello(field: str, most: Any, over: Any) -> None:
    frames.read(cbor2.dumps({**HELLO, field: most}))
    with pytest.raises(PeerError, match=field):
        frames.read(cbor2.dumps({**HELLO, field: over}))


@pytest.mark.parametrize(("bytes_", "good"), [(0, False), (15, False), (16, True), (17, False)])
def test_a_session_has_a_name_of_16_bytes(bytes_: int, good: bool) -> None:
    encoded = cbor2.dumps({**STATEMENT, "session": bytes(bytes_)})
    if good:
        frames.read(encoded)
    else:
        with pytest.raises(PeerError, match="session"):
            frames.read(encoded)
    refuse = cbor2.dumps({"kind": "refuse", "session": bytes(bytes_), "reason": "", "number": 1})
    if good or bytes_ == 0:  # a refused hello has no session
        frames.read(refuse)
    else:
        with pytest.raises(PeerError, match="session"):
            frames.read(refuse)


@pytest.mark.parametrize("rate", [2**63 - 1, 2.0**62, 5e-324])
def test_a_rate_is_a_number_that_can_be_reckoned_with(rate: float) -> None:
    """Snapshots repeat it, and with infinity in one a monitor passes over the whole of it."""
    frame = frames.read(cbor2.dumps({**STATEMENT, "rate": rate}))
    assert isinstance(frame, frames.Statement) and frame.rate == rate
    for bad in (2**63, 2.0**63, 10**400, float("inf"), float("nan"), -1.0):
        with pytest.raises(PeerError, match="rate"):
            frames.read(cbor2.dumps({**STATEMENT, "rate": bad}))


@pytest.mark.parametrize(("field", "length"), [("ranges", 2), ("returned", 3), ("finished", 3)])
def test_rows_of_a_statement_have_their_length_and_are_limited(field: str, length: int) -> None:
    for rows in ([[1] * length], [[1] * length] * frames.MAX_ROWS):
        frames.read(cbor2.dumps({**STATEMENT, field: rows}))
    for rows in (
        [[1] * (length - 1)],
        [[1] * (length + 1)],
        [[1] * length, []],
        [[True] * length],
        [[1] * length] * (frames.MAX_ROWS + 1),
    ):
        with pytest.raises(PeerError, match=field):
            frames.read(cbor2.dumps({**STATEMENT, field: rows}))


@pytest.mark.parametrize("state", ["", "running", "ASLEEP", "STOPPED "])
def test_a_state_is_one_of_the_lifecycle(state: str) -> None:
    with pytest.raises(PeerError, match="state"):
        frames.read(cbor2.dumps({"kind": "done", "number": 1, "state": state}))


@pytest.mark.parametrize("rows", [[[1] * 5] * frames.MAX_ROWS, [[1] * 5] * (frames.MAX_ROWS + 1)], ids=["N", "N+1"])
def test_the_number_of_sections_is_limited(rows: list[list[int]]) -> None:
    encoded = cbor2.dumps({"kind": "parcel", "session": bytes(16), "sequence": 1, "sections": rows})
    if len(rows) == frames.MAX_ROWS:
        frames.read(encoded)
    else:
        with pytest.raises(PeerError):
            frames.read(encoded)


@pytest.mark.parametrize(
    "value",
    [{"kind": 10**6000}, *({"kind": "request", "number": n, "what": ""} for n in (10**6000, [10**6000]))],
    ids=["kind", "field", "inside"],
)
def test_a_huge_number_is_a_peer_error(value: Any) -> None:
    with pytest.raises(PeerError):
        frames.read(cbor2.dumps(value))


def test_what_an_error_says_is_short() -> None:
    with pytest.raises(PeerError) as caught:
        frames.read(cbor2.dumps({"kind": "request", "number": ["x" * 1000] * 1000, "what": ""}))
    assert len(str(caught.value)) <= 200


@pytest.mark.parametrize("message", [b"\x01", b"\x01announcement", b"\x01snap", b"\x01tap", b"\x00x", b"\x00"])
def test_a_subscription_to_a_topic_or_its_beginning(message: bytes) -> None:
    frames.check_subscription(message)


@pytest.mark.parametrize("message", [b"", b"\x01announcements", b"\x01x", b"\x02tap", b"tap"])
def test_anything_else_from_a_subscriber_is_a_peer_error(message: bytes) -> None:
    with pytest.raises(PeerError):
        frames.check_subscription(message)


def test_a_frame_of_too_many_values_is_a_peer_error_that_costs_no_decoding() -> None:
    def frame(extra: int) -> bytes:
        return cbor.write({"kind": "request", "number": 1, "what": "drain", "later": [0] * extra})

    assert frames.read(frame(frames.MAX_FRAME_VALUES - 9)) == frames.Request(1, "drain")
    with pytest.raises(PeerError, match="more than 65536 values"):
        frames.read(frame(frames.MAX_FRAME_VALUES - 8))
