"""What the config of a stage means for its core: the policy. Must not live here: reading the config."""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path

from zpipe.config import PipelineConfig, StageConfig, parse_address
from zpipe.core.jetstream import parcel
from zpipe.core.policy import ConsumerPolicy, LinkPolicy, StagePolicy

SPARE_CONSUMERS = 128
"""Instances of a consumer stage that may be started beside those of the config. Their sessions take 512 file descriptors, which
is half of the least limit that systems have."""


def stage_policy(
    config: PipelineConfig, settings: StageConfig, runtime_root: Path, hooks: Container[str] = (), host: str = ""
) -> StagePolicy:
    """The policy of one stage, whose instances have their sockets in `runtime_root`, and whose plugin has the `hooks`. `host` is
    the host that this instance runs on, or ""."""
    peer_timeout_s = config.peer_timeout_s
    return StagePolicy(
        queue=settings.queue,
        unacked=settings.unacked,
        retry=settings.retry,
        dead=settings.dead,
        batch=settings.batch,
        limit=settings.limit,
        link=LinkPolicy(
            peer_timeout_s=peer_timeout_s,
            heartbeat_s=min(1.0, peer_timeout_s / 4),
            codec=settings.codec,
            max_message_bytes=most_message_bytes(config, settings.name),
        ),
        consumers={
            name: _consumer_policy(config, config.stages[name], runtime_root, host)
            for _, name in config.consumers(settings.name)
        },
        workers=settings.workers.count,
        isolated=settings.workers.kind == "process",
        interval_s=config.interval_s,
        tick_s=settings.tick_s if "zpipe_tick" in hooks else None,
        flushes="zpipe_flush" in hooks,
    )


def most_message_bytes(config: PipelineConfig, stage: str) -> int:
    """A larger message cannot leave the stage: a NATS server takes 1 MiB, with the parcel's head."""
    streams = any(config.stages[name].link is not None for _, name in config.consumers(stage))
    return parcel.BODY_BYTES if streams else LinkPolicy.max_message_bytes


def _consumer_policy(config: PipelineConfig, consumer: StageConfig, runtime_root: Path, host: str) -> ConsumerPolicy:
    """Which hellos of that consumer are accepted. A stage with tcp addresses has as many instances as addresses. The runtime
    folder may be named by a symbolic link to it, so its real path counts, too."""
    folders = tuple(dict.fromkeys((str(runtime_root), os.path.realpath(runtime_root))))
    if consumer.listen:
        hosts = tuple(dict.fromkeys(parse_address(address).host for address in consumer.listen))
        here = folders if host and host in consumer.hosts else ()
        placed = consumer.hosts if config.has_keys else ()
        return ConsumerPolicy(len(consumer.listen), len(consumer.listen), hosts, here, placed)
    return ConsumerPolicy(consumer.instances + SPARE_CONSUMERS, None, (), folders)


def hold_refusal(settings: StageConfig) -> str:
    """Why this stage may not hold messages; "" if it may. A release names messages of earlier calls, so those must be over and
    must have been made in this process."""
    workers = settings.workers
    if workers.kind == "thread" and workers.count == 1:
        return ""
    return f"context.hold(...) needs workers of kind thread with count = 1, not {workers.count} of kind {workers.kind}"
