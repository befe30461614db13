"""Stages in their sandbox: what needs the network has it, what does not is without, and who was forgotten says so at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from machine import MakePipeline, Service, events, run, shell, since

CONFIG = """
[pipeline]
name = "asks"

[stages.read]
plugin = "generate"
options = {{ rate = 100 }}

[stages.ask]
input = "read"
plugin = "http"
limit = {{ max = 10 }}
options = {{ url = "http://127.0.0.1:{port}/{{id}}" }}

[stages.store]
input = "ask"
plugin = "sqlite"
batch = {{ messages = 100, timeout = "100ms" }}
options = {{ path = "/var/lib/zpipe/data/asks.db", table = "t", key = "id" }}
"""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({"path": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """Of an HTTP server of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def interfaces(service: Service) -> set[str]:
    lines = Path(f"/proc/{service.pid}/net/dev").read_text().splitlines()[2:]
    return {line.partition(":")[0].strip() for line in lines}


def is_with_the_machine(service: Service) -> bool:
    return Path(f"/proc/{service.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()


def test_an_http_stage_works_in_its_unit_and_its_neighbours_have_no_network(make: MakePipeline, port: int) -> None:
    pipeline = make("asks", CONFIG.format(port=port))
    assert "needs the network: ask (zpipe units opens their units)" in shell("zpipe check /etc/zpipe/asks.toml")
    pipeline.start()
    pipeline.wait_more(300)
    ((bodies,),) = pipeline.query("SELECT count(*) FROM t WHERE status = 200 AND body LIKE '%/' || id || '%'")
    assert bodies >= 300
    assert json.loads(shell("zpipe dead list asks --json"))["count"] == 0
    assert is_with_the_machine(pipeline.service("ask"))
    for stage in ("read", "store"):
        service = pipeline.service(stage)
        assert service.get("PrivateNetwork") == "yes"
        assert not is_with_the_machine(service)
        assert interfaces(service) == {"lo"}
    pipeline.stop()
    pipeline.assert_exactly_once()


def test_a_unit_that_is_cut_off_does_not_start_and_says_why(make: MakePipeline, port: int) -> None:
    """As with drop-ins from before the plugin needed the network: no message is read, none becomes a dead letter."""
    pipeline = make("asks", CONFIG.format(port=port))
    ask = pipeline.service("ask")
    ask.drop_in("PrivateNetwork=yes\nRestrictAddressFamilies=\nRestrictAddressFamilies=AF_UNIX")
    after = since()
    run("systemctl", "daemon-reload")
    run("systemctl", "start", ask.name)
    assert ask.wait_state("failed")["ExecMainStatus"] == "2"
    assert ask.get("NRestarts") == "0"
    said = [line for line in events(after, ask.name) if "its plugin needs the network" in line]
    assert said and "zpipe units CONFIG --install" in said[0]
