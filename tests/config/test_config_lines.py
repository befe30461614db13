"""Lines of keys: whatever tomllib accepts has a line for each of its keys."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from zpipe.config.reading.key_lines import KeyPath, key_lines

TRICKY = '''# a comment with a = 1 and [a.table]
top = "x # no comment" # one
"quoted key" . 'dotted "too"' = 1
"esc\\u0061ped\\"" = 'a\\'

[pipeline] # comment
name = """
[not.a.table]
a = 1 \\
""quotes"" """"
lit = \'\'\'
it's [one]
\'\'\'\'
empty = ""
empties = ["", "", \'\', """"""]
date = 1979-05-27 07:32:00
float = -1.5e-3
a.b.c = true
a.b.d = { x = 1, "y z" = [ { p = 1 }, { p = 2 } ], e = {} }
list = [ # comment ]
  1, # one
  # "two"
  [ "a", """
b""" ],
  { k = "v" },
]

[stages.one.deep]
x = inf
[ stages . "two.three" ]
x = 1
[[runs]]
a = 1
[runs.sub]
b = 2
[[runs]]
a = 3
[[runs.inner]]
c = 4
[[runs.inner]]
c = 5
[stages]
y = 1'''


def paths(value: Any, path: KeyPath = ()) -> list[KeyPath]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += paths(inner, (*path, key))
    return found


@pytest.mark.parametrize("text", [TRICKY, TRICKY.replace("\n", "\r\n"), "", "\n\n", "# only", "a=1", "[a]", "[[a]]"])
def test_every_key_that_tomllib_reads_has_a_line(text: str) -> None:
    assert sorted(map(str, key_lines(text))) == sorted(map(str, paths(tomllib.loads(text))))


def test_lines_are_where_the_key_stands() -> None:
    lines = key_lines(TRICKY)
    given = TRICKY.split("\n")
    for path, start in {
        ("top",): "top =",
        ("pipeline",): "[pipeline]",
        ("pipeline", "lit"): "lit =",
        ("pipeline", "empty"): "empty =",
        ("pipeline", "a", "b", "c"): "a.b.c",
        ("pipeline", "a", "b", "d", "y z", 1, "p"): "a.b.d",
        ("pipeline", "list", 1): '  [ "a"',
        ("pipeline", "list", 2, "k"): "  { k",
        ("stages",): "[stages]",
        ("stages", "two.three"): "[ stages",
        ("stages", "y"): "y = 1",
        ("runs", 1, "a"): "a = 3",
        ("runs", 1, "inner", 1, "c"): "c = 5",
    }.items():
        assert given[lines[path] - 1].startswith(start), path
