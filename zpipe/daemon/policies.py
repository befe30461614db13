"""The numbers an instance runs by, from its config. May live here: making the core's policy of them."""

from __future__ import annotations

import os
from pathlib import Path

from zpipe.config import PipelineConfig, StageConfig, parse_address
from zpipe.core.policy import ConsumerPolicy, LinkPolicy, StagePolicy

SPARE_CONSUMERS = 128
"""Instances of a consumer stage that may be started beside those of the config. Their sessions take 512 file descriptors, which
is half of the least limit that systems have."""


def stage_policy(config: PipelineConfig, settings: StageConfig, runtime_root: Path) -> StagePolicy:
    """The policy of one stage, whose instances have their sockets in `runtime_root`."""
    peer_timeout_s = config.peer_timeout_s
    return StagePolicy(
        queue=settings.queue,
        unacked=settings.unacked,
        retry=settings.retry,
        dead=settings.dead,
        batch=settings.batch,
        limit=settings.limit,
        link=LinkPolicy(peer_timeout_s=peer_timeout_s, heartbeat_s=min(1.0, peer_timeout_s / 4)),
        consumers={
            name: consumer_policy(config.stages[name], runtime_root) for _, name in config.consumers(settings.name)
        },
        workers=settings.workers.count,
        isolated=settings.workers.kind == "process",
        interval_s=config.interval_s,
    )


def consumer_policy(consumer: StageConfig, runtime_root: Path) -> ConsumerPolicy:
    """Of a stage with tcp addresses, instances without one cannot be there. The runtime folder may be named by a link to it."""
    if consumer.listen:
        hosts = tuple(dict.fromkeys(parse_address(address).host for address in consumer.listen))
        return ConsumerPolicy(len(consumer.listen), len(consumer.listen), hosts, ())
    folders = tuple(dict.fromkeys((str(runtime_root), os.path.realpath(runtime_root))))
    return ConsumerPolicy(consumer.instances + SPARE_CONSUMERS, None, (), folders)
