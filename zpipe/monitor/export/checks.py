"""Whether a pipeline is as it should be, for cron and the like: thresholds, and what exceeds them in words. Must not live here:
reading snapshots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from zpipe.monitor.formatting import duration, visible
from zpipe.monitor.model.link import buffer_faults
from zpipe.monitor.table.rows import upstream


@dataclass(frozen=True)
class Thresholds:
    """None: not checked. `depths` is by link, as FROM->TO (FROM is STAGE or STAGE.OUTLET), and overrides `depth`.

    dead  dead letters that a stage has stored, since its count begins anew with each start
    """

    depth: int | None = None
    depths: dict[str, int] = field(default_factory=dict)
    age_s: float | None = None
    dead: int | None = None


def link_name(link: dict[str, Any]) -> str:
    return f"{upstream(link)}->{link['to']}"


def wrong(value: dict[str, Any], thresholds: Thresholds) -> list[str]:
    """All that is not as it should be: instances that are absent, silent, failed or held, and exceeded thresholds."""
    found = []
    for name, stage in value["stages"].items():
        found += [f"{name}.{instance} is not heard of" for instance in stage["absent"]]
        found += [f"{name}.{instance} is not heard of yet: allow more --timeout" for instance in stage["unheard"]]
        found += [f"{name}.{instance} is silent" for instance in stage["silent"]]
        found += [f"{name}.{one['instance']} has failed" for one in stage["instances"] if one["state"] == "FAILED"]
        found += [f"{who} takes no more: {why}" for who, why in stage["stopped_by"].items()]
        found += [f"{who} is held up: {why}" for who, why in stage["held_by"].items()]
        found += buffer_faults(stage["instances"])
        found += [f"{who}: {why}" for who, reasons in stage["refusals"].items() for why in dict.fromkeys(reasons)]
        if thresholds.dead is not None and stage["dead_stored"] is None:
            found.append(f"{name} does not say how many dead letters it has stored (--max-dead)")
        elif thresholds.dead is not None and stage["dead_stored"] > thresholds.dead:
            found.append(f"{name} has {stage['dead_stored']} dead letters stored, more than {thresholds.dead}")
    for link in value["links"]:
        most = thresholds.depths.get(link_name(link), thresholds.depth)
        if most is not None and link["depth"] > most:
            found.append(f"{link_name(link)} has depth {link['depth']}, more than {most}")
        if thresholds.age_s is not None and link["oldest_s"] is None:
            found.append(f"{link_name(link)} has messages that wait, and nobody says how long (--max-age)")
        elif thresholds.age_s is not None and link["oldest_s"] > thresholds.age_s:
            old, limit = duration(link["oldest_s"]), duration(thresholds.age_s)
            found.append(f"{link_name(link)} has a message that waits for {old}, longer than {limit}")
    return found


def line(value: dict[str, Any], problems: list[str]) -> str:
    """The one line that a check prints."""
    if problems:
        return visible(f"FAILED {value['pipeline']}: {'; '.join(problems)}")
    deepest = max(value["links"], key=lambda link: link["depth"], default=None)
    parts = [f"{sum(len(stage['instances']) for stage in value['stages'].values())} instances"]
    if deepest is not None:
        ages = [link["oldest_s"] for link in value["links"]]
        oldest = "unknown" if None in ages else duration(max(ages))
        parts += [f"deepest {link_name(deepest)} {deepest['depth']}", f"oldest {oldest}"]
    stored = [stage["dead_stored"] for stage in value["stages"].values()]
    parts.append(f"dead letters stored {'unknown' if None in stored else sum(stored)}")
    return f"OK {value['pipeline']}: {', '.join(parts)}"
