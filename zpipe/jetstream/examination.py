"""What a NATS cluster says of itself, for `zpipe doctor`. Does not belong here: what is to be thought of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from zpipe.jetstream import connection, names
from zpipe.jetstream.access import Access, AccessError
from zpipe.jetstream.names import LinkNames

ANSWER_S = 3.0
SERVERS_ANSWER_S = 0.3
_ASK_ALL = "$SYS.REQ.SERVER.PING.JSZ"
"""Every server answers this, but only to a user of the system account."""


class StreamFacts(NamedTuple):
    """The stream of a link. `missing`: servers that should have a copy of it and are offline or behind."""

    link: LinkNames
    replicas: int
    missing: list[str]
    parcels: int
    bytes: int


class ClusterFacts(NamedTuple):
    """`problem`, `cure`: why nothing else is known, and what to do; "" if there is no problem. `sync`: for each server, when it
    syncs to disk what it has acknowledged; empty: unknown."""

    problem: str = ""
    cure: str = ""
    server: str = ""
    version: str = ""
    max_payload: int = 0
    jetstream_problem: str = ""
    jetstream_cure: str = ""
    streams: Sequence[StreamFacts] = ()
    sync: dict[str, str] = {}  # noqa: RUF012 of a value that nobody changes


def examine(access: Access, links: Sequence[LinkNames]) -> ClusterFacts:
    """Connects, asks, and goes. Blocks for some seconds at most."""
    return asyncio.run(_examine(access, links))


async def _examine(access: Access, links: Sequence[LinkNames]) -> ClusterFacts:
    refused: list[str] = []
    try:
        client = await connection.connect(access, refused.append)
    except AccessError as error:
        return ClusterFacts(error.reason, error.cure)
    try:
        jetstream = client.jetstream(timeout=ANSWER_S)
        problem, cure, streams = "", "", []
        try:
            # A refusal of the subscription has come by the time that the next request is answered. A `flush` may overtake it.
            await client.subscribe(f"$KV.{names.bucket(links[0].pipeline)}.>")
            await jetstream.account_info()
            streams = [found for link in links if (found := await _stream(jetstream, link)) is not None]
            if refused:
                raise connection.rights_problem(refused[0])
        except Exception as error:
            known = connection.rights_problem(refused[0]) if refused else connection.jetstream_problem(error)
            problem, cure = known.reason, known.cure
        url = client.connected_url
        server = url.netloc.rpartition("@")[2] if url is not None else "?"
        version = str(client._server_info.get("version", ""))
        synced = await _sync(client)
        return ClusterFacts("", "", server, version, client.max_payload, problem, cure, streams, synced)
    finally:
        with suppress(Exception):
            await client.close()


async def _stream(jetstream: Any, link: LinkNames) -> StreamFacts | None:
    """The stream of the link; None if it is not there yet."""
    from nats.js import errors

    try:
        info = await jetstream.stream_info(link.stream)
    except errors.NotFoundError:
        return None
    others = info.cluster.replicas or [] if info.cluster is not None else []
    missing = [one.name for one in others if one.offline or not one.current]
    return StreamFacts(link, info.config.num_replicas or 1, missing, info.state.messages, info.state.bytes)


async def _sync(client: Any) -> dict[str, str]:
    """When each server syncs, which the servers tell only to the system account."""
    inbox, answers = client.new_inbox(), []

    async def answered(message: Any) -> None:
        with suppress(ValueError):
            answers.append(json.loads(message.data))

    subscription = await client.subscribe(inbox, cb=answered)
    await client.publish(_ASK_ALL, b"{}", reply=inbox)
    await client.flush()
    await asyncio.sleep(SERVERS_ANSWER_S)  # it is not known how many servers will answer
    await subscription.unsubscribe()
    found = {}
    for one in answers:
        config = (one.get("data") or {}).get("config")
        if isinstance(config, dict):
            interval_s = config.get("sync_interval", 0) / 1e9
            words = "always" if config.get("sync_always") else f"every {interval_s:g} s"
            found[str((one.get("server") or {}).get("name", "?"))] = words
    return found
