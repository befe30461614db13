"""Connections of libzmq's, by their file descriptors: where they come from and what they belong to, which the kernel knows and
libzmq does not tell. Does not belong here: which of them is to end."""

from __future__ import annotations

import re
import socket as system_socket
from typing import Any

import zmq

_UNIX_PEER = re.compile(r"[^:]*:(\d+):\d+:(\d+)")


def sender_of(frame: Any) -> str:
    """Who sent a frame, as far as libzmq knows: by ipc "uid N, pid N", by tcp the host; "" if it knows nothing."""
    if frame is None:
        return ""
    try:
        address = str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        return ""
    found = _UNIX_PEER.fullmatch(address)
    return f"uid {found[1]}, pid {found[2]}" if found else plain(address)


def connection_of(frame: Any) -> int:
    """The descriptor of the connection by which a frame came; -1 if libzmq does not tell."""
    try:
        return int(frame.get(zmq.SRCFD)) if frame is not None else -1
    except zmq.ZMQError:
        return -1


def plain(address: str) -> str:
    """The address; one of IPv4 is given as such, even if a socket for both versions shows it as one of IPv6."""
    return address.removeprefix("::ffff:") if "." in address else address


def shut_down(fd: int) -> None:
    """Ends a connection of libzmq's. Raises OSError."""
    plug = system_socket.socket(fileno=fd)
    try:
        plug.shutdown(system_socket.SHUT_RDWR)  # to close it is libzmq's
    finally:
        plug.detach()


def connected_from(fd: int) -> str:
    """The address at the other end of a connection; "" if it is none, or gone."""
    try:
        plug = system_socket.socket(fileno=fd)
    except OSError:
        return ""
    try:
        return plain(str(plug.getpeername()[0]))
    except (OSError, IndexError):
        return ""
    finally:
        plug.detach()


def bound_to(fd: int) -> str | int | None:
    """The path or the port at this end of a connection, or of a socket that listens; None for any other descriptor."""
    try:
        plug = system_socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        if plug.type != system_socket.SOCK_STREAM:
            return None
        name = plug.getsockname()
        if plug.family == system_socket.AF_UNIX:
            return str(name)
        return int(name[1]) if plug.family in (system_socket.AF_INET, system_socket.AF_INET6) else None
    finally:
        plug.detach()
