"""The JetStream links of one instance, and the shell that carries out what they ask for. Must not live here: what they decide,
and the connection.

There is a shell, and a connection, for each cluster that the instance's links name; one in nearly all pipelines.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

from zpipe.config import PipelineConfig
from zpipe.config.pipeline_config import InstanceKey, JetStreamLink, StageConfig
from zpipe.core.events import LinkHeard
from zpipe.core.jetstream.events import Connected, Event
from zpipe.core.jetstream.orders import LinkKey, Order
from zpipe.core.jetstream.parcel import BODY_BYTES, MOST_MESSAGES
from zpipe.core.jetstream.producers import Producers
from zpipe.core.jetstream.stream_input import StreamInput
from zpipe.core.jetstream.stream_output import StreamOutput
from zpipe.core.policy import Codec
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import SuspectedCalls
from zpipe.daemon.mailbox import Mailbox
from zpipe.jetstream.access import Access
from zpipe.jetstream.cluster import Cluster
from zpipe.jetstream.names import LinkNames
from zpipe.jetstream.streams import StreamSettings

NEVER = float("inf")
PULLS = 8
"""So many full parcels fit into a queue, so that the next are on their way while one is worked on."""
StreamLink = StreamOutput | StreamInput


class JetStreamLinks:
    """`outgoing` and `incoming` are for the stage; `shells`, by name, once there is a stage.

    run       the run that the instance belongs to, "" if to none
    suspects  what was in a call when the life before ended
    """

    def __init__(
        self,
        config: PipelineConfig,
        me: InstanceKey,
        incarnation: str,
        run: str,
        suspects: SuspectedCalls,
    ) -> None:
        self.outgoing: list[StreamOutput] = []
        self.incoming: list[StreamInput] = []
        self._config = config
        self._who = f"{config.name}.{me[0]}.{me[1]}"
        self._run = run
        self._suspects = suspects
        stage, instance = me
        for outlet, name in config.consumers(stage):
            consumer = config.stages[name]
            if consumer.link is not None:
                self.outgoing.append(self._output(stage, outlet, consumer, consumer.link, instance, incarnation))
        mine = config.stages[stage]
        for entry in mine.inputs if mine.link is not None else ():
            assert mine.link is not None
            self.incoming.append(self._input(entry.stage, entry.outlet, mine, mine.link))

    def _output(
        self, stage: str, outlet: str, consumer: StageConfig, link: JetStreamLink, instance: int, incarnation: str
    ) -> StreamOutput:
        codec: Codec = "msgpack" if {self._config.stages[stage].codec, consumer.codec} == {"msgpack"} else "cbor"
        key = (self._config.name, stage, outlet, consumer.name)
        return StreamOutput(_shell_name(link), key, instance, incarnation, self._run, _most_messages(consumer), codec)

    def _input(self, stage: str, outlet: str, mine: StageConfig, link: JetStreamLink) -> StreamInput:
        expected = range(1, self._config.stages[stage].instances + 1) if self._run else ()
        made = StreamInput(
            _shell_name(link),
            (self._config.name, stage, outlet, mine.name),
            Producers(stage, outlet, mine.name, self._run, expected),
            (most := _most_messages(mine)),
            max(1, min(mine.queue.messages // most, mine.queue.bytes // BODY_BYTES, PULLS)),
            link.ack_wait_s,
            link.max_bytes,
            look_s=self._config.interval_s * mine.instances,
        )
        made.accuse(*self._suspects.get(made.accused, ("", [])))
        return made

    @property
    def held_by(self) -> str:
        """Which link waits for its cluster, and why; "" if none does. A link whose stream is full waits for consumers instead."""
        outgoing = (f"the link to {one.consumer}: {one.trouble}" for one in self.outgoing if one.waits_for_cluster)
        incoming = (f"the link from {one.stage}: {one.trouble}" for one in self.incoming if one.waits_for_cluster)
        return next(outgoing, "") or next(incoming, "")

    def shells(self, stage: Stage, mailbox: Mailbox) -> dict[str, JetStreamShell]:
        """One for each cluster, not started."""
        links: dict[str, dict[LinkKey, StreamLink]] = {}
        settings: dict[str, JetStreamLink] = {}
        mine: list[StreamLink] = [*self.outgoing, *self.incoming]
        for link in mine:
            *_, consumer = link.key
            of_stage = self._config.stages[consumer].link
            assert of_stage is not None
            settings[link.shell] = of_stage
            links.setdefault(link.shell, {})[link.key] = link
        return {
            name: JetStreamShell(self._cluster_of(links[name], one), links[name], stage, mailbox)
            for name, one in settings.items()
        }

    def _cluster_of(self, links: Mapping[LinkKey, StreamLink], link: JetStreamLink) -> Cluster:
        sends = [self._stream(key) for key, one in links.items() if isinstance(one, StreamOutput)]
        receives = [self._stream(key) for key, one in links.items() if isinstance(one, StreamInput)]
        return Cluster(Access(link.servers, self._config.nats), self._config.name, sends, receives, self._who)

    def _stream(self, key: LinkKey) -> StreamSettings:
        link = self._config.stages[key[3]].link
        assert link is not None
        return StreamSettings(LinkNames(*key), link.replicas, link.max_bytes, link.ack_wait_s)


class JetStreamShell:
    """The shell of all links over one cluster. The connection's thread only posts: links hear of events on the loop's thread."""

    def __init__(self, cluster: Cluster, links: Mapping[LinkKey, StreamLink], stage: Stage, mailbox: Mailbox) -> None:
        self._cluster = cluster
        self._links = links
        self._stage = stage
        self._mailbox = mailbox

    def start(self) -> None:
        self._cluster.start(self._post)

    def close(self) -> None:
        """Blocks for as long as the connection takes to close, some seconds at most."""
        self._cluster.close()

    def perform(self, what: Order) -> None:
        self._cluster.perform(what)

    def turn(self, now: float) -> float:
        return NEVER

    def _post(self, key: LinkKey | None, event: Event) -> None:
        self._mailbox.post(partial(self._tell, key, event))

    def _tell(self, key: LinkKey | None, event: Event) -> None:
        if isinstance(event, Connected):
            self._cluster.adopt(event.life)
        now = time.monotonic()
        for link in self._links.values() if key is None else (self._links[key],):
            self._stage.handle(LinkHeard(link, event), now)


def _shell_name(link: JetStreamLink) -> str:
    return f"jetstream {' '.join(link.servers)}"


def _most_messages(consumer: StageConfig) -> int:
    """The most messages of a parcel. Both ends take it from the config: the sender cuts parcels by it, the receiver asks for as
    many as have room."""
    assert consumer.link is not None
    return max(1, min(consumer.link.parcel_messages, consumer.queue.messages // PULLS, MOST_MESSAGES))
