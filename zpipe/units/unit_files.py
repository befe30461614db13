"""What the unit files of a pipeline say: texts by path, made from its config. Does not belong here: reading or writing one
(`install`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from zpipe.config import Address, PipelineConfig, StageConfig, parse_address
from zpipe.config.loading import credentials_for
from zpipe.core.wire.peer_address import as_ip
from zpipe.folders import SYSTEM_CONFIGS
from zpipe.units.unit_names import Unit, config_path

TEMPLATE = "zpipe@.service"
MONITOR = "zpipe-monitor@.service"
"""The template of the unit that serves a pipeline's metrics. It is there only if the config says where they are served."""
PROGRAM = "/opt/zpipe/bin/zpipe"
"""The path of the program in the shipped templates."""
DROP_IN = "50-pipeline.conf"
NETWORK = "PrivateNetwork=no"
"""The line of a drop-in that gives a unit the network."""
SPARE = 8
"""Instances up to this number have drop-ins, so that one more can be started without new files."""
_ANYWHERE = [
    "# Narrow it in a drop-in of your own: IPAddressDeny=any, and IPAddressAllow= with the hosts of the pipeline.",
    "IPAddressDeny=",
]
_PLAIN = re.compile(r"[A-Za-z0-9_./+:@-]+")


def target_name(pipeline: str) -> str:
    return f"zpipe-{pipeline}.target"


def service_name(unit: Unit) -> str:
    return f"zpipe@{unit}.service"


def monitor_name(pipeline: str) -> str:
    return f"zpipe-monitor@{pipeline}.service"


def drop_in_path(service: str) -> str:
    return f"{service}.d/{DROP_IN}"


def is_drop_in_of(pipeline: str, path: str) -> bool:
    """Whether `path` is a drop-in that `zpipe units` wrote for an instance or for the monitor of the pipeline."""
    pattern = rf"zpipe@{re.escape(pipeline)}\.[A-Za-z0-9_-]+\.[0-9]+\.service\.d/{re.escape(DROP_IN)}"
    return path == drop_in_path(monitor_name(pipeline)) or re.fullmatch(pattern, path) is not None


def files(
    config: PipelineConfig, templates: Mapping[str, str], program: str, host: str = "", encrypted: bool = False
) -> dict[str, str]:
    """All files of a pipeline, by path below the folder of unit files. `templates` has the shipped ones, by name.

    host       the one that they are for, if the pipeline has hosts;  encrypted: its private key is kept so
    """
    wanted = [TEMPLATE, MONITOR] if config.prometheus else [TEMPLATE]
    made = {name: templates[name].replace(PROGRAM, quoted(program)) for name in wanted}
    made[target_name(config.name)] = _target(config, host)
    key = _key(config, host, encrypted)
    if config.prometheus:
        made[drop_in_path(monitor_name(config.name))] = _monitor_drop_in(config, config.prometheus, host, key)
    for stage in config.stages.values():
        for service in _services(config, stage, _highest_instance(stage), host):
            made[drop_in_path(service)] = _drop_in(config, stage, host, key)
    return made


def _key(config: PipelineConfig, host: str, encrypted: bool) -> list[str]:
    if not config.has_keys:
        return []
    name = f"{host}.key"
    if encrypted:
        return ["# The private key of this host, from /etc/credstore.encrypted.", f"LoadCredentialEncrypted={name}"]
    return ["# The private key of this host.", f"LoadCredential={name}:{SYSTEM_CONFIGS / 'keys' / name}"]


def quoted(program: str) -> str:
    """The path of a program as ExecStart= needs it. Raises ValueError if it cannot be written there."""
    if "\n" in program or not program.startswith("/"):
        raise ValueError(f"the path of the program must be absolute and of one line, not {program!r}")
    escaped = program.replace("%", "%%").replace("$", "$$")
    if _PLAIN.fullmatch(program):
        return escaped
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _highest_instance(stage: StageConfig) -> int:
    """The highest number of an instance that can be started without a change of the config."""
    if not stage.inputs:
        return 1  # each instance of a head would read the whole source
    if stage.hosts:
        return len(stage.hosts)
    return len(stage.listen) if stage.listen else max(SPARE, stage.instances)


def _services(config: PipelineConfig, stage: StageConfig, count: int, host: str) -> list[str]:
    """Of the instances on the host, up to that number."""
    numbers = [n for n in range(1, count + 1) if config.host_of(stage.name, n) in ("", host)]
    return [service_name(Unit(config.name, stage.name, n)) for n in numbers]


def _target(config: PipelineConfig, host: str) -> str:
    services = [_services(config, stage, stage.instances, host) for stage in config.stages.values()]
    wanted = [f"Wants={' '.join(of_stage)}" for of_stage in services if of_stage]
    if config.prometheus:
        wanted.append(f"Wants={monitor_name(config.name)}")
    return "\n".join(
        [
            f"# Written by `zpipe units {config_path(config.name)}`, which replaces it.",
            "",
            "[Unit]",
            f"Description=zpipe pipeline {config.name}",
            *wanted,
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        ]
    )


def _of_target(config: PipelineConfig) -> list[str]:
    written = (
        f"# Written by `zpipe units {config_path(config.name)}`, which replaces it. Put settings of your own beside it."
    )
    return [written, "", "[Unit]", f"PartOf={target_name(config.name)}"]


def _environment(config: PipelineConfig, stage: str) -> list[str]:
    file = config_path(config.name).with_suffix(".env")
    lines = ["", "[Service]", "# Values for ${VAR} in the config.", f"EnvironmentFile=-{file}"]
    if credentials := credentials_for(config, stage):
        lines.append(
            "# Values for ${credential:NAME}, from /etc/credstore. Encrypted ones need a LoadCredentialEncrypted= of your own."
        )
    return lines + [f"LoadCredential={name}" for name in credentials]


def _drop_in(config: PipelineConfig, stage: StageConfig, host: str, key: list[str]) -> str:
    consumers = dict.fromkeys(name for _, name in config.consumers(stage.name))
    downstream = [config.stages[name] for name in consumers]
    lines = _of_target(config)
    services = [_services(config, one, _highest_instance(one), host) for one in downstream]
    if any(services):
        lines.append("# Starts after the stages it sends to, and so stops before them: the head stops first.")
        lines += [f"After={' '.join(of_stage)}" for of_stage in services if of_stage]
    addresses = _addresses(config, stage, downstream)
    what = (
        "the pipeline has other hosts."
        if stage.hosts
        else "`listen` of this stage or of a neighbour has tcp addresses."
    )
    reasons = [what] if addresses else []
    if stage.traits.needs_network:
        reasons.append("its plugin needs the network.")
    if config.traces:
        reasons.append("it sends traces.")
        addresses = [*addresses, _collector(config.traces)]
    everywhere = stage.traits.needs_network or not all(address.is_loopback for address in addresses)
    if everywhere:
        lines += ["Wants=network-online.target", "After=network-online.target"]
    lines += [*_environment(config, stage.name), *key]
    if reasons:
        lines += [
            "",
            *(f"# Open: {reason}" for reason in reasons),
            NETWORK,
            "# AF_NETLINK: libzmq lists the network interfaces when it binds, and aborts if it may not.",
            "RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK",
        ]
        only_hosts = [] if stage.traits.needs_network or config.traces else _host_addresses(config)
        lines += only_hosts or (_ANYWHERE if everywhere else ["IPAddressAllow=localhost"])
    return "\n".join([*lines, ""])


def _host_addresses(config: PipelineConfig) -> list[str]:
    """Narrows the network to the hosts of the pipeline, where each of them has an IP address in the config."""
    addresses = [as_ip(host.address) if host.address else None for host in config.hosts.values()]
    if not addresses or None in addresses:
        return []
    return [
        "# The hosts of the pipeline, and nobody else.",
        f"IPAddressAllow=localhost {' '.join(map(str, addresses))}",
    ]


def _collector(url: str) -> Address:
    host = urlsplit(url).hostname or ""
    return Address(f"[{host}]" if ":" in host else host, 0)


def _monitor_drop_in(config: PipelineConfig, prometheus: str, host: str, key: list[str]) -> str:
    stages = [address for stage in config.stages.values() for address in stage.listen]
    named = [f"Environment=ZPIPE_HOST={host}"] if host else []
    lines = [*_of_target(config), *_environment(config, ""), *named, *key]
    if not all(parse_address(address).is_loopback for address in (f"tcp://{prometheus}", *stages)):
        lines += ["", "# Open: it serves, or reaches stages, beyond this machine.", *_ANYWHERE]
    return "\n".join([*lines, ""])


def _addresses(config: PipelineConfig, stage: StageConfig, downstream: list[StageConfig]) -> list[Address]:
    """The tcp addresses that a stage binds or connects to: its own, and those of its neighbours."""
    upstream = [config.stages[entry.stage] for entry in stage.inputs]
    return [parse_address(address) for one in (stage, *upstream, *downstream) for address in one.listen]
