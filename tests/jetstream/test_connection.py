"""What is said to a NATS server, and what people are told where one cannot be used. The server is a few lines of its protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from zpipe.config.pipeline_config import NatsSecurity
from zpipe.jetstream import connection
from zpipe.jetstream.access import Access, AccessError

SECRET = "the-password"
INFO: dict[str, Any] = {"server_id": "s", "version": "2.10.27", "max_payload": 1 << 20, "headers": True, "proto": 1}
SEED = "SUAMFNLMINJ5YTDGH3O2SZOFCWQKPFUVRT5ILWJEJBUUP7BZBY4JTRN2OQ"


def meet(answer: bytes, scheme: str = "nats", proof: NatsSecurity | None = None, **info: Any) -> tuple[str, bytes]:
    """(what is in the way, what was said to a server that answers so to whatever is said)."""
    told = bytearray()

    def serve() -> None:
        line, _ = listening.accept()
        with line, suppress(ConnectionError):
            line.sendall(b"INFO " + json.dumps({**INFO, **info}).encode() + b"\r\n")
            while some := line.recv(1 << 16):
                told.extend(some)
                line.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60.0)
        port = listening.getsockname()[1]
        server = threading.Thread(target=serve)
        server.start()
        access = Access((f"{scheme}://127.0.0.1:{port}",), proof or NatsSecurity("me", SECRET))
        problem = asyncio.run(_attempt(access)).replace(str(port), "PORT")
        server.join(60.0)
    return problem, bytes(told)


async def _attempt(access: Access) -> str:
    """What is in the way, "" if nothing is."""
    try:
        client = await connection.connect(access, lambda said: None)
    except AccessError as error:
        await asyncio.sleep(0)  # a line that was given up is closed in the loop's next turn
        return str(error)
    await client.close()
    return ""


def test_a_server_without_tls_is_told_nothing_where_the_config_says_tls() -> None:
    problem, told = meet(b"PONG\r\n", "tls")
    assert problem.startswith("127.0.0.1:PORT: it has no TLS, and `servers` says tls://")
    assert told == b""


def test_a_server_of_nats_is_told_who_asks() -> None:
    problem, told = meet(b"PONG\r\n")
    assert problem == "" and SECRET.encode() in told


@pytest.mark.parametrize(
    ("proof", "words"),
    [
        (NatsSecurity("me", SECRET), "correct `username` and `password` in [security.nats]"),
        (NatsSecurity(token=SECRET), "correct `token` in [security.nats]"),
        (NatsSecurity(), "takes nobody who does not say who asks"),
    ],
)
def test_a_refusal_says_what_to_correct_and_no_secret(proof: NatsSecurity, words: str) -> None:
    problem, _ = meet(b"-ERR 'Authorization Violation'\r\n", proof=proof)
    assert words in problem and "Authorization Violation" in problem and SECRET not in problem


def test_nobody_is_named_with_what_is_in_the_way_at_each_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = sorted(closed.getsockname()[1] for closed in (one, other))
    servers = tuple(f"nats://127.0.0.1:{port}" for port in ports)
    with pytest.raises(AccessError) as raised:
        asyncio.run(connection.connect(Access(servers, NatsSecurity()), lambda said: None))
    assert raised.value.reason == f"{', '.join(f'127.0.0.1:{port}' for port in ports)}: nobody listens there"
    assert raised.value.cure == "start the server, or correct `servers` of the link"


def credentials(expires: float | None = None) -> str:
    claims = {"sub": "U", **({"exp": expires} if expires is not None else {})}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"-----BEGIN NATS USER JWT-----\na.{payload}.c\n---\n-----BEGIN USER NKEY SEED-----\n{SEED}\n---\n"


def test_credentials_that_have_ended_are_named_with_the_day(tmp_path: Path) -> None:
    path = tmp_path / "me.creds"
    path.write_text(credentials(1000.0))
    problem, told = meet(
        b"-ERR 'Authorization Violation'\r\n", proof=NatsSecurity(credentials=path), nonce="x", auth_required=True
    )
    assert "the credentials ended at 1970-01-01" in problem and "replace the file" in problem
    assert b'"jwt":"a.' in told.replace(b'": "', b'":"') and SEED.encode() not in told


def _nothing(path: Path) -> None:
    """It is not there."""


FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no credentials": ("credentials", _nothing, "cannot be read: No such file"),
    "other credentials": ("credentials", lambda path: path.write_text("hello\n"), "has no JWT and seed"),
    "cut credentials": ("credentials", lambda path: path.write_text(credentials().partition("SEED")[0]), "has no JWT"),
    "a folder": ("credentials", lambda path: path.mkdir(), "cannot be read: Is a directory"),
    "no nkey": ("nkey", _nothing, "cannot be read: No such file"),
    "another nkey": ("nkey", lambda path: path.write_text("SUABC\n"), "has no seed of a user"),
    "no ca": ("ca", _nothing, "cannot be read: No such file"),
    "another ca": ("ca", lambda path: path.write_text("hello\n"), "has no certificate"),
    "no cert": ("cert", _nothing, "cannot be read: No such file"),
    "another cert": ("cert", lambda path: path.write_text("hello\n"), "has no certificate with its key"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_does_not_do_is_named_with_its_key(what: str, tmp_path: Path) -> None:
    key, make, words = FILES[what]
    make(path := tmp_path / "file")
    with pytest.raises(AccessError) as raised:
        Access(("nats://127.0.0.1:1",), NatsSecurity(**{key: path})).connect_arguments()
    assert f"`{key}` of [security.nats]: {path} {words}" in raised.value.reason and raised.value.cure


def test_an_nkey_is_read_from_its_file(tmp_path: Path) -> None:
    (path := tmp_path / "nk").write_text(f"# made by nk\n{SEED}\n")
    assert Access(("nats://h",), NatsSecurity(nkey=path)).connect_arguments() == {"nkeys_seed_str": SEED}
