"""One upstream instance on one link, as a consumer knows it: found, heard, in session, ended, gone.

May live here: what is known of that neighbour and when to say hello again. It knows no parcel.
"""

from __future__ import annotations

from zpipe.core.lifecycle import State
from zpipe.core.ranges import RangeSet
from zpipe.core.upstream.inlet_session import InletSession
from zpipe.core.wire import frames


class Upstream:
    """`key` is (stage, outlet, instance).

    awaits_acks  it can send nothing more until something of what it sent is acked
    accepted  numbers of its messages that were accepted here and may be sent again, in the sequence that `numbers` names
    stopped   it has said that it is STOPPED: nothing is owed to or by it
    marked    a mark on disk says that it has stopped: frames of it that are read later do not bring it back
    """

    def __init__(self, stage: str, outlet: str, instance: int) -> None:
        self.stage = stage
        self.outlet = outlet
        self.instance = instance
        self.connected = False
        self.known = False
        self.session: InletSession | None = None
        self.accepted = RangeSet()
        self.numbers = ""
        self.state = State.STARTING
        self.incarnation = ""
        self.awaits_acks = False
        self.stopped = False
        self.marked = False
        self.left = False
        self.heard_at = 0.0
        self.hello_number = 0
        self.hello_at: float | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        return self.stage, self.outlet, self.instance

    @property
    def peer(self) -> tuple[str, int]:
        return self.stage, self.instance

    @property
    def name(self) -> str:
        return f"{self.stage}.{self.instance}"

    @property
    def flushed(self) -> bool:
        """Its stream has ended, as far as it knows now."""
        return (self.stopped and not self.left) or (self.session is not None and self.session.ended)

    @property
    def said(self) -> tuple[bool, bool, bool]:
        """What of its announcements decides whether the input has ended."""
        return self.known, self.stopped, self.left

    def begin(self, session: InletSession) -> None:
        """A session was opened; a new incarnation's messages have numbers of their own, unless it says otherwise."""
        if session.producer.incarnation != self.incarnation:
            self.begin_incarnation(session.producer.incarnation)
        if session.producer.sequence != self.numbers:
            self.numbers = session.producer.sequence
            self.accepted = RangeSet()
        self.session = session
        self.known = True
        self.stopped = self.marked
        self.left = False

    def begin_incarnation(self, incarnation: str) -> None:
        """Another incarnation of the instance was heard of."""
        self.incarnation = incarnation
        self.stopped = self.marked
        self.left = self.awaits_acks = False
        self.state = State.STARTING

    def hear(self, announcement: frames.Announcement, now: float) -> bool:
        """Takes over what it announces. True if it was another incarnation: the session with the old one is over."""
        self.heard_at = now
        changed = announcement.incarnation != self.incarnation
        if changed:
            self.begin_incarnation(announcement.incarnation)
        self.state = State(announcement.state)
        self.awaits_acks = announcement.hungry
        self.known = True
        if self.state is State.STOPPED:
            self.stopped = True
            self.left = not announcement.ended and not self.marked
        return changed
