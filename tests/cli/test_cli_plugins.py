from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from zpipe.errors import DISTRIBUTION, PluginError

PLUGINS = {
    "loud": """
from dataclasses import dataclass, field
from pathlib import Path
from zpipe import hookimpl
print("hello from the import")

@dataclass
class Options:
    path: Path
    limit: float = float("inf")
    place: Path = Path("here")
    tags: list[str] = field(default_factory=lambda: ["a"])
    hidden: int = field(default=0, init=False)

@hookimpl
def zpipe_options():
    return Options

@hookimpl
def zpipe_process_batch(messages, context):
    return messages
""",
    "raising": "raise RuntimeError('not today')",
    "exiting": "raise SystemExit(3)",
    "hookless": "",
    "puzzling": """
from dataclasses import dataclass
from zpipe import hookimpl

@dataclass
class Options:
    one: "Nothing" = None

@hookimpl
def zpipe_options():
    return Options

@hookimpl
def zpipe_source(context):
    yield 0, None
""",
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with these plugins, as pip would leave it."""
    info = tmp_path / "site" / "some_plugins-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-plugins\nVersion: 1.2\n")
    lines = [f"{name} = some_{name}" for name in PLUGINS]
    (info / "entry_points.txt").write_text("\n".join(["[zpipe.plugins]", *lines]))
    for name, text in PLUGINS.items():
        (tmp_path / "site" / f"some_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for name in PLUGINS:
        monkeypatch.delitem(sys.modules, f"some_{name}", raising=False)


def rows_of(output: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(output)["plugins"]}


def test_first_party_plugins(call) -> None:
    rows = rows_of(call("plugins", "--json").stdout)
    assert {"discard", "files", "generate", "ndjson", "python", "sqlite"} <= set(rows)
    assert all(set(row) == {"name", "distribution", "version", "kind", "options", "error"} for row in rows.values())
    assert (rows["generate"]["kind"], rows["generate"]["distribution"]) == ("source", DISTRIBUTION)
    assert rows["python"]["kind"] == "process+batch"
    options = {option["name"]: option for option in rows["files"]["options"]}
    paths = options["paths"]
    assert (paths["type"], paths["required"], paths["default"]) == ("a list, each a string", True, None)
    assert options["format"]["default"] == "file"


@pytest.mark.usefixtures("installed")
def test_others_and_broken_ones(call) -> None:
    result = call("plugins", "--json")
    rows = rows_of(result.stdout)
    assert "hello from the import" in result.stderr
    loud = rows["loud"]
    assert (loud["distribution"], loud["version"], loud["kind"], loud["error"]) == (
        "some-plugins",
        "1.2",
        "batch",
        None,
    )
    assert [(o["name"], o["required"], o["default"]) for o in loud["options"]] == [
        ("path", True, None),
        ("limit", False, "inf"),
        ("place", False, "here"),
        ("tags", False, ["a"]),
    ]
    for name, word in {
        "raising": "not today",
        "exiting": "SystemExit",
        "hookless": "no hooks",
        "puzzling": "Nothing",
    }.items():
        assert rows[name]["kind"] is None
        assert word in rows[name]["error"]


@pytest.mark.usefixtures("installed")
def test_as_text(call) -> None:
    lines = call("plugins").stdout.splitlines()
    assert any(line.split() == ["generate", "source", DISTRIBUTION, metadata.version(DISTRIBUTION)] for line in lines)
    at = next(n for n, line in enumerate(lines) if line.startswith("raising"))
    assert lines[at].split() == ["raising", "broken", "some-plugins", "1.2"]
    assert "not today" in lines[at + 1]
    at = next(n for n, line in enumerate(lines) if line.startswith("loud"))
    assert lines[at + 1 : at + 3] == ["    path   a path; required", '    limit  a number; default "inf"']


NESTED = """
from dataclasses import dataclass
from typing import Annotated
import zpipe

@dataclass
class Server:
    host: Annotated[str, "its name"]
    timeout: zpipe.Duration = 30.0

@dataclass
class Options:
    token: Annotated[zpipe.Secret, "of the account"]
    servers: Annotated[list[Server], "tried in this order"]
    most: zpipe.Size = 65536
    key: zpipe.Secret = zpipe.Secret("hunter2")

class Step(zpipe.Map[Options]):
    def process(self, message, context):
        return message.payload
"""


@pytest.fixture
def nested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nested.py").write_text(NESTED)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("nested")
def test_one_plugin_with_tables_and_help(call) -> None:
    assert (
        call("plugins", "./nested.py").stdout
        == """\
./nested.py  process
    token    a secret, by "${VAR}", "${file:PATH}" or "${credential:NAME}"; required
             of the account
    servers  a list, each a table; required
             tried in this order
             host     a string; required
                      its name
             timeout  a time such as "30s"; default "30s"
    most     a size such as "64MiB"; default "64KiB"
    key      a secret, by "${VAR}", "${file:PATH}" or "${credential:NAME}"; default "***"
"""
    )


@pytest.mark.usefixtures("nested")
def test_one_plugin_as_json(call) -> None:
    result = call("plugins", "./nested.py", "--json").stdout
    options = {option["name"]: option for option in rows_of(result)["./nested.py"]["options"]}
    assert (options["servers"]["help"], options["token"]["help"]) == ("tried in this order", "of the account")
    assert [(o["name"], o["default"], o["help"]) for o in options["servers"]["options"]] == [
        ("host", None, "its name"),
        ("timeout", "30s", ""),
    ]
    assert "hunter2" not in result


def test_a_source_and_a_sink_under_one_name(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pair.py").write_text(
        "import zpipe\nfrom dataclasses import dataclass\n@dataclass\nclass Options:\n  group: str\n"
        "class Read(zpipe.Source[Options, int]):\n  def source(self, context): yield 1, 2\n"
        "class Store(zpipe.Sink[None]):\n  def process(self, message, context): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    assert call("plugins", "./pair.py").stdout == (
        "./pair.py  source\n    group  a string; required\n./pair.py  process\n"
    )


def test_one_plugin_by_its_entry_point(call) -> None:
    [row] = rows_of(call("plugins", "generate", "--json").stdout).values()
    assert (row["name"], row["distribution"]) == ("generate", DISTRIBUTION)


def test_a_plugin_that_is_not_there(call) -> None:
    with_error = call("plugins", "generat").exception
    assert isinstance(with_error, PluginError)
    assert "did you mean 'generate'?" in str(with_error)
