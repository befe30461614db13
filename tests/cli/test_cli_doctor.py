"""zpipe doctor: what stands in the way, with the cure; exit code 1 if anything does."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_types import Call, Write

from zpipe.config import load
from zpipe.errors import ExitCode, NoPeerError
from zpipe.operate import doctor
from zpipe.operate.doctor import _host_and_port
from zpipe.runtime import running_pipelines
from zpipe.runtime.locks import InstanceLock
from zpipe.runtime.places import Places

CONFIG = """
[pipeline]
name = "d"
port = {port}
[hosts.web1]
address = "127.0.0.1"
[hosts.web2]
address = "{other}"
[stages.read]
plugin = "generate"
host = "web1"
[stages.store]
input = "read"
plugin = "discard"
host = "web2"
{more}
"""


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> Path:
    monkeypatch.setenv("ZPIPE_KEYS_DIR", str(tmp_path / "keys"))
    monkeypatch.setenv("ZPIPE_HOST", "web1")
    call("keys", "new", "web1")
    call("keys", "trust", "web2 = " + "a" * 40)
    return tmp_path / "keys"


def findings(call: Call, config: Path | str) -> tuple[int, list[dict[str, Any]]]:
    said = call("doctor", config, "--json", "--timeout", "300ms")
    value = json.loads(said.stdout)
    assert value["ok"] == (said.return_value == 0)
    return said.return_value, value["findings"]


def wrong(found: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(one["area"], one["what"], one["cure"]) for one in found if one["verdict"] == "wrong"]


def test_nothing_is_in_the_way(call: Call, write: Write, keys: Path) -> None:
    code, found = findings(call, write(CONFIG.format(port=25000, other="127.0.0.1", more="port = 25500")))
    assert (code, wrong(found)) == (0, [])
    assert {"config", "names", "keys", "reach", "limits", "disks"} <= {one["area"] for one in found}
    [other] = [one for one in found if one["what"].startswith("store.1")]
    assert other["verdict"] == "warning" and "nobody listens at 127.0.0.1:25500 on web2" in other["what"]


def test_a_private_key_that_others_may_read(call: Call, write: Write, keys: Path) -> None:
    (keys / "web1.key").chmod(0o644)
    code, found = findings(call, write(CONFIG.format(port=25000, other="127.0.0.1", more="port = 25500")))
    assert code == ExitCode.FAILED
    assert [(area, cure) for area, _, cure in wrong(found)] == [("this host", f"chmod 600 {keys}/web1.key")]


def test_a_key_that_nobody_trusts(call: Call, write: Write, keys: Path) -> None:
    (keys / "trusted.toml").write_text(f"web1 = '{'b' * 40}'\nweb2 = []\n")
    code, found = findings(call, write(CONFIG.format(port=25000, other="127.0.0.1", more="port = 25500")))
    assert code == ExitCode.FAILED
    said = {what.partition(" here")[0]: cure for _, what, cure in wrong(found)}
    assert said["no key of web2 is trusted"].endswith("zpipe keys trust 'web2 = KEY'")
    assert any(cure.startswith("zpipe keys trust 'web1 = ") for cure in said.values())
    assert said["store.1 on web2 is not asked, since no key of web2 is trusted"] == "zpipe keys trust 'web2 = KEY'"


def test_a_host_that_is_none_of_the_pipelines(call: Call, write: Write, keys: Path) -> None:
    call("keys", "new", "laptop")
    config = write(CONFIG.format(port=25000, other="127.0.0.1", more="port = 25500"))
    said = call("doctor", config, "--host", "laptop", "--json", "--timeout", "300ms")
    what = "'laptop' is no host of pipeline 'd', which has web1, web2"
    cure = "say which of them this is by --host, or $ZPIPE_HOST"
    assert wrong(json.loads(said.stdout)["findings"]) == [("this host", what, cure)]


def test_a_name_that_has_no_address_and_a_service_of_somebody_else(call: Call, write: Write, keys: Path) -> None:
    _, found = findings(call, write(CONFIG.format(port=25000, other="no-such-host.invalid", more="")))
    assert next((area, what.partition(":")[0]) for area, what, _ in wrong(found)) == ("names", "web2")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        _, found = findings(call, write(CONFIG.format(port=25000, other="127.0.0.1", more=f"port = {port}")))
    assert [what for area, what, _ in wrong(found) if area == "reach"] == [
        f"store.1 on web2: somebody listens at 127.0.0.1:{port}, and sends no snapshot"
    ]


@pytest.mark.parametrize("runs", ['plugin = "discard"', 'command = ["node", "sink.js"]'])
def test_one_that_runs_and_is_not_heard_of(call: Call, write: Write, home: Path, runs: str) -> None:
    """A program may be one that publishes no snapshots, and then nothing is in the way."""
    config = write(
        f'[pipeline]\nname = "q"\n[stages.read]\nplugin = "generate"\n[stages.store]\ninput = "read"\n{runs}\n'
    )
    lock = InstanceLock(home / "r" / "q.store.1", "q.store.1")
    try:
        code, found = findings(call, config)
    finally:
        lock.release()
    [said] = [one for one in found if one["what"].startswith("store.1")]
    if runs.startswith("command"):
        assert (code, said["verdict"]) == (0, "warning")
        assert said["what"] == "store.1 runs and publishes no snapshot" and "section 17" in said["cure"]
    else:
        assert (code, said["verdict"], said["what"]) == (ExitCode.FAILED, "wrong", "store.1 runs and says nothing")


@pytest.mark.parametrize(
    ("error", "why", "cure"),
    [
        (ConnectionRefusedError(), "nobody listens at", "start it; if it runs, a firewall on web2 refuses"),
        (TimeoutError("timed out"), "no answer", "Let tcp 25500 to 25502 through its firewall"),
        (OSError(errno.ETIMEDOUT, "Connection timed out"), "no answer", "Let tcp 25500 to 25502 through"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route", "`ip route get 127.0.0.1` shows the way there"),
        (OSError(errno.ENETUNREACH, "unreachable"), "no route", "or [hosts.web2] address"),
        (OSError(errno.ENETDOWN, "Network is down"), "the network is down", "is web2 up, and on this network?"),
        (OSError(errno.EPERM, "Operation not permitted"), "not permitted", "this machine's own firewall"),
        (OSError(errno.ECONNRESET, "Connection reset by peer"), "reset by peer", "`nc -vz 127.0.0.1 25500`"),
        (
            socket.gaierror(-2, "Name or service not known"),
            "127.0.0.1 has no address",
            "a line in /etc/hosts, or in the DNS",
        ),
    ],
)
def test_each_way_not_to_reach_somebody_has_a_cure(
    call: Call, write: Write, keys: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, why: str, cure: str
) -> None:
    def refuse(*_: object) -> socket.socket:
        raise error

    monkeypatch.setattr(doctor.socket, "create_connection", refuse)
    _, found = findings(call, write(CONFIG.format(port=25000, other="127.0.0.1", more="port = 25500")))
    [said] = [one for one in found if one["what"].startswith("store.1")]
    assert (said["area"], said["verdict"]) == ("reach", "warning" if "listens" in why else "wrong")
    assert why in said["what"] and cure in said["cure"]


RUNNING = """
[pipeline]
name = "q"
[stages.read]
plugin = "generate"
[stages.store]
input = "read"
plugin = "http"
options = { url = "http://127.0.0.1:1/" }
"""


@pytest.fixture
def running(write: Write, home: Path) -> Iterator[Path]:
    """The config of a pipeline one instance of which runs, as far as its lock and its record say."""
    path = write(RUNNING)
    lock = InstanceLock(home / "r" / "q.store.1", "q.store.1")
    pipeline = load(path, only="")
    running_pipelines.write_record(Places(pipeline, os.environ), pipeline, "store", 1)
    yield path
    lock.release()


def about(found: list[dict[str, Any]], *areas: str) -> list[tuple[str, str]]:
    return [(one["verdict"], one["what"]) for one in found if one["area"] in areas]


def test_a_running_pipeline_is_found_by_its_name(call: Call, running: Path) -> None:
    """By what it runs by, and with the options that only the file has."""
    says_nothing = [("warning", "read.1 does not run"), ("wrong", "store.1 runs and says nothing")]
    unreached = "store: the service at 127.0.0.1:1 cannot be reached: Connection refused"
    for given in ("q", running):
        _, found = findings(call, given)
        assert about(found, "config", "reach", "services") == [
            ("ok", f"{running} is right, and its plugins can be loaded"),
            *says_nothing,
            ("wrong", unreached),
        ]
    running.write_text(RUNNING.replace("http", "discard", 1).replace("options", "#"))
    said = call("doctor", "q", "--json", "--timeout", "100ms")
    assert "is not what runs" in said.stderr and json.loads(said.stdout)["config"] == str(running)
    assert about(json.loads(said.stdout)["findings"], "reach", "services") == says_nothing
    running.unlink()
    _, found = findings(call, "q")
    assert [verdict for verdict, _ in about(found, "config")] == ["wrong"]
    assert about(found, "reach") == says_nothing


def test_a_name_that_nothing_has(call: Call, home: Path) -> None:
    said = call("doctor", "q").exception
    assert isinstance(said, NoPeerError) and "no pipeline 'q' runs here" in str(said)


def test_mistakes_of_the_config_are_findings(call: Call, write: Write, keys: Path) -> None:
    code, found = findings(call, write("[pipeline]\nname = 3\n"))
    assert code == ExitCode.FAILED
    assert {area for area, _, _ in wrong(found)} == {"config"}


def test_services_of_plugins_are_looked_for_where_they_run(call: Call, write: Write, keys: Path) -> None:
    """Those of this host only, and nothing of a URL is said but host and port."""
    service = """
[stages.ask]
plugin = "http"
input = "read"
host = "web1"
options = {{ url = "http://user:hunter2@127.0.0.1:{port}/{{id}}" }}
[stages.other]
plugin = "http"
input = "ask"
host = "web2"
options = {{ url = "http://127.0.0.1:1/" }}
"""

    def services(port: int) -> list[tuple[str, str]]:
        more = "port = 25500" + service.format(port=port)
        said = call(
            "doctor", write(CONFIG.format(port=25000, other="127.0.0.1", more=more)), "--json", "--timeout", "100ms"
        )
        assert "hunter2" not in said.stdout + said.stderr
        found = json.loads(said.stdout)["findings"]
        return [(one["verdict"], one["what"]) for one in found if one["area"] == "services"]

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert services(port) == [("ok", f"ask: somebody listens at 127.0.0.1:{port}")]
    [(verdict, what)] = services(port)
    assert verdict == "wrong" and what == f"ask: the service at 127.0.0.1:{port} cannot be reached: Connection refused"


@pytest.mark.parametrize(
    ("service", "found"),
    [
        ("redis://db", ("db", 6379)),
        ("nats://[::1]:4333", ("::1", 4333)),
        ("db:3306", ("db", 3306)),
        ("https://example.org/{id}", ("example.org", 443)),
        ("unix:///run/redis.sock", None),
        ("nonsense", None),
        ("http://x:99999999", None),
    ],
)
def test_the_address_of_a_service_is_read(service: str, found: tuple[str, int] | None) -> None:
    assert _host_and_port(service) == found
