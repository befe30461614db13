"""The tap: copies of sections that pass through an instance, for whoever has asked, within a budget.

May live here: whether anybody taps it, what may be shown a second, and the frames that show it. It decodes no section:
copies go out as they came, so what a tap costs is bounded by the policy, not by what it looks for. It holds nothing back and
changes nothing.

No tap says that it leaves: a request holds for `lease_s`, and a tap that is alive repeats it every heartbeat.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from zpipe.core.actions import Action, Publish, SendParcel
from zpipe.core.downstream.outlet_sessions import OutletSessions
from zpipe.core.policy import TapPolicy
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.wire import frames
from zpipe.core.wire.cbor import Encoded

ASLEEP = float("-inf")


class Bucket:
    """`rate` tokens a second; at most those of one second are saved up, or one. `take` may overdraw: what is large passes
    too, and the others wait for it later."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.tokens = max(rate, 1.0)
        self._now = now

    def refill(self, now: float) -> None:
        self.tokens = min(max(self.rate, 1.0), self.tokens + self.rate * max(0.0, now - self._now))
        self._now = max(now, self._now)

    def change(self, rate: float) -> None:
        self.rate = rate

    def take(self, tokens: float) -> None:
        self.tokens -= tokens


class Passage:
    """How many messages have passed on one link since the first tap began, and how much more may be shown of it now."""

    def __init__(self, sections: float, bytes_: float, now: float) -> None:
        self.messages = 0
        self.sections = Bucket(sections, now)
        self.bytes = Bucket(bytes_, now)

    def admits(self, size: int) -> bool:
        """Takes a section of so many bytes if the budget has room for it."""
        if self.sections.tokens < 1 or self.bytes.tokens <= 0:
            return False
        self.sections.take(1)
        self.bytes.take(size)
        return True


class TapPublisher:
    """Shows what passes through one instance. Each link has the whole budget, so that a busy one does not hide a quiet one.

    until  when the last request runs out: what passes before that is shown
    """

    def __init__(self, me: Identity, policy: TapPolicy) -> None:
        self._me = me
        self._policy = policy
        self.until = ASLEEP
        self._sections = 0
        self._passages: dict[tuple[str, str, str], Passage] = {}

    def ask(self, sections: int, now: float) -> None:
        """Somebody wants to see up to so many sections a second of each link, for the lease.

        Of several taps the one that wants most decides; when it is gone, the next request of another does.
        """
        sections = max(1, min(sections, self._policy.sections))
        if now >= self.until:
            self._passages = {}
        elif sections < self._sections:
            return
        self._sections = sections
        self.until = now + self._policy.lease_s

    def entered(self, inlet: Inlet, frame: frames.Frame, body: Encoded, now: float) -> list[Action]:
        """A parcel that the inlet has taken. To be called before `until` only."""
        if not isinstance(frame, frames.Parcel):
            return []
        upstream = inlet.owner(frame.session)
        if upstream is None:
            return []
        return self._show((upstream.stage, upstream.outlet, self._me.stage), upstream.instance, frame, body, now)

    def left(self, sessions: OutletSessions, sent: Iterable[Action], now: float) -> list[Action]:
        """What was just sent in these sessions. To be called before `until` only."""
        shown: list[Action] = []
        for action in sent:
            hello = sessions.hello_of(action.session) if isinstance(action, SendParcel) else None
            if hello is None:
                continue
            assert isinstance(action, SendParcel)
            frame = frames.read(action.header)
            if isinstance(frame, frames.Parcel):
                link = self._me.stage, hello.outlet, hello.stage
                shown += self._show(link, hello.instance, frame, action.body, now)
        return shown

    def _show(
        self, link: tuple[str, str, str], peer: int, parcel: frames.Parcel, body: Encoded, now: float
    ) -> list[Action]:
        passage = self._passages.get(link)
        if passage is None:
            passage = self._passages[link] = Passage(self._sections, self._policy.bytes, now)
        passage.sections.change(self._sections)
        passage.sections.refill(now)
        passage.bytes.refill(now)
        shown: list[Action] = []
        at = 0
        for row in parcel.rows():
            passage.messages += row.messages
            whole = row.size <= self._policy.section_bytes
            if passage.admits(row.size if whole else 0):
                copy = bytes(body[at : at + row.size]) if whole else b""
                me = self._me
                frame = frames.Tap(
                    *(me.pipeline, me.stage, me.instance, *link, peer, passage.messages),
                    *(row.messages, row.attempt, row.size, copy),
                )
                shown.append(Publish(frames.TAP_TOPIC, frames.write(frame)))
            at += row.size
        return shown


def rate_asked_for(what: str) -> int | None:
    """The sections a second (of each link) that a request `tap:N` asks for; None for any other request."""
    found = re.fullmatch("tap:([0-9]{1,9})", what)
    return int(found[1]) if found is not None else None
