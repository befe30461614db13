"""How many useless frames a neighbour with a key may send before its connection is ended: frames that break the protocol, parcels
of no open session, and frames on the feedback socket by a connection without a session.

A sound neighbour sends some of these, too: a hello a second that is refused, parcels that were on their way when their session
ended. Must not live here: ending a connection, and what a frame means.
"""

from __future__ import annotations

from dataclasses import dataclass

BURST, PER_S = 5000.0, 100.0
"""Useless frames of one connection. After its session has ended, the parcels that were on their way still come: at
worst with one message each, and then as many as the default `queue` holds, which is 4096."""
BURST_OF_HOST, PER_S_OF_HOST = 25_000.0, 500.0
"""Of all connections from one host together: one that was ended gets no new burst by connecting again."""
MALFORMED = 250.0
"""The cost of a frame that breaks the protocol: twenty of them are no accident."""
PLAIN = 1.0
LEFT_S = 1.0
"""Frames of an ended connection may wait so long to be read. If a new connection has got its descriptor, that one's frames are
dropped with them, and are repeated."""
MOST_CONNECTIONS = 4096
"""Connections that are remembered."""


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

    ended  connections that were ended lately, and until when: while there are none, no frame need be looked up
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
        """Charges the connection and its host with the cost of a frame. False: that was too much, the connection has to end."""
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
