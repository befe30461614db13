"""$ZPIPE_HOST that is no host of the pipeline: every command that goes by it says so, with the hosts that there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_types import Call, Write

from zpipe.errors import ExitCode, NoPeerError, TargetError

CONFIG = """
[pipeline]
name = "h"
[hosts.web1]
address = "127.0.0.1"
[hosts.web2]
address = "127.0.0.2"
[security]
insecure = true
[stages.read]
plugin = "generate"
host = "web1"
[stages.store]
input = "read"
plugin = "discard"
host = "web2"
"""
WITHOUT_HOSTS = (
    '[pipeline]\nname = "h"\n[stages.read]\nplugin = "generate"\n[stages.store]\ninput = "read"\nplugin = "discard"\n'
)
SAID = "'wbe1' is no host of pipeline 'h', which has web1, web2 (did you mean 'web1'?): say by $ZPIPE_HOST which of them this"


@pytest.fixture(autouse=True)
def misspelt(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZPIPE_HOST", "wbe1")


@pytest.mark.parametrize(
    "words",
    [
        "run CONFIG",
        "stage CONFIG read",
        "units CONFIG",
        "monitor CONFIG --once",
        "monitor CONFIG --prometheus",
        "drain CONFIG",
        "pause CONFIG read",
        "tap CONFIG read",
        "dead list CONFIG",
        "buffer list CONFIG",
    ],
)
def test_a_host_that_the_pipeline_does_not_have(call: Call, write: Write, words: str) -> None:
    config = write(CONFIG)
    refused = call(*(config if word == "CONFIG" else word for word in words.split()))
    assert isinstance(refused.exception, TargetError) and refused.exception.exit_code == ExitCode.USAGE
    assert str(refused.exception).startswith(SAID)


def test_it_is_no_mistake_of_the_config(call: Call, write: Write) -> None:
    checked = call("check", write(CONFIG), "--json")
    [found] = json.loads(checked.stdout)["files"]
    assert checked.return_value == ExitCode.DONE and found["ok"]
    assert [one["problem"] for one in found["warnings"] if one["key"] == "hosts"] == [SAID + " machine is"]


def test_a_pipeline_without_hosts_does_not_ask_for_one(call: Call, write: Write) -> None:
    config = write(WITHOUT_HOSTS)
    assert isinstance(call("drain", config).exception, NoPeerError)
    assert json.loads(call("check", config, "--json").stdout)["files"][0]["warnings"] == []
