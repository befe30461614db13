"""Whether a stage that runs takes no work, in one word for every view. Must not live here: how a view shows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

Halt = Literal["held", "paused"]


def halt_of_instance(snapshot: Mapping[str, Any]) -> Halt | None:
    """None if the instance may take work. A fault comes before an order: an operator who has paused a stage knows that, and the
    fault would show only after the resume."""
    if snapshot.get("held_by") or snapshot.get("stopped_by"):
        return "held"
    return "paused" if snapshot.get("paused") else None


def halt_of_stage(live: Collection[Mapping[str, Any]]) -> Halt | None:
    """The same of the instances of a stage that are heard. None if one of them may take work."""
    halts = [halt_of_instance(one) for one in live]
    if not halts or None in halts:
        return None
    return "held" if "held" in halts else "paused"
