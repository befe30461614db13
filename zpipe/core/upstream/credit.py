"""Credit: how far each producer may send, so that what is held never passes the bound.

May live here: grants in one unit (messages, or bytes) and sharing a bound among them. It knows no frame and no message.

Limits are absolute and cumulative like QUIC's MAX_DATA (RFC 9000 §4): a lost statement is made good by the next one. Unlike
there, a limit may be lowered, since a producer that does not use its grant must give way to one that joins. The producer
may have sent up to the old limit before it reads the lower one, so what was granted counts until the producer has confirmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(slots=True, eq=False)
class Grant:
    """What one producer may send, in one unit. All counts are cumulative over the session.

    received  arrived here           released  no longer held here
    limit     may be sent, as last decided;  ceiling: the highest limit that the producer may still go by
    need      the room without which the producer cannot go on, as it said (0: it has not)
    turn      when it was last favoured: the lower, the longer ago
    counted   what it takes up of the bound, as it was last added up
    fair      its share of the window, when it was last given something
    weight    its share as a multiple of an equal one
    """

    received: int = 0
    released: int = 0
    limit: int = 0
    ceiling: int = 0
    need: int = 0
    turn: int = 0
    counted: int = 0
    fair: int = 0
    weight: float = 1.0
    _last_received: int = 0
    _promised: bool = False
    _stated: int = 0
    _issued: list[tuple[int, int]] = field(default_factory=list)

    @property
    def held(self) -> int:
        return self.received - self.released

    @property
    def committed(self) -> int:
        """The part of the bound this grant takes up: held, or may still come."""
        return self.ceiling - self.released

    @property
    def granted(self) -> int:
        """What its producer may have under way here, as last decided."""
        return self.limit - self.released

    @property
    def room(self) -> int:
        """How much more the producer may send, as last decided."""
        return self.limit - self.received

    @property
    def starving(self) -> bool:
        return self.room < self.need

    @property
    def low(self) -> bool:
        """The producer may soon stand still for want of room that could be stated."""
        left = self._stated - self.received
        return self.limit > self._stated and (left < self.need or 2 * left <= self.room)

    @property
    def pressing(self) -> bool:
        """If it was given its whole share now it might be `low`: half of what was stated is used, or half of the share."""
        room = self.limit - self.received
        twice_left = 2 * (room if self.limit < self._stated else self._stated - self.received)
        return twice_left <= room or twice_left <= self.fair

    @property
    def promised(self) -> bool:
        """It was given what it needs and has not used it yet. If that was taken back, it would only ask again."""
        return self._promised and self.need > 0 and not self.starving

    def receive(self, amount: int) -> None:
        """So much arrived. A need that was stated is met by that, or the producer will state it again."""
        self.received += amount
        self.need = 0
        self._promised = False

    def received_since(self) -> int:
        """So much has arrived since the last call."""
        before, self._last_received = self._last_received, self.received
        return self.received - before

    def share_of(self, fair: int) -> int:
        """The share of this grant, if an equal one is `fair`."""
        return max(1, int(fair * self.weight))

    def lower_to(self, limit: int) -> bool:
        """Takes back what the producer has not used, unless that was promised. True: it was something."""
        limit = max(limit, self.received)
        if self.promised or limit >= self.limit:
            return False
        self.limit = limit
        return True

    def raise_to(self, limit: int) -> None:
        self.limit = limit
        self.ceiling = max(self.ceiling, limit)

    def promise(self, limit: int, turn: int) -> None:
        self.raise_to(limit)
        self.turn = turn
        self._promised = True

    def unpromise(self) -> None:
        self._promised = False

    def issue(self, number: int) -> None:
        """Statement `number` goes out with the limit as it is now."""
        self._stated = self.limit
        if self.limit >= self.ceiling:
            self._issued.clear()
        self._issued.append((number, self.limit))

    def confirm(self, number: int, sent: int) -> None:
        """The producer has read statement `number` and had sent `sent` by then: older, higher limits are void."""
        while len(self._issued) > 1 and self._issued[1][0] <= number:
            self._issued.pop(0)
        if self._issued and self._issued[0][0] <= number:
            reached = min(sent, self.ceiling)
            self.ceiling = max(self.limit, reached, *(limit for _, limit in self._issued))


class Credited(Protocol):
    """A session or a link, which is given room in messages and in bytes. `turn`: when it was last favoured, as in a Grant."""

    messages: Grant
    bytes: Grant
    turn: int


def share(grants: Sequence[Grant], bound: int, window: int, taken: int, favourite: Grant | None = None) -> bool:
    """Raises and lowers the limits so that the sum committed, with `taken` by others, stays within `bound`.

    bound   of all that is held and may come
    window  how much is worth having under way in all (at most `bound`): a slow consumer asks for little
    favourite  the only one that may be favoured (None: whoever has waited longest)
    Returns True if a limit was lowered, so that confirms are wanted.

    Every producer gets its share of the window (`weigh`). Of those that cannot go on (`starving`), one at a time is favoured, in
    turn: if nothing is free for it, room that the others do not use is taken back, and nobody else is given more until it
    has what it needs. A need above the whole bound is met only when nothing else is held or may come: then one message
    exceeds the bound, as the promise allows.
    """
    if not grants:
        return False
    fair = fair_share(len(grants), bound, window, taken)
    starving = [grant for grant in grants if grant.starving and favourite in (None, grant)]
    if starving:
        favourite = min(starving, key=lambda grant: grant.turn)
        others = [grant for grant in grants if grant is not favourite]
        if not _favour(favourite, others, bound, fair, taken):
            return _take_back(others, fair, favourite.need > fair)
    free = bound - taken - sum(grant.committed for grant in grants)
    for grant in sorted(grants, key=lambda grant: grant.committed):
        free -= top_up(grant, fair, free)
    return False


def weigh(grants: Sequence[Grant], window: int) -> None:
    """Shares three quarters of the window by what each has sent since the last call, and the rest equally. With equal shares,
    the parcels of a few busy producers among many idle ones would be as small as if all were sending. If all send all they may,
    what they send is what they were given, so their shares become equal again."""
    used = [grant.received_since() for grant in grants]
    total = sum(used)
    # Where all that came would have fit at once, nobody lacks room.
    for grant, amount in zip(grants, used, strict=True):
        grant.weight = (1 + 3 * len(grants) * amount / total) / 4 if total > window else 1.0


def fair_share(grants: int, bound: int, window: int, taken: int) -> int:
    """An equal share of the window for each of `grants`."""
    return max(1, min(window, bound - taken) // grants)


def top_up(grant: Grant, fair: int, free: int) -> int:
    """Raises one limit to its share, as far as there is free room. Returns how much of that it took."""
    grant.fair = share = grant.share_of(fair)
    want = grant.released + share
    if want <= grant.limit:
        return 0
    extra = min(max(want - grant.ceiling, 0), max(free, 0))
    grant.raise_to(max(grant.limit, min(want, grant.ceiling + extra)))
    return extra


def _favour(favourite: Grant, others: Sequence[Grant], bound: int, fair: int, taken: int) -> bool:
    """Gives it what it needs, if there is room."""
    elsewhere = taken + sum(grant.committed for grant in others)
    most = favourite.released + bound - elsewhere
    want = favourite.released + max(favourite.share_of(fair), favourite.held + favourite.need)
    if elsewhere == 0 and favourite.held == 0:
        most = max(most, want)
    limit = max(favourite.ceiling, min(want, most))
    if limit - favourite.received < favourite.need:
        return False
    favourite.promise(limit, max((grant.turn for grant in others), default=0) + 1)
    return True


def _take_back(grants: Sequence[Grant], fair: int, crowded: bool) -> bool:
    """Lowers limits to the fair share; where that frees nothing, or is not enough, to what was received."""
    fair_limits = [max(grant.received, grant.released + grant.share_of(fair)) for grant in grants]
    crowded |= all(grant.promised or grant.ceiling <= limit for grant, limit in zip(grants, fair_limits, strict=True))
    keeps = [grant.received if crowded else limit for grant, limit in zip(grants, fair_limits, strict=True)]
    return any([grant.lower_to(keep) for grant, keep in zip(grants, keeps, strict=True)])  # noqa: C419 all are lowered
