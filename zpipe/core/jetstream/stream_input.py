"""The receiver side of a link through a stream: what is asked for, what has come and is held, and what is owed an ack.

May live here: the parcels of one such link while this instance has them, and what is known of the stream and of its producers.
The queue is the inlet's, which gives this link its room.

A parcel is known by its sequence in the stream. It is asked for with room for the largest one there may be, so the bound of the
queue holds whatever comes. What is not acked comes again, to this instance or another: `ack_wait` after the cluster was last told
that it is worked on, or at once if it was handed back. A parcel that comes again may have ended a process, so its messages are
run one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from zpipe.core.actions import Action, LogEvent, ToLink
from zpipe.core.jetstream import orders, parcel
from zpipe.core.jetstream.events import (
    NOT_YET,
    Acked,
    AllHeard,
    Arrived,
    Connected,
    Event,
    Figures,
    Heard,
    Lost,
    PullOver,
    Written,
)
from zpipe.core.jetstream.orders import LinkKey
from zpipe.core.jetstream.producers import Producers
from zpipe.core.upstream.credit import Grant
from zpipe.core.upstream.incoming_link import Arrival
from zpipe.core.work.delivery import Producer
from zpipe.errors import PeerError

NEVER = float("inf")
EXTENDS = 3
"""So often within `ack_wait` a parcel in hand is said to be worked on: two of these may be lost."""
REPEAT_S = 2.0
"""An ack that is not confirmed is sent again after this, and what nobody has answered is asked again."""
END_LOOK_S = 0.1
"""Between two looks whether the stream is empty, once its producers have ended."""
MOST_PULLS = 64
"""Parcels asked for at once. Small ones leave the queue as fast as that many can be asked for."""
LOW = 4
"""With less here than this part of a full parcel the next is asked for, even if the stage's window is smaller than a parcel."""
FULL = 0.9
"""Of the bytes that a stream may have: beyond this its producers may be waiting for acks."""
MOST_DIGITS = 19
"""Of a number in the bucket: a longer one is no message's."""


class StreamInput:
    """One input: the outlet `outlet` of the stage `stage`.

    shell     the name of what carries its orders out
    parcel_messages  the most that a parcel may have;  most_pulls: so many of these fit into the queue
    look_s    how often the stream's figures are asked for
    """

    def __init__(
        self,
        shell: str,
        link: LinkKey,
        producers: Producers,
        parcel_messages: int,
        most_pulls: int,
        ack_wait_s: float,
        max_bytes: int,
        look_s: float,
    ) -> None:
        _, self.stage, self.outlet, self._consumer = link
        self.messages = Grant()
        self.bytes = Grant()
        self.turn = 0
        self.connected = False
        self.trouble = NOT_YET
        self.shell = shell
        self.key = link
        self._producers = producers
        self._parcel_messages = parcel_messages
        self._most_pulls = most_pulls
        self._usual_messages = float(parcel_messages)
        self._extend_s = ack_wait_s / EXTENDS
        self._max_bytes = max_bytes
        self._look_s = look_s
        self._producer = Producer(self.stage, self.outlet, 0, "+".join(link))
        self._held: dict[int, int] = {}
        self._replies: dict[int, str] = {}
        self._arrived: list[Arrival] = []
        self._finished: list[int] = []
        self._returned: set[int] = set()
        self._acking: dict[int, str] = {}
        self._repeat_at = NEVER
        self._asked = 0
        self._number = 0
        self._extend_at = NEVER
        self._look_at = 0.0
        self._look_number = self._end_number = 0
        self._figures: Figures | None = None
        self._suspicions: dict[int, int] = {}
        self._unwritten: dict[int, int] = {}
        self._all_heard = False
        self._being_written: set[int] = set()
        self._leaving = False
        self._need()

    def _need(self) -> None:
        """Says that room for a whole parcel is needed, without which none can be asked for, once what is here is about to run
        out: also for a slow stage whose window is less than a parcel. Sooner, such a stage would hold what others could do."""
        few = self._parcel_messages // LOW
        parcels = 0
        if self.messages.held <= few:  # of small ones several, or each would wait for a round trip
            parcels = min(self._most_pulls, max(1, int(few / self._usual_messages)))
        self.messages.need, self.bytes.need = parcels * self._parcel_messages, parcels * parcel.BODY_BYTES

    # ---- what the cluster says

    def heard(self, event: Event, now: float) -> Iterable[Action]:
        """Takes in an event from its shell."""
        match event:
            case Connected():
                self.connected = True
                self._look_at = self._repeat_at = self._extend_at = now
                self._all_heard = False
                self._being_written.clear()
                return self._tell_trouble("")
            case Lost():
                self.connected, self._asked = False, 0
                return self._tell_trouble(event.reason)
            case Arrived():
                return self._arrive(event, now)
            case PullOver():
                self._asked = max(0, self._asked - event.left)
            case Acked():
                self._acking.pop(event.sequence, None)
            case Figures():
                self._figures = event
                return self._forget_suspects(event.first)
            case AllHeard():
                self._all_heard = True
            case Heard():
                self._hear(event, now)
            case Written():
                self._hear(Heard(event.key, event.value, live=False), now)
        return ()

    @property
    def waits_for_cluster(self) -> bool:
        return self.trouble not in ("", NOT_YET)

    def _tell_trouble(self, trouble: str) -> list[Action]:
        before, self.trouble = self.trouble, trouble
        if trouble == before:
            return []
        fields = {"from": self.stage, "outlet": self.outlet or None, "held": len(self._held)}
        if not trouble:
            return [LogEvent("jetstream.works", fields, warning=False, repeats=True)]
        return [LogEvent("jetstream.trouble", {**fields, "reason": trouble}, alike=trouble)]

    def _arrive(self, event: Arrived, now: float) -> list[Action]:
        self._asked = max(0, self._asked - 1)
        sequence = event.sequence
        if sequence in self._held:  # the server's `ack_wait` ran out while it is worked on here
            self._replies[sequence] = event.reply
            return [ToLink(self.shell, orders.Extend((event.reply,)))]
        if sequence in self._acking:
            self._acking[sequence] = event.reply
            return [ToLink(self.shell, orders.Acknowledge(self.key, ((sequence, event.reply),)))]
        if self._leaving:
            return [ToLink(self.shell, orders.HandBack((event.reply,)))]
        try:
            sections = parcel.part(event.payload, sequence, event.times)
        except PeerError as error:  # nobody else could read it either, and it would come again for ever
            self._acking[sequence] = event.reply
            self._repeat_at = min(self._repeat_at, now + REPEAT_S)
            fields = {"from": self.stage, "sequence": sequence, "bytes": len(event.payload), "reason": str(error)}
            return [
                LogEvent("parcel.dropped", fields, repeats=True),
                ToLink(self.shell, orders.Acknowledge(self.key, ((sequence, event.reply),))),
            ]
        if event.times > 1:  # each message of what comes again is run alone
            for section in sections:
                section.suspicion = 1
            sections = [piece for section in sections for piece in section.isolate(self._suspicions)]
        self._held[sequence] = messages = sum(section.count for section in sections)
        self._usual_messages += (messages - self._usual_messages) / 8
        self._replies[sequence] = event.reply
        self._extend_at = min(self._extend_at, now + self._extend_s)
        self._arrived.append(Arrival(self._producer, sections, sequence))
        return []

    def arrived(self) -> list[Arrival]:
        """What has come since the last call."""
        found, self._arrived = self._arrived, []
        return found

    # ---- what comes from the stage

    def finished(self, token: int) -> None:
        """All of the parcel is finished, or was handed back."""
        self._finished.append(token)
        del self._held[token]

    def returned(self, token: int, start: int, stop: int) -> None:
        """The whole parcel goes to another instance once the rest of it is finished here: a stream takes no part of one back."""
        self._returned.add(token)

    def leave(self) -> None:
        self._leaving = True

    def tell(self, now: float) -> Iterator[Action]:
        """Acks, and what there is room for."""
        self._need()
        yield from self._settle(now)
        if self.connected:
            if now >= self._extend_at:
                self._extend_at = now + self._extend_s if self._held else NEVER
                if self._held:
                    yield ToLink(self.shell, orders.Extend([self._replies[sequence] for sequence in self._held]))
            if now >= self._repeat_at:
                self._repeat_at = now + REPEAT_S if self._acking else NEVER
                if self._acking:
                    yield ToLink(self.shell, orders.Acknowledge(self.key, list(self._acking.items())))
            if now >= self._look_at:
                self._look_number += 1
                self._look_at = now + (END_LOOK_S if self._ending else self._look_s)
                yield ToLink(self.shell, orders.Look(self.key, self._look_number))
            yield from self._write_suspects()
            yield from self._pull()
        self._number += 1
        for grant, most in ((self.messages, self._parcel_messages), (self.bytes, parcel.BODY_BYTES)):
            grant.issue(self._number)
            grant.confirm(self._number, grant.received + self._asked * most)

    def _settle(self, now: float) -> Iterator[Action]:
        acks, handed_back = [], []
        for sequence in self._finished:
            reply = self._replies.pop(sequence)
            if sequence in self._returned:
                handed_back.append(reply)
                self._returned.discard(sequence)
            else:
                acks.append((sequence, reply))
                self._acking[sequence] = reply
        self._finished.clear()
        if acks:
            self._repeat_at = min(self._repeat_at, now + REPEAT_S)
            yield ToLink(self.shell, orders.Acknowledge(self.key, acks))
        if handed_back:  # one that does not arrive costs `ack_wait`
            yield ToLink(self.shell, orders.HandBack(handed_back))

    def _pull(self) -> Iterator[Action]:
        if self._leaving:
            return
        room = min(self.messages.room // self._parcel_messages, self.bytes.room // parcel.BODY_BYTES, MOST_PULLS)
        if room > self._asked:
            yield ToLink(self.shell, orders.Pull(self.key, room - self._asked))
            self._asked = room

    def next_at(self) -> float:
        return min(self._extend_at, self._repeat_at, self._look_at) if self.connected else NEVER

    @property
    def unfinished(self) -> bool:
        return bool(self._held) or bool(self._finished)

    @property
    def all_confirmed(self) -> bool:
        return not (self._acking or self._finished)

    @property
    def awaits_acks(self) -> bool:
        return self._figures is not None and self._figures.bytes > FULL * self._max_bytes

    # ---- the end

    def _hear(self, entry: Heard, now: float) -> None:
        key, value, live, again = entry
        if key.startswith(self._suspect_prefix):
            if not again:
                self._hear_suspect(key, value)
        elif self._producers.hear(key, value, live, again):
            self._end_number = self._look_number + 1  # what was looked at before says nothing of the end
            self._look_at = now

    @property
    def _ending(self) -> bool:
        return self._producers.ended

    @property
    def _last_look(self) -> Figures | None:
        """The stream's figures, if they were asked for after the last change that the producers have written; else None."""
        known = self._figures
        return known if known is not None and known.number >= self._end_number else None

    @property
    def ended(self) -> bool:
        """The producers have ended, and all that they put into the stream was given to some instance."""
        return self._producers.ended and (known := self._last_look) is not None and known.all_delivered

    @property
    def stopped(self) -> bool:
        """The producers have stopped, and nothing of the stream is unacked, here or at another instance."""
        known = self._last_look
        return self._producers.stopped and known is not None and known.all_delivered and not known.ack_pending

    def waiting_for(self) -> list[str]:
        if self.trouble:
            return ["the cluster"]
        waiting = self._producers.waiting_for()
        if not waiting and not self.stopped and (known := self._figures) is not None:
            return [f"{known.parcels} parcels in the stream from {self.stage}"]
        return waiting

    def figures(self) -> list[dict[str, Any]]:
        known = self._figures
        row: dict[str, Any] = {
            "instance": 0,
            "incarnation": self._producer.incarnation,
            "received": self.messages.received,
            "unacked": sum(self._held.values()),
        }
        if known is not None:
            row["stream"] = {
                "messages": known.messages,
                "bytes": known.bytes,
                "parcels": known.parcels,
                "pending": known.pending,
                "ack_pending": known.ack_pending,
            }
        return [row | {"connected": self.connected, "trouble": self.trouble}]

    # ---- messages that have ended processes

    @property
    def _suspect_prefix(self) -> str:
        return f"suspect.{self.stage}.{self.outlet or '='}.{self._consumer}."

    def accuse(self, incarnation: str, rows: list[list[int]]) -> None:
        """The life before this one ended in calls of these messages: [start, stop, alone]. All instances are told of those that
        were alone in their call, since another may get them next."""
        if incarnation != self._producer.incarnation:
            return
        for start, stop, alone in rows:
            for number in range(start, stop) if alone else ():
                self._suspicions[number] = self._unwritten[number] = self._suspicions.get(number, 1) + 1

    @property
    def accused(self) -> tuple[str, str, int]:
        """(Stage, outlet, instance), by which the call journal names where messages came from."""
        return self._producer[:3]

    def _hear_suspect(self, key: str, value: bytes) -> None:
        number, times = _whole(key.removeprefix(self._suspect_prefix)), _whole(value)
        if number is None or times is None:
            return
        if (mine := self._unwritten.get(number)) is not None:
            if number in self._being_written and times >= mine:
                del self._unwritten[number]
            else:  # this life's death comes on top of what others have counted
                times += 1
                self._unwritten[number] = max(mine, times)
                self._being_written.discard(number)
        self._suspicions[number] = max(self._suspicions.get(number, 0), times)

    def _write_suspects(self) -> Iterator[Action]:
        """Waits until it is known what others have counted. What the bucket does not have yet, each connection writes anew."""
        if not self._all_heard:
            return
        for number in self._unwritten.keys() - self._being_written:
            self._being_written.add(number)
            times = json.dumps(self._unwritten[number]).encode()
            yield ToLink(self.shell, orders.Write(f"{self._suspect_prefix}{number}", times))

    def _forget_suspects(self, first: int) -> list[Action]:
        """Forgets suspects in parcels that are finished, whichever life has counted them: they never come again."""
        over = [number for number in self._suspicions if number < first * parcel.MOST_MESSAGES]
        for number in over:
            del self._suspicions[number]
            self._unwritten.pop(number, None)
        if not over:
            return []
        return [ToLink(self.shell, orders.Forget([f"{self._suspect_prefix}{number}" for number in over]))]


def _whole(text: str | bytes) -> int | None:
    """A number as it is in the bucket, which others may write to; None for anything else."""
    text = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else None
