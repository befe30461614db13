"""Reading what the config says of links over a NATS cluster: `link` of a stage, and `[security.nats]`. Does not belong here: the
connection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zpipe.config.pipeline_config import JetStreamLink, NatsSecurity, StageConfig
from zpipe.config.reading import values
from zpipe.config.reading.mistakes import MistakeReport
from zpipe.config.reading.table_reader import TableReader
from zpipe.config.reading.variable_expansion import Expanded
from zpipe.core.wire.peer_address import as_ip
from zpipe.errors import install_command

_SCHEMES = ("nats://", "tls://")
_WHO = ("username", "token", "credentials", "nkey")
"""Each says by itself who asks."""
_DEFAULT = JetStreamLink(())
LEAST_STREAM_BYTES = 16 * 2**20


def read_link(table: TableReader) -> JetStreamLink:
    """The `link` of a stage."""
    table.require("kind", values.choice("jetstream"), "jetstream")
    if "servers" not in table:
        table.report.add((*table.path, "servers"), "is required")
    link = JetStreamLink(
        servers=tuple(table.get_list("servers", _server)),
        replicas=table.get("replicas", values.whole_number(most=5), _DEFAULT.replicas),
        max_bytes=table.get("max_bytes", values.size, _DEFAULT.max_bytes),
        ack_wait_s=table.get("ack_wait", values.duration(), _DEFAULT.ack_wait_s),
        parcel_messages=table.get("parcel_messages", values.whole_number(most=1024), _DEFAULT.parcel_messages),
    )
    table.report_unknown_keys()
    if link.max_bytes < LEAST_STREAM_BYTES and not table.report.has_mistake_at(*table.path):
        problem = f"must be at least {values.show_size(LEAST_STREAM_BYTES)}: some parcels of 1 MiB with their headers"
        table.report.add((*table.path, "max_bytes"), problem, given=table.values["max_bytes"])
    return link


def _server(given: Any) -> str:
    if not isinstance(given, str) or not given.startswith(_SCHEMES) or "@" in given:
        raise values.refused(
            '"nats://HOST:PORT" or "tls://HOST:PORT", with user and password in [security.nats]', given
        )
    return str(given)


def read_security(table: TableReader, folder: Path) -> NatsSecurity:
    """`[security.nats]`: how the instances prove who they are. Paths are relative to the config file."""

    def path(given: Any) -> Path:
        return folder / values.string(given)

    def secret(given: Any) -> str:
        if not isinstance(given, Expanded) and "${" not in str(given):  # not expanded for whoever does not need it
            raise values.refused('a secret, by "${VAR}", "${file:PATH}" or "${credential:NAME}"', "a text in the file")
        return values.string(given)

    nats = NatsSecurity(
        username=table.get("username", values.string, ""),
        password=table.get("password", secret, ""),
        token=table.get("token", secret, ""),
        credentials=table.get("credentials", path, None),
        nkey=table.get("nkey", path, None),
        ca=table.get("ca", path, None),
        cert=table.get("cert", path, None),
        key=table.get("key", path, None),
    )
    table.report_unknown_keys()
    if nats.key is not None and nats.cert is None:
        table.report.add((*table.path, "key"), "is that of a `cert`, which is not there", given=str(nats.key))
    if nats.password and not nats.username:
        table.report.add((*table.path, "password"), "is that of a `username`, which is not there")
    who = [key for key in _WHO if getattr(nats, key)]
    for key in who[1:]:
        table.report.add((*table.path, key), f"says who asks, and so does `{who[0]}`: keep one of them")
    return nats


def check(stages: Mapping[str, StageConfig], insecure: bool, runs: bool, report: MistakeReport) -> None:
    """Reports links that cannot work between these stages, or that anybody could read. `runs`: this machine is to run a stage."""
    missing = runs and find_spec("nats") is None
    for stage in stages.values():
        link, path = stage.link, ("stages", stage.name, "link")
        if link is None:
            continue
        if not stage.inputs and not report.has_mistake_at("stages", stage.name, "input"):
            report.add(path, "is for a stage with an `input`: it says how that comes")
        foreign = [name for name in (stage.name, *_upstream(stage)) if name in stages and stages[name].command]
        if foreign:
            report.add(path, f"is for stages with a plugin; {foreign[0]} has a command, which speaks ZeroMQ")
        if missing:
            report.add(path, f"needs nats-py: {install_command('nats')}")
        for index, server in enumerate(link.servers):
            if server.startswith("nats://") and not insecure and not _is_loopback(server):
                problem = f"{server} is not encrypted, so everybody on the way can read and change what passes"
                cure = 'use tls:// (with `ca` in [security.nats], if need be), or set "insecure = true" in [security]'
                report.add((*path, "servers", index), f"{problem}; {cure}", given=server)


def _upstream(stage: StageConfig) -> Iterable[str]:
    return (entry.stage for entry in stage.inputs)


def _is_loopback(server: str) -> bool:
    host = server.partition("://")[2].partition("/")[0]
    ip = as_ip(host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host)
    return ip is not None and ip.is_loopback


def with_network(stages: Mapping[str, StageConfig]) -> dict[str, StageConfig]:
    """The stages at both ends of such a link reach the cluster, whatever their plugins need."""
    ends = {name for stage in stages.values() if stage.link is not None for name in (stage.name, *_upstream(stage))}
    return {
        name: replace(stage, traits=replace(stage.traits, needs_network=True)) if name in ends else stage
        for name, stage in stages.items()
    }


def advise(stages: Iterable[StageConfig], report: MistakeReport) -> None:
    """Warns of what a link may lose. What the servers themselves say is `zpipe doctor`'s."""
    for stage in stages:
        if stage.link is not None and stage.link.replicas < 3:
            loss = "with the disk of one server goes what is in the stream and is acked upstream"
            if stage.link.replicas == 2:
                loss = "while one of the two servers is down nothing can be stored"
            path = ("stages", stage.name, "link", "replicas")
            report.add(path, f"is {stage.link.replicas}: {loss}; 3 outlive any one server", given=stage.link.replicas)
