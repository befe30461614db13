"""The numbers an instance runs by, from its config. May live here: making the core's policy of them."""

from __future__ import annotations

from zpipe.config import PipelineConfig, StageConfig
from zpipe.core.policy import LinkPolicy, StagePolicy


def stage_policy(config: PipelineConfig, settings: StageConfig) -> StagePolicy:
    """The policy of one stage."""
    peer_timeout_s = config.peer_timeout_s
    return StagePolicy(
        queue=settings.queue,
        unacked=settings.unacked,
        retry=settings.retry,
        dead=settings.dead,
        batch=settings.batch,
        limit=settings.limit,
        link=LinkPolicy(peer_timeout_s=peer_timeout_s, heartbeat_s=min(1.0, peer_timeout_s / 4)),
        workers=settings.workers.count,
        isolated=settings.workers.kind == "process",
        interval_s=config.interval_s,
    )
