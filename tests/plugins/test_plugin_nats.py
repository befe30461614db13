"""What the plugin says to a NATS server that it should not trust. The server is a few lines of its protocol."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from zpipe.errors import OperatorError
from zpipe_plugins.brokers.nats import _checked, _client_class

INFO = {"server_id": "s", "version": "2.10.27", "max_payload": 1 << 20, "headers": True, "proto": 1}


@pytest.mark.parametrize(("scheme", "told"), [("tls", False), ("nats", True)])
def test_no_password_is_said_to_a_server_of_tls_without_tls(scheme: str, told: bool) -> None:
    heard = bytearray()

    def serve() -> None:
        line, _ = listening.accept()
        with line, suppress(ConnectionError):
            line.sendall(b"INFO " + json.dumps(INFO).encode() + b"\r\n")
            while some := line.recv(1 << 16):
                heard.extend(some)
                line.sendall(b"PONG\r\n")

    async def attempt(port: int) -> None:
        async def quiet(error: Exception) -> None:
            """`connect` raises it."""

        client = _client_class()()
        with suppress(ConnectionError):
            url = f"{scheme}://127.0.0.1:{port}"
            await client.connect([url], user="me", password="secret", allow_reconnect=False, error_cb=quiet)
        await client.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60.0)
        server = threading.Thread(target=serve)
        server.start()
        asyncio.run(attempt(listening.getsockname()[1]))
        server.join(60.0)
    assert (b"secret" in heard) is told and bool(heard) is told


def test_a_file_that_has_no_credentials_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "me.creds").write_text("hello\n")
    with pytest.raises(OperatorError, match="has no JWT of a user"):
        _checked(path)
