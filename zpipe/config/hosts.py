"""The hosts of a pipeline: reading [hosts.NAME] and `host`, and what follows from them for each stage: ports and addresses. Does
not belong here: resolving a name, opening a socket, a private key."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import Any

from zpipe.config.pipeline_config import HostConfig, StageConfig
from zpipe.config.reading import values
from zpipe.config.reading.mistakes import MistakeReport
from zpipe.config.reading.table_reader import TableReader
from zpipe.core.wire.peer_address import as_ip
from zpipe.plugin_loading import nearest_name

PORTS_OF_STAGE = 100
"""From the ports of one stage to those of the next in the file, so that an instance more does not move those of other stages."""
PORTS_OF_INSTANCE = 3
"""PORT is its feedback, PORT + 1 its control, PORT + 2 its inbox."""
_ADDRESS = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+")
_KEY_CHARACTERS = 40


def read_hosts(table: TableReader, trusted: Mapping[str, tuple[str, ...]]) -> dict[str, HostConfig]:
    """All [hosts.NAME] tables. `trusted`: more public keys, by name."""
    found: dict[str, HostConfig] = {}
    for name in table.values:
        try:
            values.name(name)
        except ValueError as problem:
            table.report.add((*table.path, name), f"the name of a host {problem}", given=name)
        inner = table.table(name)
        address = inner.get("address", _read_address, "")
        keys = tuple(inner.get_list("key", read_public_key)) if "key" in inner else ()
        inner.allow("key")
        inner.report_unknown_keys()
        found[name] = HostConfig(name, address, tuple(dict.fromkeys((*keys, *trusted.get(name, ())))))
    _check_keys(found.values(), table.report)
    return found


def read_public_key(given: Any) -> str:
    """A public key as `zpipe keys` prints it: 32 bytes in the 40 characters of ZeroMQ's Z85."""
    allowed = "a public key of 40 characters, as `zpipe keys list` shows it"
    if not isinstance(given, str) or not is_key(given):
        raise values.refused(allowed, given)
    return str(given)


def is_key(text: str) -> bool:
    return re.fullmatch(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}", text) is not None


def read_placement(given: Any) -> tuple[str, int | None]:
    """One element of `host`: the name of a host, and how many instances run there, where that is said."""
    if isinstance(given, str) and given:
        return str(given), None
    if isinstance(given, dict) and given.keys() <= {"name", "instances"} and isinstance(given.get("name"), str):
        count = given.get("instances")
        return str(given["name"]), None if count is None else values.whole_number(most=1000)(count)
    raise values.refused('the name of a host, or { name = "NAME", instances = N }', given)


def place(
    stages: Mapping[str, StageConfig],
    hosts: Mapping[str, HostConfig],
    trusted: Container[str],
    first_port: int,
    insecure: bool,
    report: MistakeReport,
) -> dict[str, StageConfig]:
    """The stages with their ports, and with the addresses by which other hosts reach them. Reports what keeps them from it.

    trusted  hosts of which the file of trusted keys speaks. One that has no key there was dropped, which is no mistake: then
             nobody of that host is let in
    """
    placed = any(stage.hosts for stage in stages.values())
    made = {}
    for index, (name, stage) in enumerate(stages.items()):
        path = ("stages", name)
        if stage.port and not stage.hosts:
            report.add((*path, "port"), "is for a stage that has a `host`", given=stage.port)
        if placed and not stage.hosts and not report.has_mistake_at(*path, "host"):
            report.add(
                (*path, "host"), f"is required where other stages have one; hosts are {', '.join(hosts) or 'none'}"
            )
        if stage.hosts and stage.listen:
            problem = "follows from `host`: leave it out, or state `port`"
            report.add((*path, "listen"), problem, given=list(stage.listen))
        unknown = [host for host in dict.fromkeys(stage.hosts) if host not in hosts]
        for host in unknown:
            problem = f"there is no host {host!r}; [hosts] has {', '.join(hosts) or 'none'}"
            report.add((*path, "host"), problem, given=host, nearest=nearest_name(host, hosts))
        if stage.hosts and not unknown and len(hosts) > 1:
            port = stage.port or first_port + PORTS_OF_STAGE * index
            stage = replace(stage, port=port, listen=tuple(_addresses(stage, hosts, port, report)))
        made[name] = stage
    if len(hosts) > 1:
        used = {host: stage.name for stage in stages.values() for host in stage.hosts}
        _check_used(used, hosts, insecure, trusted, report)
    return made


def _addresses(stage: StageConfig, hosts: Mapping[str, HostConfig], port: int, report: MistakeReport) -> Iterable[str]:
    on_host = dict.fromkeys(hosts, 0)
    for name in stage.hosts:
        own = port + PORTS_OF_INSTANCE * on_host[name]
        on_host[name] += 1
        if own + PORTS_OF_INSTANCE > 65536:
            report.add(
                ("stages", stage.name, "port"), f"leaves no ports below 65536 for its instances: {own}", given=port
            )
            return
        if hosts[name].address:
            yield f"tcp://{hosts[name].address}:{own}"


def _check_used(
    used: Mapping[str, str],
    hosts: Mapping[str, HostConfig],
    insecure: bool,
    trusted: Container[str],
    report: MistakeReport,
) -> None:
    """Hosts that stages run on. Others only look on and operate, and need no address."""
    for name, stage in used.items():
        host = hosts.get(name)
        if host is None or report.has_mistake_at("hosts", name):
            continue
        if not host.address:
            report.add(("hosts", name, "address"), f"is required, since stage {stage!r} runs there and others reach it")
        if not host.keys and not insecure and name not in trusted:
            cure = f"`zpipe keys new {name}` on it makes one, and `zpipe keys trust` takes it in here"
            report.add(("hosts", name, "key"), f'is required: {cure}; or set "insecure = true" in [security]')


def _check_keys(hosts: Iterable[HostConfig], report: MistakeReport) -> None:
    owners: dict[str, str] = {}
    for host in hosts:
        for key in host.keys:
            if owners.setdefault(key, host.name) != host.name:
                problem = f"has a key that {owners[key]} has too: a key tells who somebody is"
                report.add(("hosts", host.name, "key"), problem, given=key)


def _read_address(given: Any) -> str:
    allowed = "a host name or an IP address, an IPv6 one in brackets, without a port"
    if not isinstance(given, str) or not _ADDRESS.fullmatch(given):
        raise values.refused(allowed, given)
    ip = as_ip(given)
    if ip is None and (given.startswith("[") or re.fullmatch(r"[0-9.]+", given)):
        raise ValueError(f"is no valid IP address: {given}")
    if ip is not None and ip.is_unspecified:
        raise ValueError(f"{given} is every address of its machine: name the one by which the others reach it")
    return str(given)
