"""What is on a link, counted from both of its ends.

May live here: laying the rows of a link's producers beside those of its consumers. No time but the snapshots' own.

A message on a link is in one of these, and the depth is the first three:

    unsent      waits at its producer for credit
    under_way   was sent, and has not arrived: sent by the producer's count less received by the consumer's
    queued      waits at its consumer, also in a batch that is not full yet
    unacked     (as the consumer counts) has arrived in a parcel that is not finished: queued, in process, or its outputs are
                not acked yet. So it holds what is queued

`remainder` = in_flight - under_way - unacked: acks on their way back, and what changed between two ends' snapshots. At rest
it is 0. Ends are matched by session, so what a killed consumer had queued is not counted beside the copy that its producer
has taken back: of an end that the other, later, does not know, nothing counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zpipe.monitor.flow import LinkName
from zpipe.monitor.seen import Seen

COLUMNS = ("unsent", "under_way", "queued", "in_flight", "unacked", "remainder")


def count(name: LinkName, producers: Sequence[Seen], consumers: Sequence[Seen]) -> dict[str, int]:
    """The columns of a link, in messages, from instances that are heard now."""
    found = dict.fromkeys(COLUMNS, 0)
    by_life = {str(one.snapshot["incarnation"]): one for one in consumers}
    known: set[tuple[str, str]] = set()
    for producer in producers:
        life, row = str(producer.snapshot["incarnation"]), producer.link(name)
        found["unsent"] += row.get("unsent", 0)
        found["in_flight"] += row.get("in_flight", 0)
        for session in row.get("consumers", ()):
            other = str(session.get("incarnation"))
            known.add((life, other))
            consumer = by_life.get(other)
            mine = consumer.sessions.get((name.upstream, name.outlet, life)) if consumer else None
            if mine is None:  # not arrived yet, or to be sent again
                found["under_way"] += session.get("in_flight", 0)
            else:
                found["under_way"] += max(0, session.get("sent", 0) - mine.get("received", 0))
                found["queued"] += mine.get("queued", 0)
                found["unacked"] += mine.get("unacked", 0)
    lives = {str(one.snapshot["incarnation"]): one for one in producers}
    for other, consumer in by_life.items():
        for (stage, outlet, life), mine in consumer.sessions.items():
            if (stage, outlet) != (name.upstream, name.outlet) or (life, other) in known:
                continue
            if life not in lives or _taken_at(consumer) > _taken_at(lives[life]):
                found["queued"] += mine.get("queued", 0)
                found["unacked"] += mine.get("unacked", 0)
    found["remainder"] = found["in_flight"] - found["under_way"] - found["unacked"]
    return found


def says(consumers: Sequence[Seen]) -> bool:
    """Whether all of them list their sessions: programs of other languages need not."""
    return all("sessions" in one.snapshot for one in consumers)


def _taken_at(seen: Seen) -> float:
    return float(seen.snapshot.get("at", seen.heard_at))


def text(link: dict[str, Any]) -> str:
    """The columns of a link of the model, in words."""
    parts = f"{link['unsent']:,} wait at the sender, {link['under_way']:,} under way, {link['queued']:,} wait at the receiver"
    if link["open_batch"]:
        parts += f" ({link['open_batch']:,} of them in a batch that is not full)"
    return f"{parts}; {link['in_flight']:,} not acked; remainder {link['remainder']:,}"
