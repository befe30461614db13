"""The README's snippets and tables are those of the code: what no test reads goes stale."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from zpipe.cli import COMMANDS
from zpipe.errors import ExitCode
from zpipe.hookspecs import Context
from zpipe.messages import Message

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)[number]


def test_the_pipeline_shown_is_the_one_that_the_demo_runs() -> None:
    assert tomllib.loads(block("toml")) == tomllib.loads((ROOT / "configs" / "index.toml").read_text())


def test_every_command_is_in_the_table_and_no_other() -> None:
    rows = "\n".join(line for line in README.splitlines() if line.startswith("| `zpipe "))
    assert set(re.findall(r"`zpipe ([a-z]+)[ `]", rows)) == set(COMMANDS) - {"plugins"} | {"plugins"}


def test_the_exit_codes_are_those_of_the_code() -> None:
    line = next(line for line in README.splitlines() if line.startswith("Exit codes:"))
    assert [int(code) for code in re.findall(r"(?:: |· )(\d)", line)] == [code.value for code in ExitCode]


def test_the_first_plugin_runs() -> None:
    namespace: dict[str, object] = {}
    exec(block("python"), namespace)
    hook = namespace["zpipe_process"]
    context: Context | None = None
    assert hook(Message({"id": 1, "text": "a"}), context) == {"id": 1, "text": "A"}  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("monitor", ("parse&#160;is&#160;the&#160;limit", "the&#160;limit", "what&#160;waits", "quit")),
        ("monitor-table", ("under&#160;way", "time&#160;spent")),
        ("monitor-stage", ("parse.1", "in&#160;the&#160;stage")),
        ("monitor-links", ("at&#160;the&#160;receiver", "ago")),
        ("monitor-letters", ("check.1/1", "a&#160;bad&#160;record")),
        ("monitor-events", ("who&#160;and&#160;what&#160;happened",)),
    ],
)
def test_the_pictures_are_of_today_s_screen(name: str, texts: tuple[str, ...]) -> None:
    """`make screen` puts them there."""
    picture = (ROOT / "docs" / f"{name}.svg").read_text()
    assert f"{name}.svg" in README + (ROOT / "docs" / "monitor.md").read_text()
    for text in texts:
        assert text in picture, text


def test_every_file_and_folder_that_is_named_is_there() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README):
        file, _, heading = link.partition("#")
        assert (ROOT / file).exists(), link
        assert not heading or f"\n## {heading}\n" in README.lower(), link
    layout = README.split("## Layout")[1]
    for name in re.findall(r"`([a-z_/.A-Z]+)`", layout):
        if "/" in name:
            assert (ROOT / name).exists(), name
