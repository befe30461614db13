"""A plugin's options: every type they may have, and what is said of values that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from config_texts import stages, step
from config_types import Problems, Read


def typed(keys: str) -> str:
    return stages(step("b", f"[stages.b.options]\n{keys}", plugin="./typed.py"))


def options(read: Read, keys: str, **env: str) -> Any:
    return read(typed(keys), {"ZPIPE_RUNTIME_DIR": "/r", **env}).stages["b"].options


def test_every_type_is_filled(read: Read) -> None:
    made = options(
        read,
        """
name = "n"
count = 2
rate = 3
loud = true
path = "x/y"
tags = ["a", "b"]
sizes = [1, 2]
pair = ["p", 3]
weights = { a = 1, b = 2.5 }
either = ["c"]
mode = 3
server = { host = "h" }
extra = { any = [1, "two", { three = 3 }] }
""",
    )
    assert (made.name, made.count, made.rate, made.loud, made.path) == ("n", 2, 3.0, True, Path("x/y"))
    assert (made.tags, made.sizes, made.pair) == (["a", "b"], (1, 2), ("p", 3))
    assert (made.weights, made.either, made.mode) == ({"a": 1.0, "b": 2.5}, ["c"], 3)
    assert (made.server.host, made.server.port) == ("h", 80)
    assert made.extra == {"any": [1, "two", {"three": 3}]}
    assert type(made.rate) is float


def test_an_enum_is_written_by_its_text_or_by_its_name(read: Read) -> None:
    made = options(read, 'name = "n"\ncolour = "dark-blue"\nlevel = "${L}"', L="high")
    assert (made.colour.name, made.level) == ("DARK_BLUE", 2)


def test_what_is_left_out_is_the_default(read: Read) -> None:
    made = options(read, 'name = "n"')
    assert (made.rate, made.tags, made.mode, made.server, made.either) == (None, [], "safe", None, 0)


def test_an_expanded_string_becomes_what_is_expected(read: Read) -> None:
    keys = (
        'name = "${V}"\ncount = "${V}"\nrate = "${V}"\nloud = "${T}"\nsizes = ["${V}"]\nmode = "${V}"\nextra = ["${V}"]'
    )
    made = options(read, keys, V="3", T="true")
    assert (made.name, made.count, made.rate, made.loud, made.sizes) == ("3", 3, 3.0, True, (3,))
    assert (made.mode, made.extra) == (3, ["3"])
    assert type(made.extra[0]) is str


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            'name = "n"\ncolour = "dark-blu"',
            '.colour: must be "red" or "dark-blue", not "dark-blu" (did you mean \'dark-blue\'?)',
        ),
        ('name = "n"\nlevel = 3', '.level: must be "low" or "high", not 3'),
        ("name = 5", ".name: must be a string, not 5"),
        ('name = "n"\ncount = 1.5', ".count: must be a whole number, not 1.5"),
        ('name = "n"\ncount = true', ".count: must be a whole number, not true"),
        ('name = "n"\nrate = "fast"', '.rate: must be a number, not "fast"'),
        ('name = "n"\nloud = 1', ".loud: must be true or false, not 1"),
        ('name = "n"\npath = []', ".path: must be a path, not a list"),
        ('name = "n"\ntags = "a"', '.tags: must be a list, each a string, not "a"'),
        ('name = "n"\ntags = ["a", 1]', ".tags[1]: must be a string, not 1"),
        ('name = "n"\npair = ["a"]', ".pair: must be a list of exactly 2, not of 1"),
        ('name = "n"\npair = ["a", "b"]', '.pair[1]: must be a whole number, not "b"'),
        ('name = "n"\nweights = { a = "x" }', '.weights.a: must be a number, not "x"'),
        ('name = "n"\nweights = 3', ".weights: must be a table, each a number, not 3"),
        ('name = "n"\neither = "x"', '.either: must be a whole number or a list, each a string, not "x"'),
        ('name = "n"\nmode = 1', '.mode: must be "fast" or "safe" or 3, not 1'),
        ('name = "n"\nserver = "h"', '.server: must be a table, not "h"'),
        ('name = "n"\nserver = { }', ".server.host: is required: a string"),
        (
            'name = "n"\nserver = { host = "h", prot = 1 }',
            ".server.prot: is not an option here; allowed: host, port (did you mean 'port'?)",
        ),
        ('name = "nobody"', ": nobody is not a name"),
        ('name = "n"\nextra = ["${U}"]', ".extra[0]: the environment variable U is not set"),
        ('name = "n"\neither = ["${U}"]', ".either[0]: the environment variable U is not set"),
        ('name = "${U}"', ".name: the environment variable U is not set"),
    ],
)
def test_what_does_not_fit(problems: Problems, keys: str, said: str) -> None:
    [problem] = problems(typed(keys))
    assert problem.split(" ", 1)[1].startswith(f"stages.b.options{said}")


def test_options_of_a_plugin_that_has_none(problems: Problems) -> None:
    [problem] = problems(stages(step("b", "options = { a = 1 }")))
    assert problem == ("8: stages.b.options: plugin './step.py' takes no options; stages.b.options must be left out")
    assert problems(stages(step("b", "options = {}"))) == []
    assert problems(stages(step("b", "options = 5"))) == ["8: stages.b.options: must be a table, not 5"]


def test_options_that_are_missing_altogether(problems: Problems) -> None:
    assert problems(stages(step("b", plugin="./typed.py"))) == ["5: stages.b.options.name: is required: a string"]


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("odd: 'Nowhere' = None", "the plugin's options type Options cannot be read: NameError"),
        ("odd: complex = 0j", ".odd: must be of a type that a config cannot hold (<class 'complex'>), not 1"),
        ("odd: int = 0\n    def __post_init__(self): {}['x']", "is refused by the plugin: KeyError: 'x'"),
    ],
)
def test_options_types_that_are_wrong_themselves(problems: Problems, tmp_path: Path, declared: str, said: str) -> None:
    (tmp_path / "odd.py").write_text(
        "from dataclasses import dataclass\nfrom zpipe import hookimpl\n"
        f"@dataclass\nclass Options:\n    {declared}\n"
        "@hookimpl\ndef zpipe_options(): return Options\n@hookimpl\ndef zpipe_process(message): return 1\n"
    )
    [problem] = problems(stages(step("b", "options = { odd = 1 }", plugin="./odd.py")))
    assert said in problem
