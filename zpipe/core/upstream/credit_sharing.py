"""Sharing an inlet's bound among its sessions, in messages and in bytes together.

May live here: whose needs come first. How one unit is shared is `credit`'s; what is held is the inlet's.
"""

from __future__ import annotations

from collections.abc import Sequence

from zpipe.core.policy import Bound
from zpipe.core.upstream import credit
from zpipe.core.upstream.inlet_session import InletSession


class CreditSharing:
    """`bound`: of all that is held here or may come by credit."""

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._favourite: InletSession | None = None

    def share(self, sessions: Sequence[InletSession], window: int, taken_messages: int, taken_bytes: int) -> bool:
        """Raises and lowers the limits of all sessions. `taken` is held for sessions that are over. True: one was lowered."""
        one = self._choose_favourite(sessions)
        messages, bytes_ = [s.messages for s in sessions], [s.bytes for s in sessions]
        first, second = (one.messages, one.bytes) if one is not None else (None, None)
        lowered = credit.share(messages, self._bound.messages, window, taken_messages, first)
        return credit.share(bytes_, self._bound.bytes, self._bound.bytes, taken_bytes, second) or lowered

    def _choose_favourite(self, sessions: Sequence[InletSession]) -> InletSession | None:
        """Whose needs are met next, in both units: two producers that each have what the other lacks would wait for ever."""
        starving = [s for s in sessions if s.messages.starving or s.bytes.starving]
        if self._favourite not in starving:
            self._favourite = min(starving, key=lambda s: s.turn, default=None)
        for session in starving:
            if session is self._favourite:
                session.turn = max(s.turn for s in sessions) + 1
            else:
                session.messages.unpromise()
                session.bytes.unpromise()
        return self._favourite
