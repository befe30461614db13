"""Credit: how far each producer may send, so that what is held never passes the bound.

May live here: grants in one unit (messages, or bytes) and sharing a bound among them. It knows no frame and no message.

Limits are absolute and cumulative like QUIC's MAX_DATA (RFC 9000 §4): a lost statement is made good by the next one. Unlike
there, a limit may be lowered, since a producer that does not use its grant must give way to one that joins. The producer
may have sent up to the old limit before it reads the lower one, so what was granted counts until the producer has confirmed.
"""

from __future__ import annotations

from collections.abc import Sequence


class Grant:
    """What one producer may send, in one unit. All counts are cumulative over the session.

    received  arrived here           released  no longer held here
    limit     may be sent, as last decided; `ceiling` is what may still arrive whatever the producer has read
    need      the least room that lets the producer send its next message
    """

    __slots__ = ("_issued", "ceiling", "limit", "need", "received", "released")

    def __init__(self, need: int) -> None:
        self.received = 0
        self.released = 0
        self.limit = 0
        self.ceiling = 0
        self.need = need
        self._issued: list[tuple[int, int]] = []

    @property
    def held(self) -> int:
        return self.received - self.released

    @property
    def committed(self) -> int:
        """The part of the bound this grant takes up: held, or may still come."""
        return self.ceiling - self.released

    @property
    def room(self) -> int:
        """How much more the producer may send, as last decided."""
        return self.limit - self.received

    @property
    def starving(self) -> bool:
        return self.room < self.need

    def issue(self, number: int) -> None:
        """Statement `number` goes out with the limit as it is now."""
        if self.limit >= self.ceiling:
            self.ceiling = self.limit
            self._issued.clear()
        self._issued.append((number, self.limit))

    def confirm(self, number: int, sent: int) -> None:
        """The producer has read statement `number` and had sent `sent` by then: older, higher limits are void."""
        while len(self._issued) > 1 and self._issued[1][0] <= number:
            self._issued.pop(0)
        if self._issued and self._issued[0][0] <= number:
            self.ceiling = max(self.limit, sent, *(limit for _, limit in self._issued))


def share(grants: Sequence[Grant], bound: int, window: int, taken: int) -> bool:
    """Raises and lowers the limits so that the sum committed, with `taken` by others, stays within `bound`.

    bound   of all that is held and may come
    window  how much is worth having under way in all (at most `bound`): a slow consumer asks for little
    Returns True if a limit was lowered, so that confirms are wanted.

    Every producer gets an equal share of the window. One that cannot send its next message (`starving`) and finds nothing
    free has the unused room above their shares taken back from the others. A need above the whole bound is granted only
    when nothing else is held or may come: then one message exceeds the bound, as the promise allows.
    """
    if not grants:
        return False
    fair = max(1, min(window, bound - taken) // len(grants))
    free = bound - taken - sum(g.committed for g in grants)
    hungry = False
    # who has least comes first, and whoever cannot send at all before everyone else
    for grant in sorted(grants, key=lambda g: (not g.starving, g.committed)):
        want = grant.released + max(fair, grant.need if grant.starving else 0)
        if want <= grant.limit:
            continue
        if want > grant.ceiling:
            alone = grant.held == 0 and taken == 0 and all(g is grant or g.committed == 0 for g in grants)
            extra = want - grant.ceiling if alone else min(want - grant.ceiling, max(free, 0))
            if grant.starving and grant.ceiling + extra - grant.received < grant.need:
                hungry = True
                free = 0  # keep what is free for it: others would take it for ever
                continue
            grant.limit = max(grant.limit, grant.ceiling + extra)
            grant.ceiling = grant.limit
            free -= extra
        else:
            grant.limit = want
    return _take_back(grants, fair) if hungry else False


def _take_back(grants: Sequence[Grant], fair: int) -> bool:
    """Lowers limits to what was received, or to the fair share where nothing needs more than that."""
    crowded = any(g.starving and g.need > fair for g in grants)
    lowered = False
    for grant in grants:
        keep = grant.received if crowded else max(grant.received, grant.released + fair)
        if not grant.starving and keep < grant.limit:
            grant.limit = keep
            lowered = True
    return lowered
