"""The history file: one line of JSON a run, appended, to see how figures moved. Does not belong here: all samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DEFAULT = Path(__file__).with_name("history.ndjson")
"""Not in git: figures of different machines do not compare. `make clean` leaves it."""


def line(run: dict[str, Any]) -> str:
    """What is kept of a run's JSON document: the run, and of each figure the medians."""

    def median(spread: dict[str, float] | None) -> float | None:
        return None if spread is None else spread["median"]

    figures = [
        {"name": f["name"], "what": f["what"], "met": f["met"]}
        | {key: median(f[key]) for key in ("zpipe", "reference", "ratio")}
        for f in run["figures"]
    ]
    head = {key: run[key] for key in ("at", "commit", "machine", "versions", "quick", "rounds")}
    return json.dumps({**head, "figures": figures})


def append(path: Path, run: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line(run) + "\n")
