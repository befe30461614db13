from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from zpipe import Context, Message, Reject, Retry, Throttled
from zpipe.errors import OperatorError
from zpipe_plugins.web.http import Http, Options


class Service(BaseHTTPRequestHandler):
    """Answers as the path says: /status/N; /echo tells what came; /raw/TYPE gives the request's body back as TYPE."""

    protocol_version = "HTTP/1.1"
    told: dict[str, str] = {}  # noqa: RUF012 (headers for the answers of /status)

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        sent = self.rfile.read(length)
        path = self.path.split("?")[0].split("/")
        status, kind, body = 200, "application/json", sent
        if path[1] == "status":
            status, kind, body = int(path[2]), "text/plain", b"in other\nwords"
        elif path[1] == "raw":
            kind = "/".join(path[2:])
        elif path[1] == "slow":
            self.server.released.wait(20)  # type: ignore[attr-defined]
        else:
            seen = {"method": self.command, "path": self.path, "headers": dict(self.headers), "sent": sent.decode()}
            body = json.dumps(seen).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in self.told.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Service)
        self.released = threading.Event()

    def handle_error(self, *_: Any) -> None:
        """A client that has gone away is no error here."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def base(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """As the daemon has it: on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def ask(make_context: Any, loop: asyncio.AbstractEventLoop) -> Iterator[Callable[..., Any]]:
    opened: list[tuple[Http, Context]] = []

    def ask(payload: Any, url: str, **options: Any) -> Any:
        plugin, context = Http(), make_context(Options(url, **options), last=False)
        run(loop, plugin.open(context))
        opened.append((plugin, context))
        return run(loop, plugin.process(Message(payload), context))

    yield ask
    for plugin, context in opened:
        run(loop, plugin.close(context))


def run(loop: asyncio.AbstractEventLoop, hook: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(hook, loop).result(30)


def test_fields_of_the_url_are_quoted(ask: Any, base: str) -> None:
    found = ask({"id": "a/b?c=d&é", "n": 7, "full": True}, base + "/items/{id}?n={n}&full={full}&brace={{}}")
    assert found["status"] == 200
    assert found["body"]["path"] == "/items/a%2Fb%3Fc%3Dd%26%C3%A9?n=7&full=true&brace={}"
    assert found["id"] == "a/b?c=d&é"


def test_a_payload_may_bring_its_own_url(ask: Any, base: str) -> None:
    assert ask({"url": f"{base}/a/b?c=d", "x": "/"}, "{url}")["body"]["path"] == "/a/b?c=d"
    assert ask({"base": base, "x": "/"}, "{base}/{x}")["body"]["path"] == "/%2F"


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({}, "field 'id', which the url needs, is missing or null"),
        ({"id": None}, "is missing or null"),
        ("text", "is missing or null"),
        ({"id": [1]}, "is a list: allowed are text and numbers"),
        ({"id": ".."}, "would lead to another path"),
    ],
)
def test_a_message_without_a_url_is_rejected(ask: Any, base: str, payload: Any, said: str) -> None:
    with pytest.raises(Reject, match=said):
        ask(payload, base + "/items/{id}")


def test_no_url_at_all_is_rejected(ask: Any) -> None:
    for url in ("ftp://host/x", "nothing"):
        with pytest.raises(Reject, match="no URL that can be asked"):
            ask({"url": url}, "{url}")


def test_bodies(ask: Any, base: str) -> None:
    payload = {"text": "é", "blob": b"\x00", "list": [1]}
    del (plain := dict(payload))["blob"]
    posted = ask(plain, base, method="POST")["body"]
    assert json.loads(posted["sent"]) == plain
    assert posted["headers"]["Content-Type"] == "application/json"
    assert posted["method"] == "POST"
    assert ask(plain, base)["body"]["sent"] == ""
    assert ask(plain, base, method="PUT", body="none")["body"]["sent"] == ""
    text = ask(payload, base, method="POST", body="field:text", headers={"X-Key": "k"})["body"]
    assert (text["sent"], text["headers"]["Content-Type"]) == ("é", "text/plain; charset=utf-8")
    assert text["headers"]["X-Key"] == "k"
    own = ask(payload, base, method="POST", body="field:text", headers={"content-type": "text/csv"})["body"]
    assert [v for k, v in own["headers"].items() if k.lower() == "content-type"] == ["text/csv"]
    assert ask(payload, base, method="POST", body="field:list")["body"]["sent"] == "[1]"
    assert ask(payload, base + "/raw/image/png", method="POST", body="field:blob")["body"] == b"\x00"
    with pytest.raises(Reject, match="cannot be sent as JSON"):
        ask(payload, base, method="POST")
    with pytest.raises(Reject, match="field 'nope', which is to be sent, is missing"):
        ask(payload, base, method="POST", body="field:nope")


def test_answers(ask: Any, base: str) -> None:
    def raw(kind: str, text: str) -> Any:
        return ask({"t": text}, f"{base}/raw/{kind}", method="POST", body="field:t", field="got")["got"]

    assert raw("application/problem+json", '{"a": [1]}') == {"a": [1]}
    assert raw("text/html", "<p>") == "<p>"
    assert raw("image/png", "\x00") == b"\x00"
    assert raw("text/plain", "") is None
    with pytest.raises(Retry, match="says that it is JSON, but"):
        raw("application/json", "{")
    assert ask(5, base + "/status/302") == {"payload": 5, "status": 302, "body": "in other\nwords"}
    assert ask({}, base + "/status/200", method="HEAD")["body"] is None


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(429, Throttled), (503, Throttled), (408, Retry), (500, Retry), (501, Retry), (504, Retry), (400, Reject)],
)
def test_what_a_status_means(ask: Any, base: str, status: int, verdict: type[Exception]) -> None:
    with pytest.raises(verdict, match=f"^{status} ") as caught:
        ask({}, f"{base}/status/{status}")
    assert f"/status/{status}" in str(caught.value)
    assert verdict is Throttled or str(caught.value).endswith(": in other words")


def test_lists_of_statuses(ask: Any, base: str) -> None:
    lists: Any = {"throttle": [420], "retry": [404], "reject": [202, 503]}
    for status, verdict in ((420, Throttled), (404, Retry), (202, Reject), (503, Reject), (429, Reject)):
        with pytest.raises(verdict):
            ask({}, f"{base}/status/{status}", **lists)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({}, None),
    ],
)
def test_retry_after(
    ask: Any, base: str, told: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Service, "told", told)
    monkeypatch.setattr(Service, "date_time_string", lambda *_: told.get("Date", "Wed, 21 Oct 2015 07:29:00 GMT"))
    monkeypatch.setattr(Service, "told", {k: v for k, v in told.items() if k != "Date"})
    with pytest.raises(Throttled) as throttled:
        ask({}, base + "/status/429")
    assert throttled.value.retry_after == seconds
    with pytest.raises(Retry) as retry:
        ask({}, base + "/status/500")
    assert retry.value.delay == seconds


def test_nobody_answers(ask: Any, base: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(Retry, match="ConnectError"):
            ask({}, f"http://127.0.0.1:{unused.getsockname()[1]}/x")
    with pytest.raises(Retry, match=r"no answer from .* within 0\.05 s"):
        ask({}, base + "/slow", timeout=0.05)


def test_closing_closes_the_connections(make_context: Any, base: str, loop: asyncio.AbstractEventLoop) -> None:
    plugin, context = Http(), make_context(Options(base), last=False)
    run(loop, plugin.close(context))  # it has not been opened
    run(loop, plugin.open(context))
    run(loop, plugin.process(Message({}), context))
    run(loop, plugin.close(context))
    assert plugin._client.is_closed


def test_without_httpx_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    plugin = Http()
    with pytest.raises(OperatorError, match=r"it needs httpx, .*: pip install 'zpipe-stages\[http\]'"):
        plugin.check(Options("http://x"), tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "api/{id}"}, "must start with http:// or https://, or with a field"),
        ({"url": "http://x/{"}, "url is 'http://x/{'"),
        ({"url": "http://x/{id!r}"}, "only the name of a field may stand"),
        ({"url": "http://x/{}"}, "only the name of a field may stand"),
        ({"url": "http://x/{a[0]}"}, "only the name of a field may stand"),
        ({"url": "http://x", "body": "text"}, "allowed are 'json', 'none' and 'field:NAME'"),
        ({"url": "http://x", "timeout": 0}, "timeout is 0"),
        ({"url": "http://x", "retry": [429]}, "429 stands in throttle and in retry"),
        ({"url": "http://x", "reject": [4040]}, "reject has 4040"),
        ({"url": "http://x", "headers": {"A": "b\nc"}}, "text without line breaks"),
    ],
)
def test_mistakes_in_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace("[", r"\[").replace("{", r"\{")):
        Options(**options)
