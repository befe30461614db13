"""An upper estimate of the memory a pipeline may take. Does not belong here: anything that does not follow from the bounds in
the config."""

from __future__ import annotations

from typing import NamedTuple

from zpipe.config.pipeline_config import PipelineConfig
from zpipe.core.policy import MIB, LinkPolicy

BASE_BYTES = 30 * MIB
"""What an idle daemon takes: the interpreter, zmq and a first-party plugin. What other plugins hold is not known here."""


class MemoryRow(NamedTuple):
    """The estimate for one stage. All but `total_bytes` is for one of its instances.

    queue_bytes    the inbound queue, and the one message by which its bound may be exceeded
    unacked_bytes  what is held until it is acked, over all links that leave the stage
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


def estimate_memory(config: PipelineConfig) -> list[MemoryRow]:
    largest = LinkPolicy().max_message_bytes
    return [
        MemoryRow(
            stage=stage.name,
            instances=stage.instances,
            queue_bytes=stage.queue.bytes + largest if stage.inputs else 0,
            unacked_bytes=len(config.consumers(stage.name)) * stage.unacked.bytes,
            base_bytes=BASE_BYTES,
        )
        for stage in config.stages.values()
    ]
