"""The messages that a tap sees: decoded, chosen, and how one is shown. Must not live here: sockets, the clock and the
terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zpipe.core.telemetry.tap_publisher import Bucket
from zpipe.core.wire import frames, section
from zpipe.errors import PeerError
from zpipe.fixture import as_row, to_json
from zpipe.messages import Message
from zpipe.monitor.formatting import visible
from zpipe.monitor.messages.condition import Condition
from zpipe.monitor.messages.redaction import Redaction

LONGEST_PAYLOAD = 2000
"""Characters of a payload that are shown to people; --json and --save have it whole."""

Link = tuple[str, str, str]
"""(upstream stage, outlet, consumer stage)"""


@dataclass(frozen=True)
class TappedMessage:
    """One message; `at`: when it was seen, seconds since the epoch. `entered`: as the consumer got it."""

    at: float
    stage: str
    instance: int
    link: Link
    peer: int
    message: Message

    @property
    def entered(self) -> bool:
        return self.link[2] == self.stage

    def as_json(self) -> str:
        """One line: that of a fixture, and where the message was seen. JSON has an escape for each character, so nothing in
        the line moves a terminal's cursor either."""
        upstream, _, consumer = self.link
        seen = {"at": self.at, "stage": self.stage, "instance": self.instance, "from": upstream, "to": consumer}
        return visible(json.dumps(seen | as_row(self.message), ensure_ascii=False))

    def heading(self) -> str:
        upstream, outlet, consumer = self.link
        ends = (self.peer, self.instance) if self.entered else (self.instance, self.peer)
        message = self.message
        outlet = f".{outlet}" if outlet else ""
        again = f"  attempt {message.attempt}" if message.attempt > 1 else ""
        text = f"{upstream}{outlet} {ends[0]} -> {consumer} {ends[1]}  {message.id}{again}"
        return visible(f"{text}  {max(0.0, self.at - message.origin):.3f} s old")

    def body(self) -> str:
        """The headers, if any, and the payload, for people: shortened, and nothing in it can move a terminal's cursor."""
        texts = [_shown(self.message.payload)]
        if self.message.headers:
            texts.insert(0, f"headers {_shown(self.message.headers)}")
        return "\n".join(f"    {line}" for text in texts for line in text.split("\n"))


def _shown(value: Any) -> str:
    text = json.dumps(to_json(value), ensure_ascii=False)
    return visible(text if len(text) <= LONGEST_PAYLOAD else f"{text[:LONGEST_PAYLOAD]}… ({len(text):,} characters)")


class TappedMessages:
    """Chooses what is shown of the messages that pass: those that meet all conditions, at most `rate` a second.

    link     only messages on this link; None: on all links
    shown    messages that were shown so far
    matched  messages that met all conditions, also those above the rate
    decoded  messages that were looked at
    hidden   messages in sections that were too large to be sent or could not be decoded
    """

    def __init__(
        self, link: Link | None, conditions: Sequence[Condition], redaction: Redaction, rate: float, now: float
    ) -> None:
        self.shown = self.matched = self.decoded = self.hidden = 0
        self._link = link
        self._conditions = conditions
        self._redaction = redaction
        self._bucket = Bucket(rate, now)
        self._passed: dict[tuple[str, int, Link], tuple[int, int]] = {}

    @property
    def passed(self) -> int:
        """Messages that passed since the first section that was shown, as the instances count them."""
        return sum(total + last for total, last in self._passed.values())

    def summary(self) -> str:
        """In words, how much of it all was seen."""
        parts = [f"{self.shown:,} shown"]
        if self._conditions:
            parts.append(f"{self.matched:,} met the conditions")
        parts.append(f"{self.decoded:,} looked at, of {self.passed:,} that passed")
        if self.hidden:
            parts.append(f"{self.hidden:,} too large to be shown, or not to be decoded")
        return "messages: " + ", ".join(parts)

    def take(self, frame: frames.Tap, at: float, now: float) -> list[TappedMessage]:
        """The messages of one section that are to be shown. If there are more than the rate allows, they are picked evenly."""
        link = frame.upstream, frame.outlet, frame.consumer
        if self._link not in (None, link):
            return []
        self._count((frame.stage, frame.instance, link), frame)
        try:
            columns = section.decode(frame.body, frame.count)
        except PeerError:  # also an empty body: too large to be shown
            self.hidden += frame.count
            return []
        self.decoded += frame.count
        messages = columns.messages(frame.outlet, frame.attempt)
        found = [one for one in messages if all(condition.holds(one) for condition in self._conditions)]
        self.matched += len(found)
        self._bucket.refill(now)
        room = min(len(found), int(self._bucket.tokens))
        self._bucket.take(room)
        self.shown += room
        chosen = (found[n * len(found) // room] for n in range(room))
        return [
            TappedMessage(at, frame.stage, frame.instance, link, frame.peer, self._redaction(message))
            for message in chosen
        ]

    def _count(self, key: tuple[str, int, Link], frame: frames.Tap) -> None:
        """An instance counts `passed` from 0 when its first tap begins. It does so again after all taps have left, and after a
        restart."""
        before, last = self._passed.get(key, (frame.count - frame.passed, 0))
        if frame.passed < last:
            before += last
        self._passed[key] = before, frame.passed
