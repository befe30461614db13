"""One link: what is on it, counted from both of its ends as of one moment, and how much room its producers have left.

Must not live here: sums over a stage, forecasts, and any clock. The only times here are those in the snapshots.

A message on a link is in one of these states. The depth of the link is the sum of the first three:

    unsent      It waits at its producer for credit.
    under_way   It was sent and has not arrived: what the producer counts as sent, less what the consumer counts as received. This
                is never more than what is in flight. Of a link through a stream: it is in the stream, and no consumer has it.
    queued      It waits at its consumer, possibly in a batch that is not full yet.
    unacked     (counted by the consumer) It arrived in a parcel that is not finished: it is queued or in process, or its outputs
                are not acked yet. So `unacked` includes what is queued.

`remainder` = in_flight - under_way - unacked: acks on their way back, and what did not change evenly between two snapshots. At
rest it is 0.

The two ends are matched by session. What a killed consumer had queued is not counted beside the copy that its producer has taken
back: a session that its producer does not know counts for nothing, unless the producer itself is gone.

The two ends of a link publish at different moments: a busy instance is late, and one whose state changes publishes at once.
Thousands of messages pass meanwhile, so figures of different moments do not add up. Both ends are therefore taken as of the
latest moment up to which both have published. Between two snapshots a figure is assumed to change evenly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from zpipe.core.policy import Bound, LinkPolicy

UNSENT_BOUND = Bound(LinkPolicy().unsent_messages, LinkPolicy().unsent_bytes)
KEPT_INTERVALS = 4.0
"""An end that has not published for three intervals is silent, and is not waited for any more."""
MOST_SNAPSHOTS = 64
"""Kept of one incarnation, however many were asked for."""
LATE_INTERVALS = 1.5
COLUMNS = ("unsent", "under_way", "queued", "in_flight", "unacked", "remainder")
_LINK_KEYS = ("unsent", "in_flight", "unsent_bytes", "in_flight_bytes")
_CONSUMER_KEYS = ("sent", "in_flight")
_SESSION_KEYS = ("received", "queued", "unacked")
_STREAM = "stream"
"""The key in a consumer's row of a link through a stream: how much is in the stream."""

Row = dict[str, Any]
SessionName = tuple[str, str, str]
"""A consumer's name for a session: (upstream stage, outlet, the producer's incarnation)."""


class LinkName(NamedTuple):
    upstream: str
    outlet: str
    consumer: str


# ---- what one incarnation published about its ends of links


class LinkRows(NamedTuple):
    """The rows of one snapshot: `links` as a producer, `sessions` as a consumer."""

    at: float
    links: dict[LinkName, Row]
    sessions: dict[SessionName, Row]


def link_rows(snapshot: dict[str, Any], at: float) -> LinkRows:
    stage, sessions = snapshot["stage"], snapshot.get("sessions", ())
    return LinkRows(
        at,
        {LinkName(stage, str(x.get("outlet", "")), str(x.get("to"))): x for x in snapshot["links"]},
        {(str(x.get("from")), str(x.get("outlet")), str(x.get("incarnation"))): x for x in sessions},
    )


class LinkHistory:
    """What one incarnation published about its links in the last intervals, as of any moment of them.

    replaced_another  The incarnation took the place of another while the monitor was watching, so before its first snapshot it
                      held nothing. Of one that ran before the monitor did, the first snapshot is the best that is known of the
                      time before.
    """

    def __init__(self, replaced_another: bool) -> None:
        self._replaced_another = replaced_another
        self._snapshots: deque[LinkRows] = deque(maxlen=MOST_SNAPSHOTS)

    @property
    def last(self) -> LinkRows:
        return self._snapshots[-1]

    def add(self, rows: LinkRows, interval_s: float) -> None:
        kept = self._snapshots
        while kept and not rows.at - KEPT_INTERVALS * interval_s <= kept[0].at <= rows.at:
            kept.popleft()
        kept.append(rows)

    def link(self, name: LinkName, at: float) -> Row:
        """Its row as a producer of the link, with the `consumers` in session at that moment; empty if it has no such link."""
        before, after, part = self._around(at)
        nearest = (before if part < 0.5 else after).links.get(name)
        if nearest is None:
            return {}
        if part in (0.0, 1.0):
            return nearest
        first, second = before.links.get(name, nearest), after.links.get(name, nearest)
        row = _between(first, second, part, _LINK_KEYS)
        earlier, later = _consumers(first), _consumers(second)
        if "consumers" in nearest:
            row["consumers"] = [
                {"incarnation": incarnation}
                | _between(earlier.get(incarnation, one), later.get(incarnation, one), part, _CONSUMER_KEYS)
                for incarnation, one in _consumers(nearest).items()
            ]
        return row

    def sessions(self, at: float) -> dict[SessionName, Row]:
        """Its rows as a consumer, of all links into it."""
        before, after, part = self._around(at)
        nearest = (before if part < 0.5 else after).sessions
        if part in (0.0, 1.0):
            return nearest
        return {
            name: _between(before.sessions.get(name, row), after.sessions.get(name, row), part, _SESSION_KEYS)
            | ({_STREAM: row[_STREAM]} if _STREAM in row else {})
            for name, row in nearest.items()
        }

    def _around(self, at: float) -> tuple[LinkRows, LinkRows, float]:
        """The snapshots before and after a moment, and how far the moment is from the one to the other, 0 to 1."""
        after = self._snapshots[-1]
        for before in reversed(self._snapshots):
            if before.at <= at:
                part = (at - before.at) / (after.at - before.at) if after.at > before.at else 1.0
                return before, after, min(part, 1.0)
            after = before
        if self._replaced_another:
            after = LinkRows(at, {}, {})
        return after, after, 1.0


def _consumers(link: Row) -> dict[str, Row]:
    """Its rows of consumers, by incarnation."""
    return {str(one.get("incarnation")): one for one in link.get("consumers", ())}


def _between(before: Row, after: Row, part: float, keys: tuple[str, ...]) -> Row:
    return {key: round(before.get(key, 0) + part * (after.get(key, 0) - before.get(key, 0))) for key in keys}


# ---- both ends of a link, side by side

Ends = Sequence[tuple[str, LinkHistory]]
"""The instances at one end that are heard now, each with its incarnation."""


def common_moment(ends: Iterable[LinkHistory], interval_s: float) -> float:
    """The latest moment up to which all of them have published; 0.0 if there are none. An end that missed a turn may be dead: it
    is not waited for, and counts as of its last snapshot."""
    published = [one.last.at for one in ends]
    latest = max(published, default=0.0)
    return min((at for at in published if at >= latest - LATE_INTERVALS * interval_s), default=0.0)


def count_link(name: LinkName, producers: Ends, consumers: Ends, at: float) -> dict[str, int]:
    """The columns of a link as of a moment, in messages."""
    found = dict.fromkeys(COLUMNS, 0)
    sessions_of = {incarnation: one.sessions(at) for incarnation, one in consumers}
    for incarnation, producer in producers:
        row, session_name = producer.link(name, at), (name.upstream, name.outlet, incarnation)
        found["unsent"] += row.get("unsent", 0)
        found["in_flight"] += row.get("in_flight", 0)
        if row and "consumers" not in row:  # It need not list them: then its consumers alone say what has arrived.
            theirs = [sessions[session_name] for sessions in sessions_of.values() if session_name in sessions]
            queued, unacked = (sum(one.get(key, 0) for one in theirs) for key in ("queued", "unacked"))
            found["queued"] += queued
            found["unacked"] += unacked
            found["under_way"] += max(0, row.get("in_flight", 0) - unacked)
        for consumer in row.get("consumers", ()):
            session = sessions_of.get(str(consumer.get("incarnation")), {}).get(session_name)
            if session is None:  # Nothing has arrived yet, or it will be sent again.
                found["under_way"] += consumer.get("in_flight", 0)
            else:
                # What was sent after the last snapshot of a late consumer has arrived and was acked, except what is in flight.
                sent_after = consumer.get("sent", 0) - session.get("received", 0)
                found["under_way"] += max(0, min(sent_after, consumer.get("in_flight", 0) - session.get("unacked", 0)))
                found["queued"] += session.get("queued", 0)
                found["unacked"] += session.get("unacked", 0)
    known = {incarnation for incarnation, _ in producers}
    for sessions in sessions_of.values():
        for (stage, outlet, incarnation), session in sessions.items():
            # What any other session holds, its producer counts as unsent, or as in flight in the session that it knows.
            if (stage, outlet) == (name.upstream, name.outlet) and incarnation not in known:
                found["queued"] += session.get("queued", 0)
                found["unacked"] += session.get("unacked", 0)
    found["remainder"] = found["in_flight"] - found["under_way"] - found["unacked"]
    in_stream = [
        messages
        for sessions in sessions_of.values()
        for (stage, outlet, _), session in sessions.items()
        if (stage, outlet) == (name.upstream, name.outlet) and (messages := _messages_in_stream(session)) is not None
    ]
    if in_stream:  # what consumers have in hand is in the stream until it is acked
        found["under_way"] += max(0, max(in_stream) - found["unacked"])
        found["remainder"] = 0
    return found


def _messages_in_stream(session: Row) -> int | None:
    """How many messages the stream has, as the consumer was told last; None for a link without a stream."""
    stream = session.get(_STREAM)
    messages = stream.get("messages") if isinstance(stream, dict) else None
    return messages if isinstance(messages, int) else None


# ---- how full a link is at one moment, as one of its producers counts it


def fill(link: Row, unacked: Bound) -> float:
    """How much of a producer's bounds the link takes up, 0 to 1, by the bound that is nearest."""
    unsent, unsent_bytes = link.get("unsent", 0), link.get("unsent_bytes", 0)
    held, held_bytes = unsent + link.get("in_flight", 0), unsent_bytes + link.get("in_flight_bytes", 0)
    of_unsent, of_held = unsent_bound(link, unacked), held_bound(link, unacked)
    shares: tuple[float, ...] = (
        unsent / of_unsent.messages,
        unsent_bytes / of_unsent.bytes,
        held / of_held.messages,
        held_bytes / of_held.bytes,
    )
    return max(shares)


def held_bound(link: Row, unacked: Bound) -> Bound:
    """The bound of what a producer holds for the link, sent or not: `unacked`, or that of its disk buffer."""
    buffer = link.get("buffer", {})
    return Bound(
        buffer.get("messages_bound") or unacked.messages,
        buffer.get("bytes_bound") or unacked.bytes,
    )


def unsent_bound(link: Row, unacked: Bound) -> Bound:
    """The bound of what is unsent. A disk buffer has one bound for all that it holds."""
    if "buffer" in link:
        return held_bound(link, unacked)
    return Bound(min(UNSENT_BOUND.messages, unacked.messages), min(UNSENT_BOUND.bytes, unacked.bytes))


def room(link: Row, unacked: Bound) -> int:
    """How many more messages a producer can put on the link before it has to wait."""
    unsent, unsent_bytes = link.get("unsent", 0), link.get("unsent_bytes", 0)
    credit: int = sum(consumer.get("credit", 0) for consumer in link.get("consumers", ()))
    held, held_bytes = unsent + link.get("in_flight", 0), unsent_bytes + link.get("in_flight_bytes", 0)
    size = held_bytes / held if held else 0.0
    most_unsent = messages_within(unsent_bound(link, unacked), size)
    most = messages_within(held_bound(link, unacked), size)
    return max(0, int(min(most_unsent - unsent + credit, most - held)))


def messages_within(bound: Bound, size: float) -> float:
    """How many messages of this size in bytes a bound allows."""
    return min(float(bound.messages), bound.bytes / size) if size else float(bound.messages)


def split(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts in proportion to `weights` (equal parts if all weights are 0). The parts add up to the total."""
    if not sum(weights):
        weights = [1] * len(weights)
    whole, parts, weight_so_far, given = sum(weights), [], 0, 0
    for weight in weights:
        weight_so_far += weight
        parts.append(total * weight_so_far // whole - given)
        given += parts[-1]
    return parts


def buffer_faults(instances: Iterable[Row]) -> Iterator[str]:
    """What a disk has done to the messages in the buffers of these instances, in words."""
    for instance in instances:
        who = f"{instance['stage']}.{instance['instance']}"
        for link in instance["links"]:
            buffer = link.get("buffer", {})
            if lost := buffer.get("lost"):
                yield f"{who}: {lost:,} messages to {link['to']} were damaged on its disk, and are lost"
            if (trouble := buffer.get("trouble")) and trouble not in instance.get("held_by", ""):
                yield f"{who}: {trouble}"
