"""The names in docs/architecture.md and CONTRIBUTING.md are those of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("docs/architecture.md", "CONTRIBUTING.md")
NAMED = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.py)(?::([A-Za-z_.]+))?`")


def named() -> list[tuple[str, str, str]]:
    """(page, path of a module below zpipe/, name in it) of everything that the pages name."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        found += [(page, path, name) for path, name in dict.fromkeys(NAMED.findall(text))]
    return found


def names_of(module: Path) -> set[str]:
    names: set[str] = set()

    def add(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    add(node.body, f"{node.name}.")
            elif isinstance(node, ast.Assign):
                names.update(prefix + target.id for target in node.targets if isinstance(target, ast.Name))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(prefix + node.target.id)

    add(ast.parse(module.read_text(encoding="utf-8")).body, "")
    return names


def test_the_tables_are_there() -> None:
    assert len(named()) > 60


@pytest.mark.parametrize(("page", "path", "name"), named())
def test_what_a_page_names_is_there(page: str, path: str, name: str) -> None:
    places = [ROOT / "zpipe" / path, ROOT / path, ROOT / "plugins" / "zpipe_plugins" / path]
    module = next((place for place in places if place.is_file()), None)
    assert module is not None, f"{page} names {path}, which is not there"
    assert not name or name in names_of(module), f"{page} names {name}, which {path} does not have"
