"""Sharing an inlet's bound among its sessions and links, in messages and in bytes together.

May live here: whose needs come first, and whose credit is looked at when. How one unit is shared is `credit`'s; what is held is
the inlet's.

To look at every session at every parcel would make a parcel of one of 64 producers 64 times as dear. So what the grants take
up of the bound is kept added up, and a session in which something happened is given its share of what is free. Only if a
share has changed much, or somebody cannot go on, all sessions are looked at together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeVar

from zpipe.core.policy import Bound
from zpipe.core.upstream import credit
from zpipe.core.upstream.credit import Credited, Grant

AnyCredited = TypeVar("AnyCredited", bound=Credited)


class CreditSharing:
    """`bound`: of all that is held here or may come by credit.

    taken_messages, taken_bytes  held for sessions that are over
    """

    def __init__(self, bound: Bound) -> None:
        self.taken_messages = 0
        self.taken_bytes = 0
        self._bound = bound
        self._favourite: Credited | None = None
        self._messages = 0
        self._bytes = 0
        self._fair = 0
        self._even = (0, 0, 0)
        self._shared_by = (0, 0, 0, 0)
        self._shares = (0, 0)

    def share(self, sessions: Collection[Credited], window: int) -> bool:
        """Raises and lowers the limits of all sessions. True: one was lowered."""
        one = self._choose_favourite(sessions)
        messages, bytes_ = [s.messages for s in sessions], [s.bytes for s in sessions]
        first, second = (one.messages, one.bytes) if one is not None else (None, None)
        bound = self._bound
        lowered = credit.share(messages, bound.messages, window, self.taken_messages, first)
        lowered = credit.share(bytes_, bound.bytes, bound.bytes, self.taken_bytes, second) or lowered
        self._messages, self._bytes = sum(map(_count, messages)), sum(map(_count, bytes_))
        self._fair, _ = self._fair_shares(len(sessions), window)
        self._even = (len(sessions), window, self.taken_messages)
        return lowered

    def weigh(self, sessions: Collection[AnyCredited], window: int) -> list[AnyCredited]:
        """Shares messages by how many each has sent since the last call (`credit.weigh`), and takes back what exceeds a share
        that shrank. Returns the sessions that lost room. Bytes are shared equally: a message that needs more has to ask."""
        grants = [session.messages for session in sessions]
        credit.weigh(grants, window)
        fair, _ = self._fair_shares(len(sessions), window)
        return [
            session
            for session, grant in zip(sessions, grants, strict=True)
            if grant.weight < 1 and grant.lower_to(grant.released + grant.share_of(fair))
        ]

    def uneven(self, sessions: int, window: int) -> bool:
        """An equal share for so many sessions is not within a factor of two of what it was when all were last looked at."""
        shared_by = sessions, window, self.taken_messages
        if shared_by == self._even:
            return False
        fair = credit.fair_share(sessions, self._bound.messages, window, self.taken_messages)
        if self._fair / 2 < fair < self._fair * 2:
            self._even = shared_by
            return False
        return True

    def top_up(self, touched: Iterable[Credited], sessions: int, window: int) -> None:
        """Gives the `touched` ones, of so many sessions in all, their share of what is free. Must not be called while somebody
        needs more than that."""
        bound, (fair_messages, fair_bytes) = self._bound, self._fair_shares(sessions, window)
        for session in touched:
            self._recount(session)
        for session in touched:
            credit.top_up(session.messages, fair_messages, bound.messages - self.taken_messages - self._messages)
            credit.top_up(session.bytes, fair_bytes, bound.bytes - self.taken_bytes - self._bytes)
            self._recount(session)

    def short(self, touched: Iterable[AnyCredited], sessions: int, window: int) -> list[AnyCredited]:
        """Those of the `touched` that have not got their whole share: they are to be looked at again when more is free."""
        messages, bytes_ = self._fair_shares(sessions, window)
        return [s for s in touched if s.messages.granted < s.messages.share_of(messages) or s.bytes.granted < bytes_]

    def forget(self, session: Credited) -> None:
        """The session is over: what it still holds is `taken` from now on."""
        self._messages -= session.messages.counted
        self._bytes -= session.bytes.counted
        self.taken_messages += session.messages.held
        self.taken_bytes += session.bytes.held

    def give_back(self, messages: int, bytes_: int) -> None:
        """So much of what was `taken` has been released."""
        self.taken_messages -= messages
        self.taken_bytes -= bytes_

    def _recount(self, session: Credited) -> None:
        self._messages += _count(session.messages, session.messages.counted)
        self._bytes += _count(session.bytes, session.bytes.counted)

    def _fair_shares(self, sessions: int, window: int) -> tuple[int, int]:
        """Messages and bytes for each of so many. Asked for with each statement, and seldom another than before."""
        shared_by = sessions, window, self.taken_messages, self.taken_bytes
        if shared_by != self._shared_by:
            bound, self._shared_by = self._bound, shared_by
            self._shares = (
                credit.fair_share(sessions, bound.messages, window, self.taken_messages),
                credit.fair_share(sessions, bound.bytes, bound.bytes, self.taken_bytes),
            )
        return self._shares

    def _choose_favourite(self, sessions: Collection[Credited]) -> Credited | None:
        """The one whose needs are met next, in both units: with a favourite for each unit, two producers that each have what the
        other lacks would wait for ever."""
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


def _count(grant: Grant, before: int = 0) -> int:
    """What the grant takes up of the bound more than `before`."""
    grant.counted = grant.committed
    return grant.counted - before
