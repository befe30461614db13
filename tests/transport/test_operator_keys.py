"""A command that reads instances of its own host and of another, with keys."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from test_curve import WEB1, WEB2, free_ports, trusted

from zpipe.transport import keyring
from zpipe.transport.curve import TrustedKeys, new_pair
from zpipe.transport.operator_sockets import OperatorSockets
from zpipe.transport.sockets import Bound, Sockets

DEADLINE_S = 60.0
NEW = new_pair()


def test_instances_of_this_host_are_read_beside_those_of_another(tmp_path: Path) -> None:
    """In whichever order they are connected to: an option of libzmq's holds for all that a socket connects to after it."""
    port = free_ports()
    server = Sockets(WEB2, trusted())
    local = [f"ipc://{tmp_path}/{name}" for name in Bound._fields]
    remote = Bound(*(f"tcp://127.0.0.1:{port + more}" for more in (2, 0, 1)))
    server.bind(*local, high_water_mark=10, remote=remote)
    command = OperatorSockets(b"topic", pair=WEB1, trusted=trusted())
    copies: Counter[bytes] = Counter()
    try:
        command.connect(remote.control, "web2")
        command.connect(f"ipc://{tmp_path}/control")
        end = time.monotonic() + DEADLINE_S
        number = 0
        while 2 not in copies.values():  # one frame has come by both ways
            assert time.monotonic() < end, (copies, command.refused)
            list(server.poll(0.01))
            list(server.publish(b"topic", b"%d" % (number := number + 1)))
            copies.update(frame for _, frame in command.read(0.05))
        assert not command.refused
    finally:
        command.close()
        server.close()


@contextmanager
def changed_key(folder: Path) -> Iterator[tuple[Sockets, str]]:
    """An instance on web2, which has a new key since, and the address of its feedback."""
    port = free_ports()
    server = Sockets(NEW, trusted())
    server.bind(*(f"ipc://{folder}/{name}" for name in Bound._fields), high_water_mark=10, remote=remote_of(port))
    try:
        yield server, remote_of(port).feedback
    finally:
        server.close()


def remote_of(port: int, host: str = "127.0.0.1") -> Bound:
    return Bound(*(f"tcp://{host}:{port + more}" for more in (2, 0, 1)))


def both_keys() -> TrustedKeys:
    """As while web2 changes its key."""
    return TrustedKeys({"web1": (WEB1.public,), "web2": (WEB2.public, NEW.public)})


def serve(server: Sockets, until: threading.Event) -> None:
    while not until.is_set():
        for arrival in server.poll(0.01):
            if arrival.what == "feedback":
                server.reply(arrival.frames[0], b"answer to " + arrival.frames[1])


@contextmanager
def answering(server: Sockets) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=serve, args=(server, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_request_takes_the_key_that_the_host_has_by_now(tmp_path: Path) -> None:
    command = OperatorSockets(b"topic", pair=WEB1, trusted=both_keys())
    try:
        with changed_key(tmp_path) as (server, address), answering(server):
            assert command.ask(address, b"one", DEADLINE_S, "web2") == b"answer to one"
            assert not command.refused
            other = OperatorSockets(b"topic", pair=WEB1, trusted=both_keys())
            try:
                end, came = time.monotonic() + DEADLINE_S, None
                while came is None:
                    assert time.monotonic() < end, other.refused
                    came = other.post(address, b"two", "web2")
                    list(command.read(0.01))
                assert came == b"answer to two"
            finally:
                other.close()
    finally:
        command.close()


def test_keys_that_are_read_again_hold_from_then_on(tmp_path: Path) -> None:
    """Of a run that has gone on while the other host changed its key."""
    command = OperatorSockets(b"topic", pair=WEB1, trusted=trusted())
    try:
        with changed_key(tmp_path) as (server, address), answering(server):
            end = time.monotonic() + DEADLINE_S
            while command.refused.get(address) != "wrong server key":
                assert time.monotonic() < end
                assert command.post(address, b"one", "web2") is None
                list(command.read(0.01))
            command.trust(both_keys())
            while command.post(address, b"one", "web2") is None:
                assert time.monotonic() < end, command.refused
                list(command.read(0.01))
    finally:
        command.close()


def test_a_subscription_to_a_name_takes_the_key_that_the_host_has_by_now(tmp_path: Path) -> None:
    """libzmq, which connects again by itself, then calls it by its IP address."""
    command = OperatorSockets(b"topic", pair=WEB1, trusted=trusted())
    port = free_ports()
    [(_, _, _, _, (ip, *_)), *_] = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
    remote = remote_of(port, f"[{ip}]" if ":" in str(ip) else str(ip))
    name = remote_of(port, "localhost").control
    try:
        for pair, keys in ((WEB2, trusted()), (NEW, both_keys())):
            server = Sockets(pair, trusted())
            server.bind(*(f"ipc://{tmp_path}/{one}" for one in Bound._fields), high_water_mark=10, remote=remote)
            command.trust(keys)
            end, number = time.monotonic() + DEADLINE_S, 0
            try:
                while not list(command.read(0.01)):
                    assert time.monotonic() < end, command.refused
                    command.connect(name, "web2")
                    list(server.poll(0.01))
                    list(server.publish(b"topic", b"%d" % (number := number + 1)))
            finally:
                server.close()
        command.connect(name, "web2")
        assert not command.refused
    finally:
        command.close()


def test_a_command_that_is_not_known_is_told_what_to_run() -> None:
    said = keyring.words_of("unknown key", "web2", "web1 = KEY")
    assert (
        said
        == "web2 does not know this host's key: run `zpipe keys trust 'web1 = KEY'` on web2, and reload there (SIGHUP)"
    )
