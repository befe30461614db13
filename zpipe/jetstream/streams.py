"""What links have on the servers: a stream and its consumer for each, and the bucket of the pipeline. Made where it is missing.

Must not live here: what is put into them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from zpipe.jetstream.names import LinkNames

MAX_WAITING = 8192
"""Requests that may wait at a consumer. Each instance has at most a few, and 1,000 instances may share it."""
NO_PEERS, NAME_TAKEN = 10005, 10058
"""JetStream's codes for a stream that no servers can be found for, and for one that is there with other settings."""


@dataclass(frozen=True)
class StreamSettings:
    """How a link's stream is made."""

    names: LinkNames
    replicas: int
    max_bytes: int
    ack_wait_s: float


async def make(jetstream: Any, settings: StreamSettings) -> None:
    """Makes the stream, or gives it the settings that have changed. Sequences begin at the time in microseconds: so a stream that
    was deleted and is made anew has other numbers, and an ack for an old message cannot be taken for one of a new message."""
    from nats.js import api, errors

    wanted = api.StreamConfig(
        name=settings.names.stream,
        description=f"zpipe: {settings.names.pipeline}, {settings.names.text}",
        subjects=[settings.names.subjects],
        retention=api.RetentionPolicy.WORK_QUEUE,
        discard=api.DiscardPolicy.NEW,
        storage=api.StorageType.FILE,
        max_bytes=settings.max_bytes,
        num_replicas=settings.replicas,
        first_seq=time.time_ns() // 1000,
    )
    try:
        found = (await jetstream.stream_info(settings.names.stream)).config
    except errors.NotFoundError:
        try:
            await jetstream.add_stream(wanted)
        except errors.APIError as error:
            if error.err_code == NAME_TAKEN:  # another instance has just made it
                return
            if error.err_code != NO_PEERS:
                raise
            wants = f"{settings.replicas} servers with {settings.max_bytes >> 20} MiB of storage left in each"
            raise ValueError(f"{error.description}: the stream of {settings.names.text} needs {wants}") from None
        return
    if (found.max_bytes, found.num_replicas) != (wanted.max_bytes, wanted.num_replicas):
        await jetstream.update_stream(found.evolve(max_bytes=wanted.max_bytes, num_replicas=wanted.num_replicas))


async def make_consumer(jetstream: Any, settings: StreamSettings) -> None:
    from nats.js import api, errors

    wanted = api.ConsumerConfig(
        durable_name=settings.names.durable,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=settings.ack_wait_s,
        max_ack_pending=-1,
        max_deliver=-1,
        max_waiting=MAX_WAITING,
    )
    try:
        found = (await jetstream.consumer_info(settings.names.stream, settings.names.durable)).config
    except errors.NotFoundError:
        await jetstream.add_consumer(settings.names.stream, wanted)
        return
    if found.ack_wait != settings.ack_wait_s:
        await jetstream.add_consumer(settings.names.stream, found.evolve(ack_wait=settings.ack_wait_s))


async def bucket(jetstream: Any, name: str, replicas: int) -> Any:
    from nats.js import errors

    try:
        return await jetstream.key_value(name)
    except errors.BucketNotFoundError:
        return await jetstream.create_key_value(bucket=name, history=1, replicas=replicas)
