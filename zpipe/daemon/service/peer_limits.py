"""What a neighbour with a key may cost before its connection is ended: frames that break the protocol, that no session is open
for, or that nobody in session has sent.

Whoever keeps to the protocol makes some of these: a hello a second that is refused, parcels that were on their way when their
session ended. Must not live here: ending a connection, and what a frame means.
"""

from __future__ import annotations

from dataclasses import dataclass

BURST, PER_S = 2000.0, 100.0
"""Of one connection. A parcel of one message fills the smallest window, so of a session that has ended as many may come as the
default `queue` has messages."""
BURST_OF_HOST, PER_S_OF_HOST = 10_000.0, 500.0
"""Of all connections from one host: who is hung up on and comes again has no new burst each time."""
MALFORMED = 100.0
"""What a frame costs that breaks the protocol: twenty of them are no accident."""
PLAIN = 1.0
LEFT_S = 1.0
"""For so long frames of a connection that was ended may wait to be read. A frame of another one, which has got its descriptor, is
lost with them, and repeated."""
MOST_CONNECTIONS = 4096
"""That are remembered."""


@dataclass(slots=True)
class _Allowance:
    left: float
    at: float

    def spend(self, cost: float, now: float, burst: float, per_s: float) -> bool:
        """Whether it was there to be spent."""
        self.left = min(burst, self.left + (now - self.at) * per_s) - cost
        self.at = now
        if self.left < 0.0:
            self.left = 0.0
            return False
        return True


class PeerLimits:
    """Used by the loop's thread. A connection is known by its number (a descriptor, which the next connection may get), a host by
    the name that its key has shown.

    ended  connections that were ended lately, and for how long they are looked for: without any, nobody need be looked up
    """

    def __init__(self) -> None:
        self._connections: dict[int, _Allowance] = {}
        self._hosts: dict[str, _Allowance] = {}
        self.ended: dict[int, float] = {}

    def is_ended(self, connection: int, now: float) -> bool:
        """What still comes by this connection was sent before its end, and is not to be looked at."""
        self.ended = {one: until for one, until in self.ended.items() if until > now}
        return connection in self.ended

    def charge(self, connection: int, host: str, cost: float, now: float) -> bool:
        """Takes it in. False: that was too much, the connection has to end."""
        mine = self._connections.setdefault(connection, _Allowance(BURST, now))
        hosts = self._hosts.setdefault(host, _Allowance(BURST_OF_HOST, now))
        if len(self._connections) > MOST_CONNECTIONS:
            del self._connections[next(iter(self._connections))]
        within = mine.spend(cost, now, BURST, PER_S)
        if hosts.spend(cost, now, BURST_OF_HOST, PER_S_OF_HOST) and within:
            return True
        self._connections.pop(connection, None)
        self.ended[connection] = now + LEFT_S
        return False
