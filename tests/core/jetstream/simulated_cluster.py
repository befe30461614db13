"""A NATS cluster on the virtual clock of a simulation, as far as links ask it for anything. No link's decisions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from zpipe.core.jetstream.events import (
    Acked,
    AllHeard,
    Arrived,
    Connected,
    Event,
    Figures,
    Heard,
    Lost,
    NotStored,
    PullOver,
    Stored,
    Written,
)
from zpipe.core.jetstream.orders import (
    Acknowledge,
    Extend,
    Forget,
    HandBack,
    LinkKey,
    Look,
    Order,
    Publish,
    Pull,
    Write,
)
from zpipe.core.jetstream.producers import Producers
from zpipe.core.jetstream.stream_input import StreamInput
from zpipe.core.jetstream.stream_output import StreamOutput
from zpipe.testing.simulated_plugin import Disk, SimulatedLinks
from zpipe.testing.simulated_plugin import Heard as Hears

TRIP_S = 0.001
PULL_S = 5.0
ACK_WAIT_S = 2.0
KEY: LinkKey = ("sim", "a", "", "b")


@dataclass
class Stream:
    """`most`: so many parcels it takes. `held`: by sequence, until when its ack is waited for."""

    most: int
    parcels: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    pending: deque[int] = field(default_factory=deque)
    held: dict[int, float] = field(default_factory=dict)
    times: dict[int, int] = field(default_factory=dict)
    pulls: deque[list[Any]] = field(default_factory=deque)
    last: int = 0


class SimulatedCluster:
    """One link, from `a` to `b`. `clock` and `disks` are those of the simulation, once there is one."""

    def __init__(self, parcel_messages: int = 50, most: int = 1000, heads: int = 1) -> None:
        self.clock: Any = None
        self.disks: dict[tuple[str, int], Disk] = {}
        self.stream = Stream(most)
        self.bucket: dict[str, bytes] = {}
        self.up = True
        self.answers = True
        self._parcel_messages = parcel_messages
        self._heads = heads
        self._lives = 0
        self._shells: list[_Shell] = []

    def producer(self, instance: int, heard: Hears) -> SimulatedLinks:
        self._lives += 1
        link = StreamOutput("js", KEY, instance, f"life {self._lives}", "run", self._parcel_messages, "msgpack")
        return SimulatedLinks(outgoing=[link], perform=self._shell(link, heard))

    def consumer(self, instance: int, heard: Hears) -> SimulatedLinks:
        producers = Producers("a", "", "b", "run", range(1, self._heads + 1))
        link = StreamInput("js", KEY, producers, self._parcel_messages, 4, ACK_WAIT_S, 1 << 30, 1.0)
        link.accuse(*self.disks.get(("b", instance), Disk()).suspects.get(link.accused, ("", [])))
        return SimulatedLinks(incoming=[link], perform=self._shell(link, heard))

    def _shell(self, link: StreamOutput | StreamInput, heard: Hears) -> Callable[[str, Any], None]:
        shell = _Shell(self, link, heard)
        self._shells.append(shell)
        if self.up:
            shell.connect()
        return lambda name, order: shell.perform(order)

    def lose(self) -> None:
        """No instance reaches it any more."""
        self.up = False
        self.stream.pulls.clear()
        for shell in self._shells:
            shell.tell(Lost("the test wants it"))

    def restore(self) -> None:
        self.up = True
        for shell in self._shells:
            shell.connect()

    def tell_all(self, event: Event) -> None:
        for shell in self._shells:
            shell.tell(event)

    def deliver(self) -> None:
        """What waits, to whoever asks; what was not acked in time waits again."""
        stream, now = self.stream, self.clock.now
        for sequence, until in list(stream.held.items()):
            if now >= until:
                del stream.held[sequence]
                stream.pending.appendleft(sequence)
        while stream.pending and stream.pulls:
            pull = stream.pulls[0]
            if pull[1] <= 0 or now >= pull[2]:
                stream.pulls.popleft()
                continue
            pull[1] -= 1
            sequence = stream.pending.popleft()
            stream.times[sequence] = times = stream.times.get(sequence, 0) + 1
            stream.held[sequence] = now + ACK_WAIT_S
            pull[0].tell(Arrived(f"{sequence}/{times}", sequence, times, stream.parcels[sequence][0]))


class _Shell:
    """Of one life of an instance. What it is told after its death nobody hears."""

    def __init__(self, cluster: SimulatedCluster, link: StreamOutput | StreamInput, heard: Hears) -> None:
        self._cluster = cluster
        self._link = link
        self._heard = heard

    def connect(self) -> None:
        self.tell(Connected(1, "sim", "2.10.27"))
        for key, value in self._cluster.bucket.items():
            self.tell(Heard(key, value, live=False))
        self.tell(AllHeard())

    def tell(self, event: Event, delay_s: float = TRIP_S) -> None:
        self._heard(delay_s, partial(self._hear, event))

    def _hear(self, event: Event) -> Any:
        return self._link.heard(event, self._cluster.clock.now)

    def perform(self, order: Order) -> None:
        cluster, stream = self._cluster, self._cluster.stream
        if not cluster.up:
            return
        match order:
            case Publish():
                self._publish(order)
            case Pull():
                pull = [self, order.parcels, cluster.clock.now + PULL_S]
                stream.pulls.append(pull)
                self._heard(PULL_S, lambda: self._hear(PullOver(pull[1])) if pull in stream.pulls else ())
            case Acknowledge():
                for sequence, _ in order.deliveries:
                    if stream.parcels.pop(sequence, None) is not None:
                        stream.held.pop(sequence, None)
                        if sequence in stream.pending:
                            stream.pending.remove(sequence)
                    self.tell(Acked(sequence))
            case Extend():
                for reply in order.replies:
                    if (sequence := int(reply.partition("/")[0])) in stream.held:
                        stream.held[sequence] = cluster.clock.now + ACK_WAIT_S
            case HandBack():
                for reply in order.replies:
                    if stream.held.pop(sequence := int(reply.partition("/")[0]), None) is not None:
                        stream.pending.appendleft(sequence)
            case Look():
                held = len(stream.held)
                messages = sum(count for _, count in stream.parcels.values())
                fresh = [one for one in stream.pending if one not in stream.times]
                parcels = len(stream.parcels)
                first = min(stream.parcels, default=stream.last + 1)
                self.tell(
                    Figures(order.number, first, messages, 0, parcels, len(fresh), parcels - len(fresh), not fresh)
                )
                assert held <= parcels
            case Write():
                cluster.bucket[order.key] = order.value
                cluster.tell_all(Heard(order.key, order.value, live=True))
                self.tell(Written(order.key, order.value))
            case Forget():
                for key in order.keys:
                    cluster.bucket.pop(key, None)
        cluster.deliver()

    def _publish(self, order: Publish) -> None:
        stream = self._cluster.stream
        if len(stream.parcels) >= stream.most:
            self.tell(NotStored(order.number, "maximum messages exceeded", full=True))
            return
        stream.last += 1
        stream.parcels[stream.last] = (order.payload, order.messages)
        stream.pending.append(stream.last)
        if self._cluster.answers:
            self.tell(Stored(order.number))
        else:  # it is there, and nobody says so
            self.tell(NotStored(order.number, "no answer", full=False))
