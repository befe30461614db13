"""What a pipeline's config says, checked and typed, as frozen values. Does not belong here: reading the file (`loading`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zpipe.core.policy import BatchPolicy, Bound, BufferPolicy, Codec, DeadPolicy, LimitPolicy, RetryPolicy
from zpipe.core.work.task import DEAD
from zpipe.errors import TargetError
from zpipe.hookspecs import Traits
from zpipe.plugin_loading import did_you_mean

InstanceKey = tuple[str, int]
"""An instance, as (stage, number)."""


@dataclass(frozen=True)
class Input:
    """Where a stage's messages come from: an outlet of another stage ("" for its default one)."""

    stage: str
    outlet: str = ""

    def __str__(self) -> str:
        return f"{self.stage}.{self.outlet}" if self.outlet else self.stage


@dataclass(frozen=True)
class Workers:
    """How an instance calls its plugin. None stands for no limit. docs/config.md explains each of them."""

    kind: Literal["thread", "process"] = "thread"
    count: int = 1
    count_given: bool = field(default=False, compare=False)
    """Whether the file gives `count`, so that it must not be derived from the limit."""
    timeout_s: float | None = None
    recycle_messages: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Use:
    """A plugin around the calls of a stage's own. `options`: an object of its type; None if it has none, or was not loaded."""

    plugin: str
    options: Any = None


@dataclass(frozen=True)
class HostConfig:
    """One [hosts.NAME] table, with what `zpipe keys trust` has added.

    address  the name or IP address by which the others reach it; "": no stage runs there
    keys     its public keys; two while they are changed, and none where the pipeline has no keys
    """

    name: str
    address: str = ""
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class JetStreamLink:
    """The `link` of a stage: its inputs come through streams of a NATS cluster. docs/config.md explains each key.

    max_bytes        of each stream;  replicas: servers that have each message
    ack_wait_s       after which what a killed instance had is given to another
    parcel_messages  the most in one parcel, which one instance gets
    """

    servers: tuple[str, ...]
    replicas: int = 3
    max_bytes: int = 10 * 2**30
    ack_wait_s: float = 2.0
    parcel_messages: int = 1024


@dataclass(frozen=True)
class NatsSecurity:
    """[security.nats]: who the instances are for a NATS cluster, and whom they trust. Empty: nobody in particular."""

    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    credentials: Path | None = None
    nkey: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class StageConfig:
    """One [stages.NAME] table.

    options  an object of the type that the plugin declared; None if it declared none, or was not loaded
    outlets  those that the plugin declares besides the default one; None if it declares none, or was not loaded
    buffer   on the disk, for its outputs; None: they are in memory until they are acked
    codec    of its messages, where the stages before and after it have it
    tick_s   how often the plugin's `zpipe_tick` is called, if it has one
    use      plugins around the calls of its own, the first outermost
    listen   one feedback address tcp://HOST:PORT for each instance (the control socket takes PORT + 1); empty: ipc
    hosts    the host of each instance, in order; empty: the pipeline has no hosts. Then `listen` follows from it, for
             instances of other hosts, and those of the same host have ipc
    port     the first port of its instances on each host; None: it has none
    traits   what the plugin says of itself with these options; the default if it was not loaded
    command  of a stage in another language, in place of a plugin, which is then ""; its options are the table as it stands
    link     how its inputs come, if not over ZeroMQ
    """

    name: str
    plugin: str
    inputs: tuple[Input, ...]
    options: Any
    instances: int
    workers: Workers
    queue: Bound
    unacked: Bound
    retry: RetryPolicy
    dead: DeadPolicy
    batch: BatchPolicy | None
    limit: LimitPolicy | None
    listen: tuple[str, ...]
    buffer: BufferPolicy | None = None
    codec: Codec = "msgpack"
    tick_s: float = 1.0
    use: tuple[Use, ...] = ()
    hosts: tuple[str, ...] = ()
    port: int | None = None
    outlets: tuple[str, ...] | None = None
    traits: Traits = field(default=Traits(), compare=False)
    command: tuple[str, ...] = ()
    link: JetStreamLink | None = None

    @property
    def runs(self) -> str:
        """What the stage runs, for people: the name of its plugin, or its command."""
        return self.plugin or " ".join(self.command)


PROMETHEUS = "127.0.0.1:9464"
"""The default address of the metrics. The port is the one that OpenTelemetry's exporters use."""


FIRST_PORT = 7000


@dataclass(frozen=True)
class PipelineConfig:
    """A whole config file.

    stages      in the order of the file
    text        the file as it was read. Worker processes read it from here, since the file may have changed meanwhile
    traces      where OpenTelemetry spans are sent, by OTLP over HTTP; "": nowhere
    trace_rate  how many messages a second each source traces at most
    hosts       by name: the machines that take part, in the order of the file
    port        the first port of its first stage on a host
    prometheus  HOST:PORT where `zpipe monitor --prometheus` serves metrics, and for which there is a unit; "": the default
                address, and no unit
    nats        how the cluster of its JetStream links is told who asks
    """

    name: str
    path: Path
    stages: dict[str, StageConfig]
    interval_s: float
    peer_timeout_s: float
    insecure: bool
    log_level: str = "info"
    text: str = field(default="", repr=False, compare=False)
    traces: str = ""
    trace_rate: float = 10.0
    prometheus: str = ""
    hosts: dict[str, HostConfig] = field(default_factory=dict)
    port: int = FIRST_PORT
    nats: NatsSecurity = field(default=NatsSecurity(), repr=False)

    @property
    def has_keys(self) -> bool:
        """Whether whoever comes over tcp has to show a key."""
        return len(self.hosts) > 1 and not self.insecure

    def host_of(self, stage: str, instance: int) -> str:
        """The host that the instance runs on; "" if it has none."""
        hosts = self.stages[stage].hosts
        return hosts[instance - 1] if 1 <= instance <= len(hosts) else ""

    def instances_on(self, host: str) -> list[InstanceKey]:
        """The instances that run on the host; all of them where the pipeline has no hosts."""
        return [key for key in self.instances if self.host_of(*key) in ("", host)]

    @property
    def folder(self) -> Path:
        """The folder of the file, to which relative paths in it refer."""
        return self.path.parent

    @property
    def instances(self) -> list[InstanceKey]:
        """The instances that the config asks for. More of them may run."""
        return [(stage.name, n) for stage in self.stages.values() for n in range(1, stage.instances + 1)]

    @property
    def heads(self) -> list[str]:
        """The stages that have a source."""
        return [stage.name for stage in self.stages.values() if not stage.inputs]

    def stage(self, name: str) -> StageConfig:
        """Raises TargetError that says which stages there are."""
        if name not in self.stages:
            hint = did_you_mean(name, self.stages)
            raise TargetError(f"{self.path} has no stage {name!r}{hint}; it has {', '.join(self.stages)}")
        return self.stages[name]

    def consumers(self, stage: str) -> list[tuple[str, str]]:
        """(outlet, consumer stage) of every link that leaves `stage`."""
        return [(i.outlet, s.name) for s in self.stages.values() for i in s.inputs if i.stage == stage]

    def outlets(self, stage: str) -> tuple[str, ...]:
        """The named outlets of `stage`: those that its plugin declares or, if it declares none, those that a stage reads."""
        declared = self.stages[stage].outlets
        read = dict.fromkeys(outlet for outlet, _ in self.consumers(stage) if outlet not in ("", DEAD))
        return tuple(read) if declared is None else declared

    def unread_outlets(self, stage: str) -> tuple[str, ...]:
        """The outlets that the plugin of `stage` declares and no stage reads. What leaves by them is counted and goes nowhere."""
        read = {outlet for outlet, _ in self.consumers(stage)}
        return tuple(outlet for outlet in self.stages[stage].outlets or () if outlet not in read)
