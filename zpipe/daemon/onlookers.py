"""Who looks on at a run: what shows it, and what adds it up. May live here: the protocols that a supervisor calls them by."""

from __future__ import annotations

from typing import Any, Protocol


class Display(Protocol):
    """What shows a run to people. Called on the supervisor's thread."""

    def line(self, text: str) -> None: ...
    def snapshot(self, snapshot: dict[str, Any]) -> None: ...
    def draining(self) -> None: ...
    def turn(self) -> None: ...


class Ledger(Protocol):
    """What adds up the counts of a run."""

    restarts: dict[str, int]

    def final(self, snapshot: dict[str, Any]) -> None: ...
    def killed(self, snapshot: dict[str, Any]) -> None: ...
