"""The addresses in a config (`listen`): reading and checking them. Does not belong here: resolving a host name, opening a
socket."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from zpipe import folders
from zpipe.config.pipeline_config import StageConfig
from zpipe.config.reading.mistakes import MistakeReport
from zpipe.config.reading.values import refused
from zpipe.core.wire.peer_address import MAX_SOCKET_PATH_BYTES, TCP, as_ip, same_host

WITHOUT_KEYS = "read messages, take the place of a stage, and pause or drain it"
"""What anybody can do who reaches an address that has no keys."""
_LONGEST_SOCKET_NAME = "inbox-123456789012.sock"


class Address(NamedTuple):
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        ip = as_ip(self.host)
        return ip.is_loopback if ip else False

    @property
    def is_wildcard(self) -> bool:
        ip = as_ip(self.host)
        return ip.is_unspecified if ip else False

    def clashes(self, other: Address, ports: int = 2) -> bool:
        """Whether the two cannot both be bound on one machine. Each address takes so many ports: its own and those after it."""
        return abs(self.port - other.port) < ports and same_host(self.host, other.host)


def parse(text: str) -> Address:
    """Reads tcp://HOST:PORT. Raises ValueError if `text` is anything else."""
    found = TCP.fullmatch(text)
    # The control socket takes PORT + 1, so 65535 cannot be given.
    if found is None or not 1 <= int(found.group(2)) <= 65534:
        raise refused('"tcp://HOST:PORT" with a PORT from 1 to 65534 (control uses PORT + 1)', text)
    address = Address(found.group(1), int(found.group(2)))
    looks_numeric = address.host.startswith("[") or re.fullmatch(r"[0-9.]+", address.host)
    if looks_numeric and as_ip(address.host) is None:
        raise ValueError(f"holds no valid IP address: {address.host}")
    return address


def read_listen(given: object) -> str:
    """Reads one element of `listen`, and returns it as it was given."""
    if not isinstance(given, str):
        raise refused('a string "tcp://HOST:PORT"', given)
    parse(str(given))
    return str(given)


def check(
    pipeline: str, stages: Iterable[StageConfig], insecure: bool, env: Mapping[str, str], report: MistakeReport
) -> None:
    """Reports addresses that cannot work: too few, for no one machine, without keys, taken twice, or too long for a socket."""
    listening: list[tuple[str, str, Address]] = []
    for stage in stages:
        if report.has_mistake_at("stages", stage.name, "listen"):
            continue
        if not stage.listen or stage.hosts:
            _check_socket_path(pipeline, stage, env, report)
        if stage.hosts:
            _check_ports(stage, listening, report)
            continue
        if stage.listen and len(stage.listen) < stage.instances:
            problem = f"has {len(stage.listen)} for {stage.instances} instances; each instance needs an address"
            report.add(("stages", stage.name, "listen"), problem, given=list(stage.listen))
        for index, text in enumerate(stage.listen):
            address = parse(text)
            path = ("stages", stage.name, "listen", index)
            if address.is_wildcard:
                problem = f"{text} is every address of its machine, and the others connect to what stands here"
                report.add(path, f"{problem}: name the one by which they reach it", given=text)
            elif not insecure:
                who = "every user of this machine" if address.is_loopback else "everybody on the network"
                problem = f"{text} has no keys, so {who} could {WITHOUT_KEYS}"
                cure = 'place the stage on a `host` that has a key, or set "insecure = true" in [security]'
                report.add(path, f"{problem}; {cure} to allow that", given=text)
            for other, other_text, other_address in listening:
                if address.clashes(other_address):
                    problem = f"{text} clashes with {other_text} of {other}: each uses PORT and PORT + 1"
                    report.add(path, problem, given=text)
                    break
            listening.append((stage.name, text, address))


def _check_ports(stage: StageConfig, listening: list[tuple[str, str, Address]], report: MistakeReport) -> None:
    """Reports the first instance whose ports another has on the same host."""
    mine = [(stage.name, text, parse(text)) for text in stage.listen]
    for _, text, address in mine:
        for other, other_text, other_address in listening:
            if address.clashes(other_address, ports=3):
                problem = f"{text} clashes with {other_text} of {other}: each instance uses PORT to PORT + 2"
                report.add(("stages", stage.name, "port"), f"{problem}; state another `port`", given=stage.port)
                return
    listening += mine


def describe_insecurity(stages: Iterable[StageConfig], insecure: bool) -> str:
    """A sentence that says what `insecure` means for these stages; "" if none of them has a tcp address."""
    listening = [parse(text) for stage in stages for text in stage.listen]
    if not listening or not insecure:
        return ""
    local = all(address.is_loopback for address in listening)
    who = "every user of this machine" if local else "everybody who reaches one over the network"
    return f"insecure: the tcp addresses have no keys, so {who} can {WITHOUT_KEYS}"


def _check_socket_path(pipeline: str, stage: StageConfig, env: Mapping[str, str], report: MistakeReport) -> None:
    path = (
        folders.runtime_root(env) / folders.instance_name(pipeline, stage.name, stage.instances) / _LONGEST_SOCKET_NAME
    )
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH_BYTES:
        problem = f"the path of its sockets would have {length} bytes, at most {MAX_SOCKET_PATH_BYTES} can be: {path}"
        report.add(("stages", stage.name), f"{problem}; shorten the names, or set $ZPIPE_RUNTIME_DIR to a shorter path")
