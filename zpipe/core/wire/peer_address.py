"""Addresses as text: what is an address, and whether two hosts are the same. Must not live here: resolving or opening one."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

TCP = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
MAX_SOCKET_PATH_BYTES = 107
"""sun_path holds 108 bytes, of which one is the closing zero."""


class ShownKey(NamedTuple):
    """What the sender of a frame has proved by its key: whose it is, and the key. Both are "" where there are no keys."""

    host: str = ""
    key: str = ""


NO_KEY = ShownKey()


def as_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that `host` is written as, in brackets or not. None for a name."""
    if host.lower() == "localhost":
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def tcp_parts(address: str) -> tuple[str, int]:
    """Host and port of an address that is known to be tcp://HOST:PORT."""
    found = TCP.fullmatch(address)
    assert found is not None, address
    return found[1], int(found[2])


def same_host(one: str, other: str) -> bool:
    """Whether both are the same address, or the same name."""
    mine, others = as_ip(one), as_ip(other)
    return mine == others if mine or others else one.lower() == other.lower()
