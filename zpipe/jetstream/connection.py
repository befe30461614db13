"""A connection to one server of a NATS cluster, and in words why there is none. The only module that makes the client.

Choosing a server, and what a failure means for people, belong here. Must not live here: streams, and when to try again.
"""

from __future__ import annotations

import errno
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from typing import Any

from zpipe.jetstream import access
from zpipe.jetstream.access import Access, AccessError

CONNECT_S = 2.0
"""How long a server has to answer before the next one is tried."""
_REFUSED = ("authorization violation", "authentication timeout", "authentication expired", "account authentication")
_RIGHTS = "permissions violation"
_EXPIRED, _WRONG_HOST = {9, 10}, {62, 64}
"""Codes of OpenSSL for a certificate."""
NOT_ENABLED = frozenset({10039, 10076})
"""JetStream's codes where it is not enabled: for this account, and in the whole cluster."""
_ASYNCIO_NOISE = "returning true from eof_received()"
Refused = Callable[[str], object]
"""Is called with what the server says when it refuses a subject."""


async def connect(
    to: Access, refused: Refused, closed: Callable[[], Awaitable[None]] | None = None, **more: Any
) -> Any:
    """The client, connected to the first server that answers, in an order by chance. Takes up to CONNECT_S for each.

    Raises AccessError: what is in the way at each of the servers.
    """
    arguments = to.connect_arguments()
    _silence_asyncio()

    async def failed(error: Exception) -> None:
        if _RIGHTS in str(error).lower():
            refused(words_of(error))

    problems: dict[str, list[str]] = {}
    cures: set[str] = set()
    for server in random.sample(to.servers, len(to.servers)):
        client = _client_class()(access.is_encrypted(server))
        try:
            await client.connect(
                servers=[server],
                allow_reconnect=False,
                connect_timeout=CONNECT_S,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                error_cb=(watch := _FirstError(failed)).heard,
                **({"closed_cb": closed, "disconnected_cb": closed} if closed is not None else {}),
                **arguments,
                **more,
            )
        except Exception as error:  # whatever is in the way, of the network, of TLS, of what the server says
            reason, cure = _reason(watch.first or error, server, to)
            problems.setdefault(reason, []).append(access.shown(server))
            cures.add(cure)
            with suppress(Exception):  # the client's own `close` may wait for ever if a connection could not be opened
                client._transport.close()
        else:
            return client
    # In the order of the config, so that the same trouble has the same words.
    found = {reason: [one for one in map(access.shown, to.servers) if one in at] for reason, at in problems.items()}
    told = "; ".join(sorted(f"{', '.join(servers)}: {reason}" for reason, servers in found.items()))
    raise AccessError(told, "; or ".join(sorted(cures)))


class _FirstError:
    """Keeps the first error that the client reports. What its `connect` raises in the end says only that there is no server."""

    def __init__(self, told: Callable[[Exception], Awaitable[None]]) -> None:
        self.first: Exception | None = None
        self._told = told

    async def heard(self, error: Exception) -> None:
        self.first = self.first or error
        await self._told(error)


@cache
def _client_class() -> Any:
    from nats.aio.client import Client

    class Encrypted(Client):  # type: ignore[misc]
        """Sends passwords and the like to a server with tls:// only over an encrypted connection. The client as it is would send
        them to any server that claims to have no TLS."""

        def __init__(self, must: bool) -> None:
            super().__init__()
            self._must = must

        def _connect_command(self) -> bytes:
            if self._must and not self._server_info.get("tls_required"):
                raise _Unencrypted
            return super()._connect_command()  # type: ignore[no-any-return]

    if not hasattr(Client, "_connect_command"):
        raise AccessError("this nats-py is not known: it might say a password in the clear", "install another version")
    return Encrypted


class _Unencrypted(OSError):
    """An OSError, which the client's `connect` takes for the loss of the connection."""


def _reason(error: Exception, server: str, to: Access) -> tuple[str, str]:
    """What stands in the way at a server, and the cure."""
    said = words_of(error)
    if isinstance(error, _Unencrypted):
        return (
            "it has no TLS, and `servers` says tls://: nothing was said to it",
            "give it TLS, or correct `servers` of the link",
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return _distrust(error)
    if isinstance(error, ssl.SSLError):
        cure = "`cert` and `key` of [security.nats] have to be signed by whom the servers trust"
        return f"TLS fails: {said}", cure
    if any(words in said.lower() for words in _REFUSED):
        return _refusal(said, to)
    if isinstance(error, TimeoutError):
        return (
            f"no answer in {CONNECT_S:g} s",
            "start the server, let its port through the firewall, or correct `servers` of the link",
        )
    if isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in said:
        return "nobody listens there", "start the server, or correct `servers` of the link"
    if "connection lost" in said.lower() or isinstance(error, ConnectionResetError | BrokenPipeError):
        cure = "its log says why" + "; if it asks for a certificate, give `cert` in [security.nats]" * (
            to.security.cert is None
        )
        return "it has closed the connection", cure
    if isinstance(error, OSError):
        return error.strerror or said, "start the server, or correct `servers` of the link"
    return said, "its log says more"


def _distrust(error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    said = error.verify_message.rstrip(".")
    if error.verify_code in _EXPIRED:
        return f"its certificate is not to be trusted: {said}", "give the server a new one; or the clock here is wrong"
    if error.verify_code in _WRONG_HOST:
        return f"its certificate is that of another: {said}", "name it in `servers` as its certificate does"
    cure = "`ca` of [security.nats] has to be the certificate of whoever signed it"
    return f"its certificate is not to be trusted: {said}", cure


def _refusal(said: str, to: Access) -> tuple[str, str]:
    ends_at = to.expired_at()
    if ends_at is not None and ends_at < time.time():
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ends_at))
        return f"it refuses us ({said}): the credentials ended at {when}", "replace the file: the next try reads it"
    if to.means:
        return f"it refuses us ({said})", f"correct {to.means} in [security.nats], or the users of the servers"
    return f"it takes nobody who does not say who asks ({said})", "say it in [security.nats]"


def closed_problem(error: Exception | None, to: Access) -> AccessError:
    """Why a connection that stood has ended."""
    said = words_of(error) if error is not None else ""
    if any(words in said.lower() for words in _REFUSED):
        return AccessError(*_refusal(said, to))
    return AccessError(f"the connection is lost: {said}" if said else "the server has closed the connection", "")


def rights_problem(said: str) -> AccessError:
    """The problem when the server refuses a subject; `said`: its words."""
    return AccessError(f"the user may not do what links need: {said}", "docs/jetstream.md, Rights, has what it needs")


def jetstream_problem(error: BaseException | None) -> AccessError:
    """The problem when JetStream answers with an error, or not at all."""
    from nats import errors
    from nats.js import errors as jetstream_errors

    code = error.err_code if isinstance(error, jetstream_errors.ServiceUnavailableError) else 0
    if code is None or code in NOT_ENABLED:
        cure = "the servers need `jetstream { … }` in their configuration, and the user an account that may use it"
        return AccessError("there is no JetStream" if code is None else words_of(error), cure)
    if isinstance(error, (TimeoutError, errors.TimeoutError, errors.NoRespondersError)):
        cure = "most of the servers have to be up, and to have elected a leader"
        return AccessError("JetStream does not answer", cure)
    return AccessError(words_of(error), "")


def words_of(error: BaseException | None) -> str:
    """What the client or the server says, on one line; if that is nothing, the type of the exception."""
    description = getattr(error, "description", None)
    said = str(description or error or "").removeprefix("nats: ").strip("'")
    if isinstance(error, ssl.SSLError):
        said = (error.reason or said).replace("_", " ").lower()
    return " ".join(said.split()) or type(error).__name__


@cache
def _silence_asyncio() -> None:
    """Leaves out a warning of asyncio's about the client, which comes whenever a TLS connection is closed."""
    logging.getLogger("asyncio").addFilter(lambda record: not str(record.msg).startswith(_ASYNCIO_NOISE))
