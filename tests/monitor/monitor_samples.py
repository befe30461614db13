"""Configs and snapshots as values, for what needs no process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zpipe.config import Input, PipelineConfig, StageConfig, Workers
from zpipe.core.ledger import COUNTS
from zpipe.core.policy import MIB, Bound, DeadPolicy, LinkPolicy, RetryPolicy
from zpipe.core.telemetry.snapshot import LINK_COUNTS

UNSENT_BOUND = LinkPolicy().unsent_messages


def config(stages: dict[str, list[str]], instances: dict[str, int] | None = None) -> PipelineConfig:
    """Stage names with their inputs ("stage" or "stage.outlet")."""
    made = {}
    for name, inputs in stages.items():
        parts = [one.partition(".") for one in inputs]
        made[name] = StageConfig(
            name=name,
            plugin="python" if inputs else "generate",
            inputs=tuple(Input(stage, outlet) for stage, _, outlet in parts),
            options=None,
            instances=(instances or {}).get(name, 1),
            workers=Workers(),
            queue=Bound(1000, 64 * MIB),
            unacked=Bound(20_000, 128 * MIB),
            retry=RetryPolicy(),
            dead=DeadPolicy(),
            batch=None,
            limit=None,
            listen=(),
        )
    return PipelineConfig("p", Path("p.toml"), made, interval_s=1.0, peer_timeout_s=5.0, insecure=False)


CHAIN = {"read": [], "map": ["read"], "sink": ["map"]}


def link(to: str, produced: int = 0, in_flight: int = 0, unsent: int = 0, **more: Any) -> dict[str, Any]:
    acked = produced - in_flight - unsent
    row = {"outlet": "", "to": to, "produced": produced, "acked": acked, "in_flight": in_flight, "unsent": unsent}
    return row | {"in_flight_bytes": 0, "unsent_bytes": 0, "oldest_s": 0.0, "redelivered": 0, "consumers": []} | more


def consumer(instance: int = 1, credit: int = 0, under_way: int = 0) -> dict[str, Any]:
    return {"instance": instance, "incarnation": "x", "credit": credit, "under_way": under_way, "rate": 1.0}


def budget(**shares: float) -> dict[str, float]:
    filled = dict.fromkeys(("waiting", "working", "blocked", "limited", "retrying"), 0.0) | shares
    return filled | {"waiting": 1.0 - sum(shares.values())}


def snapshot(stage: str, links: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    """One that adds up: `completed` is what is left of `received`, unless it is given."""
    counts = dict.fromkeys(("received", "filtered", "dead", "returned", "in_process", "queued"), 0)
    counts |= {key: more.pop(key) for key in list(more) if key in counts}
    rest = counts["received"] - sum(value for key, value in counts.items() if key != "received")
    made: dict[str, Any] = {"pipeline": "p", "stage": stage, "instance": 1, "incarnation": "i1", "state": "RUNNING"}
    made |= {"at": 100.0, "rss_bytes": 32 * MIB, "completed": rest, "duplicates": 0, "retries": 0, "malformed": 0}
    made |= {
        "dead_stored": counts["dead"],
        "queued_bytes": 10 * counts["queued"],
        "oldest_s": 0.0,
        "rate_in": 0.0,
        "rate_out": 0.0,
    }
    made |= {"budget": budget(), "finished": None, "waiting_for": [], "links": links or []}
    return made | counts | more


REQUIRED = ("pipeline", "stage", "instance", "incarnation", "state", *COUNTS)
REQUIRED_OF_LINKS = ("outlet", "to", *LINK_COUNTS)


def only_required(full: dict[str, Any]) -> dict[str, Any]:
    """What PROTOCOL.md 5.9 requires of a snapshot, and nothing else: what a stage in another language may say."""
    links = [{key: row[key] for key in REQUIRED_OF_LINKS} for row in full["links"]]
    return {key: full[key] for key in REQUIRED} | {"links": links}
