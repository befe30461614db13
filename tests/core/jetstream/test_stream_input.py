"""What a link through a stream makes of what others write into its bucket, and what it writes there itself."""

from __future__ import annotations

import pytest

from zpipe.core.actions import ToLink
from zpipe.core.jetstream import parcel
from zpipe.core.jetstream.events import AllHeard, Arrived, Connected, Event, Figures, Heard, Lost
from zpipe.core.jetstream.orders import Forget, Write
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


# ---- messages that have ended processes

FIRST = 7 * parcel.MOST_MESSAGES
"""The first message of the parcel with sequence 7."""


def suspecting(*numbers: int) -> StreamInput:
    """A link whose life before ended in calls of these messages."""
    made = StreamInput("nats", ("p", "a", "", "b"), Producers("a", "", "b", "", ()), 100, 1, 2.0, 1 << 20, 1.0)
    made.accuse("p+a++b", [[number, number + 1, True] for number in numbers])
    return made


def after(link: StreamInput, *events: Event) -> dict[str, bytes | None]:
    """What is written into the bucket, and forgotten there (None), after these events and a turn."""
    actions = [action for event in events for action in link.heard(event, 1.0)]
    asked = [action.what for action in (*actions, *link.tell(1.0)) if isinstance(action, ToLink)]
    found: dict[str, bytes | None] = {one.key: one.value for one in asked if isinstance(one, Write)}
    return found | {key: None for one in asked if isinstance(one, Forget) for key in one.keys}


CONNECTED = Connected(1, "s", "2.11.0")


def figures(first: int) -> Figures:
    return Figures(1, first, 0, 0, 0, 0, 0, all_delivered=False)


def test_a_death_is_told_once_the_bucket_was_read_whatever_else_was_heard() -> None:
    link = suspecting(FIRST)
    assert after(link, CONNECTED, figures(7)) == {}
    assert after(link, Heard(f"{ROW}{FIRST}", b"3", live=False)) == {}
    assert after(link, AllHeard()) == {f"{ROW}{FIRST}": b"4"}, "the deaths of others, and one"


def test_a_death_is_told_anew_until_it_is_in_the_bucket() -> None:
    link = suspecting(FIRST)
    assert after(link, CONNECTED, AllHeard()) == {f"{ROW}{FIRST}": b"2"}
    assert after(link) == {}
    assert after(link, Lost("x"), CONNECTED, AllHeard()) == {f"{ROW}{FIRST}": b"2"}
    assert after(link, Heard(f"{ROW}{FIRST}", b"2", live=True)) == {}
    assert after(link, Lost("x"), CONNECTED, AllHeard()) == {}


def test_deaths_that_two_instances_have_seen_are_added() -> None:
    link = suspecting(FIRST)
    assert after(link, CONNECTED, AllHeard()) == {f"{ROW}{FIRST}": b"2"}
    assert after(link, Heard(f"{ROW}{FIRST}", b"2", live=True), Heard(f"{ROW}{FIRST}", b"3", live=True)) == {}
    body = section.encode(["x"], [0.0], [0], None)
    link.heard(Arrived("$JS.ACK.1", 7, 2, parcel.join([Section(body, 1, 0, 1)])), 1.0)
    assert [one.suspicion for arrival in link.arrived() for one in arrival.sections] == [3]


def test_a_message_is_forgotten_once_its_parcel_is_finished() -> None:
    link = suspecting(FIRST, FIRST + 5)
    after(link, CONNECTED, Heard(f"{ROW}{9 * parcel.MOST_MESSAGES}", b"2", live=True), AllHeard())
    assert after(link, figures(7)) == {}
    assert after(link, figures(8)) == {f"{ROW}{FIRST}": None, f"{ROW}{FIRST + 5}": None}
    assert after(link, figures(8)) == {}
    assert after(link, figures(10)) == {f"{ROW}{9 * parcel.MOST_MESSAGES}": None}


def test_a_link_waits_for_its_cluster_after_a_failure_and_not_before_the_first_attempt() -> None:
    link = suspecting()
    assert link.trouble and not link.waits_for_cluster
    link.heard(Lost("nobody listens there"), 1.0)
    assert link.waits_for_cluster
    link.heard(CONNECTED, 1.0)
    assert not link.waits_for_cluster
