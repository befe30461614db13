"""What is on a link, counted from both of its ends as of one moment.

May live here: laying the rows of a link's producers beside those of its consumers. No time but the snapshots' own.

A message on a link is in one of these, and the depth is the first three:

    unsent      waits at its producer for credit
    under_way   was sent, and has not arrived: sent by the producer's count less received by the consumer's; never more than is
                in flight
    queued      waits at its consumer, also in a batch that is not full yet
    unacked     (as the consumer counts) has arrived in a parcel that is not finished: queued, in process, or its outputs are
                not acked yet. So it holds what is queued

`remainder` = in_flight - under_way - unacked: acks on their way back, and what did not change evenly between two snapshots
(`past`). At rest it is 0. LinkEnds are matched by session, so what a killed consumer had queued is not counted beside the copy
that its producer has taken back: of a session that its producer does not know nothing counts, unless the producer is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from zpipe.monitor.model.flow import LinkName
from zpipe.monitor.model.incarnation import SeenIncarnation

LATE_INTERVALS = 1.5
COLUMNS = ("unsent", "under_way", "queued", "in_flight", "unacked", "remainder")


def moment(ends: Iterable[SeenIncarnation], interval_s: float) -> float:
    """Up to when they have spoken, but for those that missed a turn: they may be dead, and are taken as of their last word. 0.0:
    there are none."""
    spoken = [one.past.last.at for one in ends]
    latest = max(spoken, default=0.0)
    return min((at for at in spoken if at >= latest - LATE_INTERVALS * interval_s), default=0.0)


def count(
    name: LinkName, producers: Sequence[SeenIncarnation], consumers: Sequence[SeenIncarnation], at: float
) -> dict[str, int]:
    """The columns of a link as of a moment, in messages, from instances that are heard now."""
    found = dict.fromkeys(COLUMNS, 0)
    by_life = {one.incarnation: one.past.sessions(at) for one in consumers}
    for producer in producers:
        life, row = producer.incarnation, producer.past.link(name, at)
        found["unsent"] += row.get("unsent", 0)
        found["in_flight"] += row.get("in_flight", 0)
        if row and "consumers" not in row:  # it need not list them: then its consumers alone say what has arrived
            origin = name.upstream, name.outlet, life
            theirs = [sessions[origin] for sessions in by_life.values() if origin in sessions]
            queued, unacked = (sum(one.get(key, 0) for one in theirs) for key in ("queued", "unacked"))
            found["queued"] += queued
            found["unacked"] += unacked
            found["under_way"] += max(0, row.get("in_flight", 0) - unacked)
        for session in row.get("consumers", ()):
            mine = by_life.get(str(session.get("incarnation")), {}).get((name.upstream, name.outlet, life))
            if mine is None:  # not arrived yet, or to be sent again
                found["under_way"] += session.get("in_flight", 0)
            else:
                # What was sent since the last word of one that is late has arrived, and was acked, but for what is in flight.
                sent_after = session.get("sent", 0) - mine.get("received", 0)
                found["under_way"] += max(0, min(sent_after, session.get("in_flight", 0) - mine.get("unacked", 0)))
                found["queued"] += mine.get("queued", 0)
                found["unacked"] += mine.get("unacked", 0)
    lives = {one.incarnation for one in producers}
    for sessions in by_life.values():
        for (stage, outlet, life), mine in sessions.items():
            # What another session holds, its producer counts as unsent, or as in flight in the session that it knows.
            if (stage, outlet) == (name.upstream, name.outlet) and life not in lives:
                found["queued"] += mine.get("queued", 0)
                found["unacked"] += mine.get("unacked", 0)
    found["remainder"] = found["in_flight"] - found["under_way"] - found["unacked"]
    return found


def says(consumers: Sequence[SeenIncarnation]) -> bool:
    """Whether all of them list their sessions: programs of other languages need not."""
    return all("sessions" in one.snapshot for one in consumers)


def text(link: dict[str, Any]) -> str:
    """The columns of a link of the model, in words."""
    parts = f"{link['unsent']:,} wait at the sender, {link['under_way']:,} under way, {link['queued']:,} wait at the receiver"
    if link["open_batch"]:
        parts += f" ({link['open_batch']:,} of them in a batch that is not full)"
    return f"{parts}; {link['in_flight']:,} not acked; remainder {link['remainder']:,}"
