"""Keys on real sockets: who is let in, what either end is told of a refusal, and what becomes of connections by a dropped key."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from zpipe.core.wire.peer_address import ShownKey
from zpipe.errors import OperatorError
from zpipe.transport import keyring
from zpipe.transport.arrival import Arrival, sender
from zpipe.transport.curve import KeyPair, Refusal, TrustedKeys, new_pair, pair_of
from zpipe.transport.sockets import Bound, Sockets

WEB1, WEB2, WEB3, OTHER = (new_pair() for _ in range(4))
DEADLINE_S = 60.0
PEER = ("read", 1)


def trusted(producers: tuple[str, ...] = (), **keys: tuple[str, ...]) -> TrustedKeys:
    return TrustedKeys(
        {"web1": (WEB1.public,), "web2": (WEB2.public,), "web3": (WEB3.public,)} | keys, frozenset(producers)
    )


def free_ports() -> int:
    """The first of three that are free now, below those that the kernel gives out by itself."""
    while True:
        first = random.randrange(15_000, 30_000, 4)
        with ExitStack() as stack, suppress(OSError):
            for port in range(first, first + 3):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


class Ends:
    """Two instances: `server` on web2 has bound its sockets, `client` on web1 connects to them."""

    def __init__(self, folder: Path, client: Sockets, server: Sockets) -> None:
        self.client, self.server = client, server
        self._folder = folder
        self.port = 0
        self.address = "127.0.0.1"

    def bind(self, address: str = "127.0.0.1") -> None:
        local = [f"ipc://{self._folder}/{name}" for name in ("inbox", "feedback", "control")]
        self.port = free_ports()
        remote = Bound(*(f"tcp://{address}:{self.port + more}" for more in (2, 0, 1)))
        self.server.bind(*local, high_water_mark=10, remote=remote)

    def connect(self, host: str = "web2") -> None:
        where = f"tcp://{self.address}"
        self.client.connect_upstream(PEER, f"{where}:{self.port}", f"{where}:{self.port + 1}", host)

    def until(self, done: Callable[[list[Arrival], list[Arrival]], object]) -> tuple[list[Arrival], list[Arrival]]:
        """Polls both until `done(at the client, at the server)`."""
        client: list[Arrival] = []
        server: list[Arrival] = []
        end = time.monotonic() + DEADLINE_S
        while not done(client, server):
            assert time.monotonic() < end, (client, server)
            client += self.client.poll(0.01)
            server += self.server.poll(0.01)
        return client, server


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Ends]]:
    made: list[Sockets] = []

    def make(
        client: KeyPair | None = WEB1,
        at_client: TrustedKeys | None = None,
        server: KeyPair | None = WEB2,
        at_server: TrustedKeys | None = None,
        bound: str = "127.0.0.1",
    ) -> Ends:
        made.extend(Sockets(pair, keys or trusted()) for pair, keys in ((client, at_client), (server, at_server)))
        ends = Ends(tmp_path, *made)
        ends.bind(bound)
        return ends

    yield make
    for sockets in made:
        sockets.close()


def kinds(arrivals: list[Arrival]) -> list[str]:
    return [arrival.what for arrival in arrivals]


def refusals(arrivals: list[Arrival]) -> list[Refusal]:
    return [arrival.key for arrival in arrivals if arrival.what == "refusal"]


def test_a_key_shows_whose_frames_these_are(make: Callable[..., Ends]) -> None:
    ends = make()
    ends.connect()
    ends.until(lambda client, server: "up" in kinds(client))
    assert ends.client.tell(PEER, b"hello")
    _, server = ends.until(lambda client, server: "feedback" in kinds(server))
    [frame] = [arrival for arrival in server if arrival.what == "feedback"]
    assert ends.server.shown_key(frame) == ShownKey("web1", WEB1.public)


def test_over_ipc_no_key_is_asked_for(make: Callable[..., Ends], tmp_path: Path) -> None:
    ends = make()
    ends.client.connect_upstream(PEER, f"ipc://{tmp_path}/feedback", f"ipc://{tmp_path}/control")
    ends.until(lambda client, server: "up" in kinds(client))
    assert ends.client.tell(PEER, b"hello")
    _, server = ends.until(lambda client, server: "feedback" in kinds(server))
    assert ends.server.shown_key(next(one for one in server if one.what == "feedback")) == ShownKey()


@pytest.mark.parametrize(
    ("client", "at_client", "server", "at_server", "told", "noted"),
    [
        (OTHER, None, WEB2, None, "unknown key", "unknown key"),
        (WEB1, trusted(web2=(OTHER.public,)), WEB2, None, "wrong server key", "wrong server key"),
        (None, None, WEB2, None, "no keys", "broken off"),
        (WEB1, None, WEB2, trusted(web1=()), "unknown key", "unknown key"),
    ],
    ids=["unknown client", "wrong server key", "no key", "dropped key"],
)
def test_either_end_learns_why(
    make: Callable[..., Ends],
    client: KeyPair | None,
    at_client: TrustedKeys | None,
    server: KeyPair,
    at_server: TrustedKeys | None,
    told: str,
    noted: str,
) -> None:
    ends = make(client, at_client, server, at_server)
    ends.connect()
    at, by = ends.until(lambda client, server: refusals(client) and refusals(server))
    assert {one.problem for one in refusals(at)} == {told}
    assert {one.by_peer for one in refusals(at)} == {True}
    assert {one.problem for one in refusals(by)} <= {noted, "no keys"}
    # A connection may be gone before anybody could ask the kernel where it came from.
    assert {one.where for one in refusals(by)} <= {"127.0.0.1", "somebody"}
    assert {one.by_peer for one in refusals(by)} == {False}
    if noted == "unknown key" and client is not None:
        assert {one.key for one in refusals(by)} == {client.public}
    assert "up" not in kinds(at) and "feedback" not in kinds(by)


@pytest.mark.needs("IPv6")
@pytest.mark.parametrize(
    ("bound", "address", "known"),
    [
        ("[::1]", "[::1]", "::1"),
        ("*", "[::1]", "::1"),
        ("*", "127.0.0.1", "127.0.0.1"),
        ("*", "localhost", "127.0.0.1"),
    ],
)
def test_a_peer_is_shown_by_the_address_that_it_has(
    make: Callable[..., Ends], bound: str, address: str, known: str
) -> None:
    """Whatever it connects by: a socket of both versions of IP takes in an IPv4 address as one of IPv6."""
    ends = make(bound=bound)
    ends.address = address
    ends.connect()
    ends.until(lambda client, server: "up" in kinds(client))
    assert ends.client.unreached() == {}
    assert ends.client.tell(PEER, b"hello")
    _, server = ends.until(lambda client, server: "feedback" in kinds(server))
    assert [sender(one) for one in server if one.what == "feedback"] == [known]
    assert ends.client.open_session(b"s", f"tcp://{address}:{ends.port + 2}", 10, WEB2.public)
    _, by = ends.until(lambda client, server: refusals(server) and refusals(client))
    assert {one.where for one in refusals(by)} == {"web1"}, "no stage before this one runs there"


def test_a_peer_that_is_not_there_is_said_to_be_unreached(make: Callable[..., Ends]) -> None:
    ends = make()
    ends.connect()
    [(peer, (address, seconds))] = ends.client.unreached().items()
    assert (peer, address) == (PEER, f"tcp://127.0.0.1:{ends.port}") and seconds >= 0.0
    ends.until(lambda client, server: "up" in kinds(client))
    assert ends.client.unreached() == {}
    ends.server.close()
    while "down" not in kinds(list(ends.client.poll(0.01))):
        pass
    assert set(ends.client.unreached()) == {PEER}


def test_whoever_is_trusted_later_is_let_in_by_itself(make: Callable[..., Ends]) -> None:
    ends = make(at_server=trusted(web1=()))
    ends.connect()
    ends.until(lambda client, server: refusals(client))
    ends.server.trust(trusted())
    ends.until(lambda client, server: "up" in kinds(client))


def test_of_two_keys_of_a_server_either_is_right(make: Callable[..., Ends]) -> None:
    ends = make(at_client=trusted(web2=(OTHER.public, WEB2.public)))
    ends.connect()
    at, _ = ends.until(lambda client, server: "up" in kinds(client))
    assert not refusals(at)


def test_messages_are_taken_from_producers_only(make: Callable[..., Ends]) -> None:
    ends = make(client=WEB3, at_server=trusted(producers=("web1",)))
    assert ends.client.open_session(b"s", f"tcp://127.0.0.1:{ends.port + 2}", 10, WEB2.public)
    at, by = ends.until(lambda client, server: refusals(client) and refusals(server))
    assert refusals(by) == [Refusal("key of another", "web3", False, WEB3.public, "inbox")]
    assert refusals(at) == [Refusal("key of another", "web2", True, WEB2.public, "inbox")]
    assert "lost" in kinds(at) and "parcel" not in kinds(by)


def test_connections_of_a_dropped_key_end(make: Callable[..., Ends]) -> None:
    ends = make(at_server=trusted(producers=("web1",)))
    ends.connect()
    assert ends.client.open_session(b"s", f"tcp://127.0.0.1:{ends.port + 2}", 10, WEB2.public)
    ends.until(lambda client, server: {"up", "ready"} <= set(kinds(client)))
    assert ends.server.trust(trusted(web1=())) == [], "the server has no sessions of its own"
    at, _ = ends.until(lambda client, server: {"down", "lost"} <= set(kinds(client)) and refusals(client))
    assert {one.problem for one in refusals(at)} == {"unknown key"}
    ends.client.close_session(b"s")
    assert ends.client.trust(trusted(web2=())) == []
    assert not ends.client.tell(PEER, b"x")


def test_sessions_to_a_dropped_key_are_named(make: Callable[..., Ends]) -> None:
    ends = make(at_server=trusted(producers=("web1",)))
    assert ends.client.open_session(b"s", f"tcp://127.0.0.1:{ends.port + 2}", 10, WEB2.public)
    ends.until(lambda client, server: "ready" in kinds(client))
    assert ends.client.trust(trusted(web2=(OTHER.public,))) == [b"s"]


def test_a_private_key_has_its_public_one() -> None:
    assert pair_of(WEB1.secret) == WEB1
    assert keyring.pair_from("", "web1") is None
    with pytest.raises(OperatorError, match="private key of host 'web1'"):
        keyring.pair_from("x", "web1")
