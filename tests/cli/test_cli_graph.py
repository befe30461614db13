from __future__ import annotations

import json
from pathlib import Path

from zpipe.errors import ConfigError, ExitCode


def test_mermaid_and_dot(call, good: Path) -> None:
    assert call("graph", good).stdout.startswith("flowchart LR\n")
    result = call("graph", good, "--format", "dot")
    assert result.return_value == ExitCode.DONE
    assert result.stdout.startswith("digraph")
    assert result.stdout.endswith("}\n")


def test_json(call, good: Path) -> None:
    value = json.loads(call("graph", good, "--json").stdout)
    assert value["pipeline"] == "good"
    assert value["links"] == [
        {"from": "read", "to": "map", "outlet": ""},
        {"from": "read", "to": "errors", "outlet": "bad"},
    ]
    read, sink, errors = value["nodes"]
    assert read == {"name": "read", "plugin": "generate", "instances": 1, "hosts": [], "queue": None, "batch": None}
    assert sink["queue"] == {"messages": 10, "bytes": 2**20}
    assert (errors["batch"]["messages"], errors["batch"]["timeout_s"]) == (5, 2.0)


def test_plugins_are_not_needed_for_a_picture(call, write) -> None:
    path = write('[pipeline]\nname = "x"\n[stages.a]\nplugin = "somebody.elses:plugin"\n')
    assert "somebody.elses:plugin" in call("graph", path).stdout


def test_a_wrong_config_has_no_picture(call, write) -> None:
    result = call("graph", write('[pipeline]\nname = "x"\n'))
    assert isinstance(result.exception, ConfigError)
    assert result.stdout == ""
