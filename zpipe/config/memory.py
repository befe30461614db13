"""How much memory a pipeline may take at the worst. May live here: a sum over the config's bounds, and its reasons."""

from __future__ import annotations

from dataclasses import dataclass

from zpipe.config.pipeline import PipelineConfig, StageConfig
from zpipe.core.policy import MIB, LinkPolicy

BASE_BYTES = 30 * MIB
"""An idle daemon: the interpreter, zmq and the first-party plugins. What a plugin itself holds is not known here."""


@dataclass(frozen=True)
class MemoryRow:
    """One stage; all but `total_bytes` for one instance.

    queue_bytes    the inbound queue, with the one message by which it may be passed
    unacked_bytes  what is held until acked, over all links that leave the stage
    """

    stage: str
    instances: int
    queue_bytes: int
    unacked_bytes: int
    base_bytes: int

    @property
    def instance_bytes(self) -> int:
        return self.queue_bytes + self.unacked_bytes + self.base_bytes

    @property
    def total_bytes(self) -> int:
        return self.instances * self.instance_bytes


@dataclass(frozen=True)
class MemoryStatement:
    rows: tuple[MemoryRow, ...]

    @property
    def total_bytes(self) -> int:
        return sum(row.total_bytes for row in self.rows)


def worst_case(config: PipelineConfig) -> MemoryStatement:
    return MemoryStatement(tuple(_row(config, stage) for stage in config.stages.values()))


def _row(config: PipelineConfig, stage: StageConfig) -> MemoryRow:
    largest = LinkPolicy().max_message_bytes
    return MemoryRow(
        stage=stage.name,
        instances=stage.instances,
        queue_bytes=stage.queue.bytes + largest if stage.inputs else 0,
        unacked_bytes=len(config.consumers(stage.name)) * stage.unacked.bytes,
        base_bytes=BASE_BYTES,
    )
