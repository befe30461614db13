"""The snapshot: an instance's counts at one moment, and the identities they must meet.

May live here: the shape of a snapshot and checking one. Monitors, the ledger of a run and tests read it; unknown keys are
to be let by, so that versions can differ.

    received = completed + filtered + dead + returned + in_process + queued       (the stage)
    produced = acked + in_flight + unsent                                         (each link)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from zpipe.core.downstream import Downstream
from zpipe.core.inlet import Inlet
from zpipe.core.inlet_session import InletSession
from zpipe.core.intake import Self
from zpipe.core.ledger import Counts
from zpipe.core.outlet import Outlet

COUNTS = ("received", "completed", "filtered", "dead", "returned", "in_process", "queued")
OTHERS = ("duplicates", "retries", "malformed", "replayed", "unrouted")


def of_link(outlet: Outlet, now: float) -> dict[str, Any]:
    """One link, as its producer sees it. Consumers are listed with the credit they have given."""
    return {
        "outlet": outlet.name,
        "to": outlet.consumer,
        "produced": outlet.produced,
        "acked": outlet.acked,
        "in_flight": outlet.in_flight_messages,
        "in_flight_bytes": outlet.in_flight_bytes,
        "unsent": outlet.unsent_messages,
        "unsent_bytes": outlet.unsent_bytes,
        "oldest_s": outlet.unsent_for_s(now),
        "redelivered": outlet.redelivered,
        "returned": outlet.returned,
        "consumers": [
            {
                "instance": session.hello.instance,
                "incarnation": session.hello.incarnation,
                "credit": max(session.room_messages, 0),
                "sent": session.sent_messages,
                "under_way": session.sent_messages - session.released,
                "in_flight": session.in_flight_messages,
                "unacked_parcels": len(session.flights),
                "rate": session.rate,
            }
            for session in outlet.sessions.values()
        ],
    }


def of_sessions(inlet: Inlet) -> list[dict[str, Any]]:
    """The links into a stage, as it sees them: a row for each producer in session, to be laid beside that one's row of
    `consumers`. sent - received is on the way; unacked is what it holds in parcels that are not finished."""
    queued: Counter[InletSession] = Counter()
    for piece in inlet.queue:
        if piece.delivery.session is not None:
            queued[piece.delivery.session] += piece.count
    return [
        {
            "from": session.upstream.stage,
            "outlet": session.upstream.outlet,
            "instance": session.upstream.instance,
            "incarnation": session.incarnation,
            "received": session.messages.received,
            "queued": queued[session],
            "unacked": session.unacked,
        }
        for session in inlet.sessions
    ]


@dataclass(frozen=True)
class Parts:
    """Where a stage's counts are."""

    me: Self
    state: str
    counts: Counts
    inlet: Inlet
    downstream: Downstream


def of_stage(parts: Parts, oldest_s: float, now: float) -> dict[str, Any]:
    """Everything that is counted; the report adds what is measured (rates, budget, latency), the shell its RSS."""
    me, inlet = parts.me, parts.inlet
    return {
        "pipeline": me.pipeline,
        "stage": me.stage,
        "instance": me.instance,
        "incarnation": me.incarnation,
        "state": parts.state,
        **{name: getattr(parts.counts, name) for name in COUNTS + OTHERS},
        "queued_bytes": inlet.queued_bytes,
        "held": inlet.held_messages,
        "held_bytes": inlet.held_bytes,
        "oldest_s": oldest_s,
        "inputs": [
            {"from": stage, "outlet": outlet, "dead": dead} for (stage, outlet), dead in inlet.dead_by_link.items()
        ],
        "sessions": of_sessions(inlet),
        "links": [of_link(outlet, now) for outlet in parts.downstream.outlets],
    }


def broken(snapshot: dict[str, Any]) -> list[str]:
    """The identities a snapshot breaks, in words; empty when it adds up."""
    problems = []
    received, *parts = (snapshot[name] for name in COUNTS)
    if received != sum(parts):
        terms = " + ".join(f"{name} {snapshot[name]}" for name in COUNTS[1:])
        problems.append(f"received {received} is not {terms}")
    for link in snapshot["links"]:
        if link["produced"] != link["acked"] + link["in_flight"] + link["unsent"]:
            problems.append(
                f"link to {link['to']}: produced {link['produced']} is not"
                f" acked {link['acked']} + in_flight {link['in_flight']} + unsent {link['unsent']}"
            )
    problems += [f"{name} is negative" for name in COUNTS if snapshot[name] < 0]
    return problems


def at_rest(snapshot: dict[str, Any]) -> bool:
    """Nothing queued, in process, in flight or unsent."""
    links = snapshot["links"]
    return not (snapshot["queued"] or snapshot["in_process"] or any(x["in_flight"] or x["unsent"] for x in links))
