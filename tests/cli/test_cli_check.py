from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_types import Call, Write
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
    said = f"{config}:5: telemetry.traces: needs OpenTelemetry: pip install 'zpipe-stages[otel]'"
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
    assert all(
        set(one) == {"file", "ok", "mistakes", "warnings", "network", "insecure", "placed", "memory"}
        for one in value["files"]
    )
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


FUNCTION = """
[pipeline]
name = "f"
[stages.read]
plugin = "generate"
options = {{ count = 1 }}
[stages.work]
input = "read"
plugin = "python"
options = {{ function = "{function}" }}
"""
LINE = 10
WRONG_FUNCTIONS = {
    "wrk.py:work": "there is no file",
    "work.py:wrok": "work.py has no 'wrok' (did you mean 'work'?)",
    "work.py:NUMBER": "NUMBER is a int, which cannot be called",
    "work.py:none": "it is called with one argument, the payload",
    "broken.py:work": "importing it failed: ZeroDivisionError",
    "no_such_module_at_all:work": "there is no module 'no_such_module_at_all'",
}


@pytest.fixture
def functions(write: Write) -> None:
    write("NUMBER = 5\ndef work(payload): return payload\ndef none(): return 1\n", "work.py")
    write("1 / 0\n", "broken.py")


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("function", WRONG_FUNCTIONS)
def test_the_function_of_a_python_stage_is_looked_for(call: Call, write: Write, function: str) -> None:
    config = write(FUNCTION.format(function=function))
    result = call("check", config)
    assert result.return_value == ExitCode.USAGE
    assert result.stderr.startswith(f"{config}:{LINE}: stages.work.options.function: function {function!r}: ")
    assert WRONG_FUNCTIONS[function] in result.stderr
    assert call("check", write(FUNCTION.format(function="work.py:work"))).return_value == ExitCode.DONE


@pytest.mark.usefixtures("functions", "home")
@pytest.mark.parametrize("command", [["run"], ["stage"]])
def test_a_start_makes_the_same_checks_and_starts_nothing(write: Write, command: list[str]) -> None:
    config = write(FUNCTION.format(function="work.py:wrok"))
    arguments = [*command, str(config), *(["work"] if command == ["stage"] else [])]
    done = subprocess.run(
        [sys.executable, "-m", "zpipe", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith(f"zpipe: {config}:{LINE}: stages.work.options.function: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_plugins_are_not_asked_by_who_only_wants_the_units(write: Write) -> None:
    config = write(FUNCTION.format(function="no_such_module_at_all:work"))
    assert load(config, ask_plugins=False).stages["work"].options.function == "no_such_module_at_all:work"


ODD = """
[pipeline]
name = "odd"
[stages.lost]
plugin = "generate"
[stages.read]
plugin = "generate"
[stages.drop]
input = "read"
plugin = "discard"
[stages.after]
input = "drop"
plugin = "discard"
[stages.letters]
input = ["drop.dead", "lost.dead"]
plugin = "discard"
"""


def test_what_is_hardly_meant_is_a_warning(call: Call, write: Write) -> None:
    config = write(ODD)
    result = call("check", config)
    assert result.return_value == ExitCode.DONE
    assert result.stderr.splitlines() == [
        f"warning: {config}:4: stages.lost: is a head that no stage reads: its messages go nowhere",
        f"warning: {config}:12: stages.after.input: stage 'drop' is a sink (plugin 'discard'): nothing ever comes out of it",
    ]
    assert result.stdout.startswith(f"{config}: OK\n")
    (file,) = json.loads(call("check", config, "--json").stdout)["files"]
    assert [one["key"] for one in file["warnings"]] == ["stages.lost", "stages.after.input"]
    assert file["ok"] is True and file["network"] == []


ASKING = """
from dataclasses import dataclass
from zpipe import Traits, hookimpl

@dataclass
class Options:
    table: str = ""

@hookimpl
def zpipe_options():
    return Options

@hookimpl
def zpipe_check(options, config_dir):
    {check}

@hookimpl
def zpipe_traits(options, config_dir):
    {traits}

@hookimpl
def zpipe_process(message):
    return message
"""


@pytest.mark.parametrize(
    ("check", "traits", "said"),
    [
        (
            "yield 'table', f'{options.table} is not in {config_dir.name}'",
            "return Traits()",
            "options.table: ${T} is not in ",
        ),
        ("return [('table', 'is odd')]", "return Traits()", "options.table: is odd"),
        (
            "raise KeyError(options.table)",
            "return Traits()",
            "plugin './asking.py': zpipe_check raised KeyError: '${T}'",
        ),
        ("yield 5", "return Traits()", "zpipe_check raised TypeError"),
        ("return []", "return 5", "zpipe_traits must return zpipe.Traits, not 5"),
        ("return []", "raise SystemExit('no')", "zpipe_traits raised SystemExit: no"),
    ],
)
def test_a_plugin_checks_its_own_options(
    call: Call, write: Write, monkeypatch: pytest.MonkeyPatch, check: str, traits: str, said: str
) -> None:
    monkeypatch.setenv("T", "sesame")
    write(ASKING.format(check=check, traits=traits), "asking.py")
    text = FUNCTION.format(function="x").replace('"python"', '"./asking.py"').replace("function", "table")
    result = call("check", write(text.replace('"x"', '"${T}"')))
    assert result.return_value == ExitCode.USAGE
    assert said in result.stderr
    assert "sesame" not in result.stderr


def test_a_secret_is_not_in_the_json_of_a_check(call: Call, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T", "open-sesame")
    text = FUNCTION.format(function="x").replace('function = "x"', 'function = "${T}", more = { a = ["${T}"] }')
    result = call("check", write(text), "--json")
    (file,) = json.loads(result.stdout)["files"]
    assert "open-sesame" not in result.stdout
    assert {one["key"]: one["given"] for one in file["mistakes"]}["stages.work.options.more"] == {"a": ["${T}"]}


SPLIT = """
from zpipe import Message, hookimpl

@hookimpl
def zpipe_outlets():
    return ("odd", "large")

@hookimpl
def zpipe_process(message):
    return message.payload
"""
UNREAD = """
[pipeline]
name = "unread"
[stages.read]
plugin = "generate"
[stages.split]
input = "read"
plugin = "./split.py"
[stages.function]
input = "split.large"
plugin = "python"
options = { function = "f.py:f", outlets = ["bad"] }
[stages.bad]
input = ["function.bad", "function"]
plugin = "discard"
"""


def test_an_outlet_that_no_stage_reads_is_a_warning(call: Call, write: Write, tmp_path: Path) -> None:
    (tmp_path / "split.py").write_text(SPLIT)
    (tmp_path / "f.py").write_text("def f(payload): return payload\n")
    config = write(UNREAD, "unread.toml")
    result = call("check", config)
    assert result.return_value == ExitCode.DONE
    problem = (
        "no stage reads the outlet 'odd' of 'split' (input = \"split.odd\"): what leaves by it is counted as unrouted, "
        "and goes nowhere"
    )
    assert result.stderr == f"warning: {config}:6: stages.split: {problem}\n"
    (file,) = json.loads(call("check", config, "--json").stdout)["files"]
    assert (file["ok"], [(one["line"], one["problem"]) for one in file["warnings"]]) == (True, [(6, problem)])
    write(UNREAD.replace("function.bad", "function.bat"), "unread.toml")
    assert "has no outlet 'bat'; its outlets are bad (did you mean 'bad'?)" in call("check", config).stderr


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
def test_what_insecure_means_is_said(call: Call, write: Write, host: str, who: str) -> None:
    path = write(OPEN.replace("{host}", host), "open.toml")
    can = "read messages, take the place of a stage, and pause or drain it"
    meaning = f"insecure: the tcp addresses have no keys, so {who} can {can}"
    assert call("check", path).stdout.splitlines()[:2] == [f"{path}: OK", f"  {meaning}"]
    assert json.loads(call("check", "--json", path).stdout)["files"][0]["insecure"] == meaning


def test_sockets_in_a_folder_of_ones_own_are_open_to_nobody(call: Call, good: Path) -> None:
    assert "insecure" not in call("check", good).stdout
    assert json.loads(call("check", "--json", good).stdout)["files"][0]["insecure"] == ""


FOREIGN = """
[pipeline]
name = "f"
[hosts.web1]
address = "192.0.2.1"
key = "{one}"
[hosts.web2]
address = "192.0.2.2"
key = "{two}"
[hosts.laptop]
[stages.read]
plugin = "generate"
host = "web1"
[stages.map]
command = ["node", "map.js"]
input = "read"
host = {map}
[stages.store]
input = "map"
plugin = "discard"
host = {store}
"""


@pytest.mark.parametrize(
    ("store", "at", "said"),
    [
        (
            '"web1"',
            '"web1"',
            "is seen on its own host only, unless its program binds what `listen` says, with the key of",
        ),
        (
            '"web1"',
            '"web2"',
            "meets stages on other hosts (web1): its program has to bind what `listen` says, and to connect",
        ),
        ('["web1", "web2"]', '"web1"', "meets stages on other hosts (web2): "),
        ('"web1"', '["web1", "web2"]', "meets stages on other hosts (web1, web2): "),
    ],
)
def test_a_program_that_meets_other_hosts_is_a_warning(
    call: Call, write: Write, store: str, at: str, said: str
) -> None:
    """Only those written for it do so; those in the examples do not."""
    config = write(FOREIGN.format(one="a" * 40, two="b" * 40, store=store, map=at))
    (file,) = json.loads(call("check", config, "--json").stdout)["files"]
    [warning] = [one for one in file["warnings"] if one["key"] == "stages.map.command"]
    assert file["ok"] and warning["problem"].startswith(said) and "PROTOCOL.md, section 16" in warning["problem"]
    assert ("the examples in C and Node do not" in warning["problem"]) == said.startswith("meets")


ONE_MACHINE = """
[pipeline]
name = "f"
[stages.read]
plugin = "generate"
[stages.map]
command = ["node", "map.js"]
input = "read"
"""


def test_a_program_on_the_only_host_needs_no_keys(call: Call, write: Write) -> None:
    (file,) = json.loads(call("check", write(ONE_MACHINE), "--json").stdout)["files"]
    assert file["ok"] and not [one for one in file["warnings"] if "command" in one["key"]]
