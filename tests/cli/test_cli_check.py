from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import Result

from zpipe.config import load
from zpipe.errors import ConfigError, ExitCode

BAD = """
[pipeline]
name = "bad"
[stages.read]
plugin = "generat"
colour = 2001-02-03
[stages.sink]
input = "raed"
plugin = "discard"
instances = -1
"""


def test_a_right_config_is_ok_and_its_memory_is_told(call, good: Path) -> None:
    result: Result = call("check", good)
    assert result.return_value == ExitCode.DONE
    lines = result.stdout.splitlines()
    assert lines[0] == f"{good}: OK"
    assert lines[1].split() == ["stage", "instances", "queue", "unacked", "base", "at", "worst"]
    assert lines[3].split() == ["map", "2", "17", "MiB", "-", "30", "MiB", "94", "MiB"]
    assert lines[-1].split()[:2] == ["total", "4"]
    assert result.stderr == ""


def test_every_mistake_of_every_file_is_on_stderr(call, write, good: Path) -> None:
    bad = write(BAD, "bad.toml")
    result = call("check", bad, good, "none.toml")
    assert result.return_value == ExitCode.USAGE
    errors = result.stderr.splitlines()
    assert errors[0].startswith(f"{bad}:5: stages.read.plugin: ")
    assert errors[1].startswith(f"{bad}:6: stages.read.colour: ")
    assert any(line.startswith(f"{bad}:8: stages.sink.input") and "did you mean 'read'?" in line for line in errors)
    assert any(line.startswith(f"{bad}:10: stages.sink.instances: ") for line in errors)
    assert errors[-1].startswith("none.toml: ")
    assert result.stdout.splitlines()[0] == f"{good}: OK"


TRACED = """
[pipeline]
name = "traced"
[telemetry]
traces = "http://127.0.0.1:4318/v1/traces"
[stages.read]
plugin = "generate"
"""


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"])
def test_without_the_library_of_traces_it_says_what_to_install(
    call, write, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in [name for name in sys.modules if name.startswith(f"{missing}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    config = write(TRACED, "traced.toml")
    result = call("check", config)
    assert result.return_value == ExitCode.USAGE
    said = f"{config}:5: telemetry.traces: needs OpenTelemetry: pip install 'zpipe[otel]'"
    assert result.stderr.startswith(said)
    with pytest.raises(ConfigError, match="needs OpenTelemetry"):
        load(config, only="read")
    assert load(config, only="").traces, "whoever looks on needs no library"


def test_json(call, write, good: Path) -> None:
    bad = write(BAD, "bad.toml")
    result = call("check", "--json", good, bad)
    assert result.return_value == ExitCode.USAGE
    assert result.stderr == ""
    value = json.loads(result.stdout)
    assert set(value) == {"files"}
    right, wrong = value["files"]
    assert (right["file"], right["ok"], right["mistakes"]) == (str(good), True, [])
    assert right["memory"]["total_bytes"] == sum(row["total_bytes"] for row in right["memory"]["stages"])
    assert (wrong["ok"], wrong["memory"]) == (False, None)
    assert all(set(one) == {"file", "line", "key", "given", "problem", "nearest"} for one in wrong["mistakes"])
    by_key = {one["key"]: one for one in wrong["mistakes"]}
    assert by_key["stages.read.colour"]["given"] == "2001-02-03"
    assert by_key["stages.sink.instances"]["given"] == -1
    assert by_key["stages.sink.instances"]["line"] == 10


@pytest.mark.parametrize("value", ["inf", "nan", "[1, nan]"])
def test_what_json_cannot_hold_is_given_as_text(call, write, value: str) -> None:
    path = write(f'[pipeline]\nname = "x"\nodd = {value}\n[stages.a]\nplugin = "generate"\n')
    result = call("check", "--json", path)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    (mistake,) = json.loads(result.stdout, parse_constant=refuse)["files"][0]["mistakes"]
    assert value.strip("[]").split(", ")[-1] in mistake["given"]


OPEN = """
[pipeline]
name = "open"
[security]
insecure = true
[stages.read]
plugin = "generate"
listen = "tcp://{host}:7400"
[stages.sink]
input = "read"
plugin = "discard"
"""


@pytest.mark.parametrize(
    ("host", "who"),
    [
        ("127.0.0.1", "every user of this machine"),
        ("192.0.2.1", "everybody who reaches one over the network"),
    ],
)
def test_what_insecure_means_is_said(call, write, host: str, who: str) -> None:
    path = write(OPEN.replace("{host}", host), "open.toml")
    can = "read messages, take the place of a stage, and pause or drain it"
    meaning = f"insecure: the tcp addresses have no keys, so {who} can {can}"
    assert call("check", path).stdout.splitlines()[:2] == [f"{path}: OK", f"  {meaning}"]
    assert json.loads(call("check", "--json", path).stdout)["files"][0]["insecure"] == meaning


def test_sockets_in_a_folder_of_ones_own_are_open_to_nobody(call, good: Path) -> None:
    assert "insecure" not in call("check", good).stdout
    assert json.loads(call("check", "--json", good).stdout)["files"][0]["insecure"] == ""
