"""docs/config.md against the reader: every key, every default, every number and every snippet in it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from zpipe.config import PipelineConfig, load
from zpipe.config.reading.values import _BYTES, LOG_LEVELS
from zpipe.config.stage_table import _LATER
from zpipe.errors import ConfigError

PAGE = (Path(__file__).parent.parent / "docs" / "config.md").read_text(encoding="utf-8")
ENV = {"ZPIPE_RUNTIME_DIR": "/run/z"}
MINIMAL = {
    "pipeline.name": '"t"',
    "stages.head.plugin": '"generate"',
    "stages.NAME.plugin": '"discard"',
    "stages.NAME.input": '"head"',
}
OPTIONAL = ("stages.NAME.batch", "stages.NAME.limit", "stages.NAME.buffer")
"""Tables whose keys have defaults only where they stand."""
PROCESS = {"stages.NAME.workers.kind": '"process"'}
GOES_WITH = {f"stages.NAME.workers.{key}": PROCESS for key in ("timeout", "recycle_messages", "memory")}
LINK = {"stages.NAME.link.kind": '"jetstream"', "stages.NAME.link.servers": '"nats://127.0.0.1:4222"'}
GOES_WITH |= {
    f"stages.NAME.link.{key}": {one: value for one, value in LINK.items() if not one.endswith(key)}
    for key in ("kind", "servers", "replicas", "max_bytes", "ack_wait", "parcel_messages")
}
GOES_WITH["stages.NAME.tick"] = {"stages.NAME.plugin": '"./ticking.py"'}
"""Keys that are a mistake without another one."""
UNKNOWN = "no-such-key"
LATER = "is not available in this version"


@dataclass(frozen=True)
class Row:
    key: str
    allowed: str
    default: str


def rows() -> dict[str, Row]:
    """By the whole key."""
    found: dict[str, Row] = {}
    for section, text in re.findall(r"^## `\[(.+?)\]`\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL):
        for key, allowed, default in re.findall(r"^\| `([a-z_.]+)` \| (.+?) \| (.+?) \| .+ \|$", text, re.MULTILINE):
            whole = f"{section}.{key}"
            assert whole not in found, f"{whole} stands twice"
            found[whole] = Row(whole, allowed, default)
    return found


ROWS = rows()


def config_text(given: dict[str, str]) -> str:
    """The minimal config with the keys given, which replace what is at, above or below them."""
    for key in list(given):
        given = GOES_WITH.get(key, {}) | given
    kept = {
        key: value
        for key, value in MINIMAL.items()
        if not any(f"{one}.".startswith(f"{key}.") or f"{key}.".startswith(f"{one}.") for one in given)
    }
    return "".join(f"{key} = {value}\n" for key, value in (kept | given).items())


class Reader:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "pipeline.toml"
        ticking = "import zpipe\nclass T(zpipe.Sink):\n  def process(self, message): pass\n  def tick(self): pass\n"
        (folder / "ticking.py").write_text(ticking, encoding="utf-8")

    def __call__(self, text: str, env: dict[str, str] = ENV) -> PipelineConfig:
        self.path.write_text(text, encoding="utf-8")
        return load(self.path, env=env)

    def mistakes(self, given: dict[str, str]) -> dict[str, str]:
        """Key to problem."""
        try:
            self(config_text(given))
        except ConfigError as error:
            return {mistake.key: mistake.problem for mistake in error.mistakes}
        return {}

    def keys(self, table: str = "") -> Iterator[tuple[str, bool]]:
        """(key, whether it is a table) of all that the reader accepts, from what it says of a key it does not know."""
        unknown = f"{table}.{UNKNOWN}".lstrip(".")
        problem = self.mistakes({unknown: "1"}).get(unknown, "")
        for name in problem.partition("allowed: ")[2].split(", "):
            if name:
                key = f"{table}.{name}".lstrip(".")
                inner = f"{key}.NAME" if key in ("stages", "hosts") else key
                below = list(self.keys(inner))
                yield inner, bool(below) or inner == "stages.NAME.options"
                yield from below


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def test_every_key_is_in_a_table_and_no_other(read: Reader) -> None:
    accepted = dict(read.keys())
    sections = set(re.findall(r"^## `\[(.+?)\]`", PAGE, re.MULTILINE))
    assert sections == {"pipeline", "stages.NAME", "telemetry", "hosts.NAME", "security"}
    assert set(ROWS) | sections == set(accepted)
    assert {row.key for row in ROWS.values() if row.allowed == "table"} | sections == {
        k for k in accepted if accepted[k]
    }


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.key)
def test_the_default_is_that_of_a_minimal_config(row: Row, read: Reader) -> None:
    if row.default == "required":
        given = {key: value for key, value in (MINIMAL | GOES_WITH.get(row.key, {})).items() if key != row.key}
        without = "".join(f"{key} = {value}\n" for key, value in given.items())
        with pytest.raises(ConfigError, match=rf"{re.escape(row.key)}: is required"):
            read(without)
    elif row.default == "none":
        config = read(config_text({table: "{}" for table in OPTIONAL if row.key.startswith(f"{table}.")}))
        attributes: dict[str, str] = {}
        found: Any = config.stages["head" if row.key.endswith(".input") else "NAME"]
        if row.key.startswith("security."):
            found = config
        if row.key.startswith("hosts."):
            found = read(config_text({}) + "[hosts.NAME]\n").hosts["NAME"]
            attributes = {"key": "keys"}
        attributes |= {
            "input": "inputs",
            "host": "hosts",
            "timeout": "timeout_s",
            "age": "age_s",
            "memory": "memory_bytes",
        }
        for name in row.key.split(".")[1 if row.key.startswith("security.") else 2 :]:
            found = getattr(found, attributes.get(name, name))
        assert found in (None, (), "")
    else:
        written = re.fullmatch(r"`(.+)`", row.default)
        assert written, row.default
        without = {table: "{}" for table in OPTIONAL if row.key.startswith(f"{table}.")} | GOES_WITH.get(row.key, {})
        assert read(config_text({row.key: written.group(1)})) == read(config_text(without))


@pytest.mark.parametrize(
    "row", [row for row in ROWS.values() if "whole number" in row.allowed], ids=lambda row: row.key
)
def test_the_numbers_allowed_are_those_of_the_reader(row: Row, read: Reader) -> None:
    found = re.fullmatch(r"whole number, ([\d,]+) to ([\d,]+)", row.allowed)
    assert found, row.allowed
    least, most = (int(number.replace(",", "")) for number in found.groups())
    said = f"must be a whole number from {least} to {most}, not "
    for outside in (least - 1, most + 1):
        assert read.mistakes({row.key: str(outside)})[row.key] == f"{said}{outside}"


@pytest.mark.parametrize("row", [row for row in ROWS.values() if "time" in row.allowed], ids=lambda row: row.key)
def test_times_may_be_0_where_the_table_says_so(row: Row, read: Reader) -> None:
    assert row.allowed in ("time above 0", "time or 0")
    refused = read.mistakes({row.key: "0"}).get(row.key, "").startswith("must be a time")
    assert refused == (row.allowed == "time above 0")
    assert row.key in read.mistakes({row.key: '"8761h"'})
    assert row.key not in read.mistakes({row.key: '"8760h"'})


@pytest.mark.parametrize("row", [row for row in ROWS.values() if "size" in row.allowed], ids=lambda row: row.key)
def test_sizes_may_have_every_unit_that_is_named(row: Row, read: Reader) -> None:
    assert read.mistakes({row.key: "0"})[row.key].startswith("must be a size")
    line = next(line for line in PAGE.splitlines() if "**size**" in line)
    units = re.findall(r"`([A-Za-z]+)`", line)
    assert units == [unit for unit in _BYTES if unit]
    for unit in units:
        assert not read.mistakes({row.key: f'"9{unit}"'}).get(row.key, "").startswith("must be a size")


def test_choices_are_those_of_the_reader(read: Reader) -> None:
    choices = {key: re.findall(r"`([^`]+)`", row.allowed) for key, row in ROWS.items() if row.allowed.startswith("`")}
    del choices["stages.NAME.listen"]
    assert choices["telemetry.log_level"] == [f'"{level}"' for level in LOG_LEVELS]
    for key, values in choices.items():
        for value in values:
            assert key not in read.mistakes({key: value})
        assert key in read.mistakes({key: '"none of them"'})


def test_what_is_not_available_says_so(read: Reader) -> None:
    section = PAGE.split("## Not available in this version")[1]
    named = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    keys = {one for one in named if "=" not in one and "*" not in one}
    assert keys == {f"stages.NAME.{key}" for key in _LATER}
    for one in named:
        key, _, value = one.replace("*", "anything").partition(" = ")
        assert LATER in read.mistakes({key: value or "1"})[key]


def test_variables_become_what_the_table_says(read: Reader, tmp_path: Path) -> None:
    section = PAGE.split("## Variables, files and credentials")[1].split("## ")[0]
    forms = re.findall(r"^\| `(\$[^`]+)` \|", section, re.MULTILINE)
    variable, with_default, file, credential, escaped = forms
    assert forms == ["${VAR}", "${VAR:-text}", "${file:PATH}", "${credential:NAME}", "$${"]
    (tmp_path / "NAME").write_text("of a file\n")

    def becomes(form: str, env: dict[str, str]) -> Any:
        text = config_text({"stages.head.options": f'{{ fields = {{ key = "{form}" }} }}'})
        return read(text, ENV | env).stages["head"].options.fields["key"]

    assert [becomes(form, {"VAR": "value"}) for form in (variable, with_default, escaped)] == ["value", "value", "${"]
    assert [becomes(form, {"VAR": ""}) for form in (variable, with_default)] == ["", "text"]
    assert [becomes(form, {}) for form in (with_default, escaped)] == ["text", "${"]
    assert becomes(file.replace("PATH", f"{tmp_path}/NAME"), {}) == "of a file"
    assert becomes(credential, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "of a file"
    with pytest.raises(ConfigError, match="VAR is not set"):
        becomes(variable, {})


def test_a_string_is_a_number_only_if_it_came_from_a_variable(read: Reader) -> None:
    right, wrong = re.findall(r'`instances = ("[^`]+")`', PAGE)
    assert read(config_text({"stages.NAME.instances": right})).stages["NAME"].instances == 2
    assert "stages.NAME.instances" in read.mistakes({"stages.NAME.instances": wrong})
    queue = read(config_text({"stages.NAME.queue.bytes": '"${N:-5000}"'})).stages["NAME"].queue
    assert queue.bytes == 5000
    assert read(config_text({"pipeline.peer_timeout": '"${N:-7}"'})).peer_timeout_s == 7.0


@pytest.mark.parametrize("snippet", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_every_snippet_loads(snippet: str, read: Reader) -> None:
    assert read(snippet).name == tomllib.loads(snippet)["pipeline"]["name"]
