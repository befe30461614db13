"""What a link through a stream makes of what others write into its bucket."""

from __future__ import annotations

import pytest

from zpipe.core.jetstream import parcel
from zpipe.core.jetstream.events import Arrived, Connected, Heard
from zpipe.core.jetstream.producers import Producers
from zpipe.core.jetstream.stream_input import StreamInput
from zpipe.core.wire import section
from zpipe.core.wire.section import Section

ROW = "suspect.a.=.b."


def suspicions(key: str, value: bytes) -> list[int]:
    """Of the four messages of a parcel that comes again, after that entry of the bucket."""
    made = StreamInput("nats", ("p", "a", "", "b"), Producers("a", "", "b", "", ()), 100, 1, 2.0, 1 << 20, 1.0)
    body = section.encode(["w", "x", "y", "z"], [0.0] * 4, [0] * 4, None)
    parcels = parcel.join([Section(body, 4, 0, 1)])
    for event in (Connected(1, "s", "2.11.0"), Heard(key, value, True), Arrived("$JS.ACK.1", 1, 2, parcels)):
        assert not any(made.heard(event, 1.0)) or isinstance(event, Connected)
    (arrival,) = made.arrived()
    return [one.suspicion for one in arrival.sections for _ in range(one.count)]


def test_a_message_that_has_ended_processes_is_known_by_the_bucket() -> None:
    assert suspicions(f"{ROW}{parcel.MOST_MESSAGES + 2}", b"2") == [1, 1, 2, 1]


@pytest.mark.parametrize(
    "value", [b"", b"null", b"[]", b"{}", b"Infinity", b"1e400", b"-3", b"true", b"\xff", b"[" * 100_000, b"9" * 9999]
)
def test_an_entry_that_is_no_number_changes_nothing(value: bytes) -> None:
    assert suspicions(f"{ROW}{parcel.MOST_MESSAGES + 2}", value) == [1, 1, 1, 1]


@pytest.mark.parametrize("number", ["", "x", "-1", "9" * 9999])
def test_an_entry_of_no_message_changes_nothing(number: str) -> None:
    assert suspicions(f"{ROW}{number}", b"2") == [1, 1, 1, 1]
