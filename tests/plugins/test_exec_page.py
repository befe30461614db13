"""docs/exec.md says what is so: each of its pages is run, and makes what the page says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "exec.md").read_text(encoding="utf-8")
NAMED = re.compile(r"^```\w+\n((?:#![^\n]*\n)?)(?:#|//) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = {name: f"{first}{body}" for first, name, body in NAMED.findall(PAGE)}
SECTIONS = {
    # page: (its config, what it needs, what it makes)
    "jq": ("jq.toml", "jq", "jq.out"),
    "awk": ("awk.toml", "awk", "awk.out"),
    "node": ("node.toml", "node", "node.out"),
    "A shell script": ("shell.toml", "sh", "stored.txt"),
    "A compiled binary": ("compiled.toml", "gcc", "compiled.out"),
}


def test_every_page_is_run() -> None:
    assert {name for name in FILES if name.endswith(".toml")} == {config for config, _, _ in SECTIONS.values()}
    titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert [title for title in titles if title in SECTIONS] == list(SECTIONS)


@pytest.mark.parametrize(
    "title", [pytest.param(title, marks=pytest.mark.needs(program)) for title, (_, program, _) in SECTIONS.items()]
)
def test_the_page_of(title: str, home: Path) -> None:
    config, written_for, makes = SECTIONS[title]
    for name, body in FILES.items():
        if name != makes:
            (home / name).write_text(body)
    (home / "store.sh").chmod(0o755)
    if written_for == "gcc":
        command = re.search(r"^`(gcc [^`]*)`", PAGE, re.MULTILINE)
        assert command is not None
        subprocess.run(command[1].split(), cwd=home, check=True)
    subprocess.run([sys.executable, "-m", "zpipe", "run", str(home / config), "--json"], check=True, timeout=60)
    lines = (home / makes).read_text().splitlines()
    assert (
        lines == FILES[makes].splitlines()
        if written_for != "node"
        else sorted(lines) == sorted(FILES[makes].splitlines())
    )


def test_the_table_of_answers_is_json() -> None:
    answers = re.findall(r"^\| `(\{\"id\".*?\})` \|", PAGE, re.MULTILINE)
    assert len(answers) == 6
    for answer in answers:  # a name alone stands for any value
        json.loads(re.sub(r'"(id|payload)"(?!:)', r'"\1": 1', answer))
