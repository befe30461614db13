"""The numbers a stage runs by: frozen, made once from the config, shared by the core's parts.

May live here: frozen policies and their defaults with the reason for each. State lives with the part that has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Codec = Literal["cbor", "msgpack"]
"""How sections are encoded."""

KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True)
class Bound:
    """A hard bound on what is held: messages exactly, bytes by at most one message more."""

    messages: int
    bytes: int


@dataclass(frozen=True)
class RetryPolicy:
    """attempts: calls of the plugin in all; delay doubles from delay_s up to max_delay_s, with jitter."""

    attempts: int = 5
    delay_s: float = 1.0
    max_delay_s: float = 60.0
    deaths: int = 3


@dataclass(frozen=True)
class BatchPolicy:
    """A batch is handed over when it has `messages` or `bytes`, or `timeout_s` after its first message came."""

    messages: int = 100
    bytes: int = 4 * MIB
    timeout_s: float = 1.0


@dataclass(frozen=True)
class LimitPolicy:
    """Calls of the plugin under way at most, and calls a second.

    kind  "aimd": between 1 and `max`, from `start` on, by how the service answers;  "fixed": always `max`
    max   None (kind "fixed" only): as many as there are workers
    rate  calls a second, or None
    """

    kind: Literal["aimd", "fixed"] = "aimd"
    start: int = 10
    max: int | None = 200
    rate: float | None = None


@dataclass(frozen=True)
class DeadPolicy:
    """Limits on the dead letters that an instance keeps.

    messages, bytes  when either is reached the stage starts no more work: disks are finite, and nothing is dropped silently
    age_s            older letters are dropped; None: never
    storm            the stage stops when more than this share of its last messages became dead letters; 1.0 never does
    storm_window     how many last messages that is: a burst of a few bad ones in a good stream is no storm
    storm_least      it does not stop before so many messages: three failures at the start say little of the plugin
    """

    messages: int = 100_000
    bytes: int = 1024 * MIB
    age_s: float | None = None
    storm: float = 0.5
    storm_window: int = 200
    storm_least: int = 100


@dataclass(frozen=True)
class LinkPolicy:
    """Timing and sizes of links; the same at both ends of a pipeline.

    heartbeat_s          every statement and announcement is repeated this often
    peer_timeout_s       a peer silent this long is taken for dead and what it held is redelivered
    ack_delay_s          acks wait this long for a statement that goes anyway, unless the producer waits for them; a chain of
                         n stages acks within n times this
    queue_time_s         a consumer asks for this much work ahead: about 100 round trips over ipc, so that it never
                         runs dry, yet a consumer of 20/s holds one message, not the queue
    parcel_messages      a turn of the loop costs about as much as 100 small messages, so parcels of 1,024 make it 10 %;
                         four of them fit into the default queue, and four give 90 % of the throughput of sixteen
    section_messages     outputs are encoded in pieces of this: several fit into what credit is left, and few have to be cut
    parcel_bytes         above it a message travels alone; small enough that heartbeats behind it are not late
    max_message_bytes    a larger message is a dead letter at its producer
    codec                of the sections that a stage writes, and the one that it reads besides CBOR
    unsent_messages      outputs waiting for credit: enough to fill two parcels, more adds only latency
    """

    heartbeat_s: float = 1.0
    peer_timeout_s: float = 5.0
    ack_delay_s: float = 0.02
    queue_time_s: float = 0.05
    parcel_messages: int = 1024
    section_messages: int = 256
    parcel_bytes: int = 1 * MIB
    max_message_bytes: int = 16 * MIB
    codec: Codec = "msgpack"
    unsent_messages: int = 2048
    unsent_bytes: int = 2 * MIB


@dataclass(frozen=True)
class BufferPolicy:
    """A buffer on the disk, between a stage and one that it feeds.

    bytes     hard bound on its segment files; only a single message that is larger is stored all the same
    messages  hard bound on the messages that are stored and not finished
    sync_s    from one fdatasync to the next; 0: as soon as something waits and the last one has returned
    ahead_bytes  how much is read for consumers before they have room: what the disk gives in a few milliseconds
    """

    bytes: int = 10 * 1024 * MIB
    messages: int = 100_000_000
    sync_s: float = 0.0
    ahead_bytes: int = 4 * MIB

    @property
    def segment_bytes(self) -> int:
        """The size of one file: disk space is freed by files. To read 16 MiB takes as long as a process takes to start."""
        return min(16 * MIB, max(self.bytes // 8, 4 * KIB))

    def left_bytes(self, disk_bytes: int) -> int:
        """How much of a disk of that size is left free whatever the bound says: a full disk stops more than one stage."""
        return max(2 * self.segment_bytes, disk_bytes // 20)


@dataclass(frozen=True)
class TapPolicy:
    """What a tap may cost an instance.

    lease_s        a request holds so long: three heartbeats, so that a lost one does not interrupt, and a tap that is
                   gone costs nothing after that
    sections       shown at most a second on each link; copying and publishing one costs about 10 µs
    bytes          likewise; a subscriber that is stuck while another tap goes on is cut off by ZMTP heartbeats after 8 s,
                   so this much times 8 is what it can make a daemon hold
    section_bytes  a larger one (a single message, mostly) is mentioned, not shown: half of what a frame may have
    """

    lease_s: float = 3.0
    sections: int = 500
    bytes: int = 1 * MIB
    section_bytes: int = 512 * KIB


@dataclass(frozen=True)
class ConsumerPolicy:
    """Which hellos of one consumer stage its producers meet.

    most     how many instances may be in session at once: a session takes four file descriptors of its producer
    highest  the highest number of an instance, where the config has an address for each; None: there is no highest
    hosts    where a tcp inbox may be, besides the host that the hello came from
    folders  an ipc inbox is in one of them, in the folder of its instance; none: the stage has tcp addresses
    placed   where there are keys: the host of each instance, which has to show a key of that host if it comes over tcp
    """

    most: int = 128
    highest: int | None = None
    hosts: tuple[str, ...] = ()
    folders: tuple[str, ...] = ("/run/zpipe",)
    placed: tuple[str, ...] = ()


@dataclass(frozen=True)
class StagePolicy:
    """Everything the core of one stage needs to know of the config.

    consumers  by the name of a stage that this one feeds; the default is for one that is not named
    leaves_stored  at the end of the stream, what links have stored is left for the next run
    isolated  each call runs in a worker process, so that one that kills its process kills neither another call nor the daemon
    tick_s    how often the plugin's `tick` is called; None: it has none.  flushes: it has a `flush`
    """

    queue: Bound = field(default_factory=lambda: Bound(4096, 64 * MIB))
    unacked: Bound = field(default_factory=lambda: Bound(20_000, 128 * MIB))
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    dead: DeadPolicy = field(default_factory=DeadPolicy)
    batch: BatchPolicy | None = None
    limit: LimitPolicy | None = None
    link: LinkPolicy = field(default_factory=LinkPolicy)
    tap: TapPolicy = field(default_factory=TapPolicy)
    consumers: Mapping[str, ConsumerPolicy] = field(default_factory=dict)
    workers: int = 1
    isolated: bool = False
    leaves_stored: bool = False
    tick_s: float | None = None
    flushes: bool = False
    interval_s: float = 1.0
