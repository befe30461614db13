"""The function of the demo's parse stage."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "configs" / "python_index.py"
TEXT = '''
"""Module."""
import x

@x.decorated
def first(a, /, b: int = 1, *args, c="\\d", **kw) -> list[str]:
    """First line.

    More.
    """
    def inner(): pass
    class Local:
        async def method(self): "inside"

if x:
    class Child(x.Base, metaclass=x.Meta):
        "A class."
elif x:
    def second(): ...
else:
    try:
        def third(): ...
    except x:
        def fourth(): "surrogate \\ud800"
    match x:
        case 1:
            def fifth(): ...
'''


@pytest.fixture(scope="module")
def module() -> Any:
    spec = importlib.util.spec_from_file_location("python_index_under_test", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_definition_is_found_in_order(module: Any) -> None:
    rows = list(module.parse({"path": "m.py", "text": TEXT}))
    assert [(row["kind"], row["qualname"], row["signature"]) for row in rows] == [
        ("function", "first", "(a, /, b: int=1, *args, c='\\\\d', **kw) -> list[str]"),
        ("function", "first.inner", "()"),
        ("class", "first.Local", ""),
        ("function", "first.Local.method", "(self)"),
        ("class", "Child", "(x.Base, metaclass=x.Meta)"),
        ("function", "second", "()"),
        ("function", "third", "()"),
        ("function", "fourth", "()"),
        ("function", "fifth", "()"),
    ]
    assert rows[0] == {
        "id": "m.py:6:first",
        "kind": "function",
        "name": "first",
        "qualname": "first",
        "file": "m.py",
        "line": 6,
        "signature": rows[0]["signature"],
        "docstring": "First line.\n\nMore.",
    }
    assert [row["docstring"] for row in rows[3:5]] == ["inside", "A class."]
    assert rows[7]["docstring"] == "surrogate ?"
    assert len({row["id"] for row in rows}) == len(rows)


def test_a_long_chain_of_elif_is_no_trouble(module: Any) -> None:
    text = "if x: pass\n" + "elif x: pass\n" * 500 + "else:\n    def last(): ...\n"
    assert [row["qualname"] for row in module.parse({"path": "m.py", "text": text})] == ["last"]


def test_what_is_not_python_raises(module: Any) -> None:
    with pytest.raises(SyntaxError):
        list(module.parse({"path": "m.py", "text": "def ("}))


def test_an_empty_file_has_nothing(module: Any) -> None:
    assert list(module.parse({"path": "m.py", "text": ""})) == []
