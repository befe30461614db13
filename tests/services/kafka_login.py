"""A broker of Kafka that asks for a login and refuses each, as https://kafka.apache.org/protocol.html says: the mock cluster of
librdkafka knows no credentials. It answers the three requests of SASL/PLAIN, and nothing else.
"""

from __future__ import annotations

import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE = 18, 17, 36
SASL_AUTHENTICATION_FAILED = 58
REFUSAL = "Authentication failed: Invalid username or password"
WORKING_APIS = {0: 7, 1: 11, 3: 9, SASL_HANDSHAKE: 1, API_VERSIONS: 3, SASL_AUTHENTICATE: 0}
"""By key, the highest version; those that are not answered too, as a client asks for a broker that has them."""


class Login(socketserver.StreamRequestHandler):
    seen: ClassVar[list[bytes]] = []
    """What clients have sent as their logins."""

    def handle(self) -> None:
        while head := self.rfile.read(4):
            request = self.rfile.read(struct.unpack(">i", head)[0])
            key, version, correlation, client = struct.unpack(">hhih", request[:10])
            rest = request[10 + max(0, client) :]
            answer = self.answer(key, version, rest)
            if answer is None:
                return
            self.wfile.write(struct.pack(">ii", len(answer) + 4, correlation) + answer)
            if key == SASL_AUTHENTICATE:
                return  # as a broker does after a refusal

    def answer(self, key: int, version: int, rest: bytes) -> bytes | None:
        if key == API_VERSIONS and version >= 3:
            found = [struct.pack(">hhhB", api, 0, most, 0) for api, most in sorted(WORKING_APIS.items())]
            return struct.pack(">hB", 0, len(found) + 1) + b"".join(found) + struct.pack(">iB", 0, 0)
        if key == API_VERSIONS:
            found = [struct.pack(">hhh", api, 0, most) for api, most in sorted(WORKING_APIS.items())]
            return struct.pack(">hi", 0, len(found)) + b"".join(found) + (struct.pack(">i", 0) if version else b"")
        if key == SASL_HANDSHAKE:
            return struct.pack(">hih", 0, 1, len("PLAIN")) + b"PLAIN"
        if key == SASL_AUTHENTICATE:
            self.seen.append(rest[4:])
            return (
                struct.pack(">hh", SASL_AUTHENTICATION_FAILED, len(REFUSAL)) + REFUSAL.encode() + struct.pack(">i", 0)
            )
        return None


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextmanager
def refusing() -> Iterator[str]:
    """HOST:PORT of such a broker."""
    with _Server(("127.0.0.1", 0), Login) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
