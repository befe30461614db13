"""The manual pages: those of today's commands, whole, and such as man(1) can show."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from cli_types import Call
from test_cli_tree import COMMAND

from zpipe.cli import ALIASES, COMMANDS
from zpipe.cli.preparing.man import EXIT_STATUS, pages
from zpipe.errors import ExitCode

SHIPPED = Path(__file__).parents[2] / "docs" / "man"


def test_the_shipped_pages_are_those_of_the_commands() -> None:
    shipped = {path.name: path.read_text(encoding="utf-8") for path in SHIPPED.iterdir()}
    assert shipped == pages(), "make man"
    assert set(shipped) == {"zpipe.1", *(f"zpipe-{name}.1" for name in (*COMMANDS, *ALIASES))}


def test_every_option_is_in_the_page_of_its_command() -> None:
    made = pages()
    for words, command in COMMAND.items():
        page = made[f"zpipe-{words.split()[0]}.1"].replace("\\-", "-")
        for one in command.params:
            if one.param_type_name == "option":
                assert max(one.opts, key=len) in page, f"{words} {one.opts}"
    assert EXIT_STATUS.keys() == set(ExitCode)


def test_a_package_finds_them_where_it_looks() -> None:
    import tomllib

    project = tomllib.loads((SHIPPED.parents[1] / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"] == {"docs/man": "share/man/man1"}


@pytest.mark.needs("man")
def test_man_shows_a_page_without_a_complaint(call: Call, tmp_path: Path) -> None:
    assert call("man", tmp_path / "man1").stdout == f"{len(pages())} pages in {tmp_path / 'man1'}\n"
    for name in pages():
        command = ["man", "--warnings=w", "-E", "ascii", "-l", str(tmp_path / "man1" / name)]
        env = {"MANWIDTH": "100", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANPATH": str(tmp_path)}
        shown = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert shown.stderr == "", name
        if name == "zpipe-drain.1":
            text = re.sub(r".\x08", "", shown.stdout)
            assert [line for line in text.splitlines() if re.fullmatch(r"[A-Z ]+", line) and line.strip()] == [
                "NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO",
            ]  # fmt: skip
            assert "zpipe drain [OPTIONS] CONFIG|PIPELINE [STAGE.N]" in text and "--timeout TIME" in text
