"""What a pipeline's config says, checked and typed. May live here: frozen values only; reading is `loading`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zpipe.core.policy import BatchPolicy, Bound, DeadPolicy, LimitPolicy, RetryPolicy
from zpipe.core.work.task import DEAD
from zpipe.hookspecs import Traits


@dataclass(frozen=True)
class Input:
    """Where a stage's messages come from: a stage's outlet ("" is the default one)."""

    stage: str
    outlet: str = ""

    def __str__(self) -> str:
        return f"{self.stage}.{self.outlet}" if self.outlet else self.stage


@dataclass(frozen=True)
class Workers:
    """How an instance calls its plugin. None: no limit; see docs/config.md for what each limits."""

    kind: Literal["thread", "process"] = "thread"
    count: int = 1
    count_given: bool = field(default=False, compare=False)
    """Whether `count` stands in the file, and is not what follows from the rest of it."""
    timeout_s: float | None = None
    recycle_messages: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class StageConfig:
    """One [stages.NAME] table. `options` is of the type that the plugin declared; None if it declared none.

    outlets  those that the plugin declares besides the default one; None where it declares nothing, or was not loaded
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
    """One feedback address tcp://HOST:PORT for each instance (control is at PORT + 1); empty: ipc."""
    outlets: tuple[str, ...] | None = None
    traits: Traits = field(default=Traits(), compare=False)
    """What the plugin says of itself with these options; the default where it was not loaded."""


PROMETHEUS = "127.0.0.1:9464"
"""The port is the one that OpenTelemetry's exporters use."""


@dataclass(frozen=True)
class PipelineConfig:
    """A whole file. `stages` are in the order of the file."""

    name: str
    path: Path
    stages: dict[str, StageConfig]
    interval_s: float
    peer_timeout_s: float
    insecure: bool
    log_level: str = "info"
    text: str = field(default="", repr=False, compare=False)
    """The file as it was read: what processes of its own read it from, whatever becomes of the file."""
    traces: str = ""
    """Where OpenTelemetry spans go, by OTLP over HTTP; empty: nowhere."""
    trace_rate: float = 10.0
    """Messages a second that each source traces at most."""
    prometheus: str = ""
    """HOST:PORT of `zpipe monitor --prometheus`, which then has a unit of its own; empty: PROMETHEUS, and no unit."""

    @property
    def folder(self) -> Path:
        """What relative paths in the file are relative to."""
        return self.path.parent

    def consumers(self, stage: str) -> list[tuple[str, str]]:
        """(outlet, consumer stage) of every link that leaves `stage`."""
        return [(i.outlet, s.name) for s in self.stages.values() for i in s.inputs if i.stage == stage]

    def outlets(self, stage: str) -> tuple[str, ...]:
        """The named outlets that messages of `stage` may leave by: those that its plugin declares; where it declares nothing,
        those that a stage reads."""
        declared = self.stages[stage].outlets
        read = dict.fromkeys(outlet for outlet, _ in self.consumers(stage) if outlet not in ("", DEAD))
        return tuple(read) if declared is None else declared

    def unread_outlets(self, stage: str) -> tuple[str, ...]:
        """The outlets that the plugin of `stage` declares and no stage reads: what leaves by them is counted and goes nowhere."""
        read = {outlet for outlet, _ in self.consumers(stage)}
        return tuple(outlet for outlet in self.stages[stage].outlets or () if outlet not in read)
