"""Who looks on at a run: what shows it, and what adds it up. May live here: the protocols that a supervisor calls them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class RunDisplay(Protocol):
    """What shows a run to people. Called on the supervisor's thread."""

    def line(self, text: str) -> None: ...
    def snapshot(self, snapshot: dict[str, Any]) -> None: ...
    def draining(self, absent: Mapping[str, str]) -> None:
        """The run drains; `absent`: instances that are waited for and not there now, with why. Called again and again."""

    def turn(self) -> None: ...


class RunLedger(Protocol):
    """What adds up the counts of a run."""

    restarts: dict[str, int]

    def final(self, snapshot: dict[str, Any]) -> None: ...
    def killed(self, snapshot: dict[str, Any]) -> None:
        """The last snapshot heard of an incarnation that has gone. One that is STOPPED had ended in order."""
