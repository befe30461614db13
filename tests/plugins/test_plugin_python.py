from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from zpipe import DROP, Message
from zpipe.errors import OperatorError
from zpipe_plugins.python import Options, Python

WORK = """
from zpipe import DROP
seen = []
def double(p): return p * 2
def both(p):
    yield p
    yield -p
def pair(p): return [p, p]
def drop(p): return DROP
def nothing(p): seen.append(p)
async def later(p): return (p, p)
async def many(p):
    yield p
    yield -p
def each(ps): return [DROP if p == 2 else [p] for p in ps]
def spread(ps):
    for p in ps:
        yield p
        yield p
def table(ps): return {"a": 1}
class Scale:
    by = 3
    def times(self, p): return p * self.by
    async def __call__(self, p): return p * self.by
scale = Scale()
not_callable = 5
def two(a, b): return a
"""


@pytest.fixture
def call(make_context: Any, tmp_path: Path) -> Any:
    (tmp_path / "work.py").write_text(WORK)

    def call(name: str, argument: Any, **more: Any) -> Any:
        context = make_context(Options(f"work.py:{name}"), **({"last": False} | more))
        plugin = Python()
        plugin.open(context)
        if context.batching:
            return plugin.process_batch([Message(p) for p in argument], context)
        return plugin.process(Message(argument), context)

    return call


def test_what_the_function_returns_is_what_the_hook_returns(call: Any) -> None:
    """The daemon gives it its meaning, so it is the same as in any plugin (tests/daemon/plugin/test_outputs.py)."""
    assert call("double", 2) == 4
    assert list(call("both", 2)) == [2, -2]
    assert call("drop", 2) is DROP
    assert call("nothing", 2) is None
    assert call("scale.times", 2) == 6
    assert call("pair", 2) == [2, 2]
    assert asyncio.run(call("later", 2)) == (2, 2)
    assert asyncio.run(call("scale", 2)) == 6
    assert isinstance(call("many", 2), AsyncIterator)


def test_batch(call: Any) -> None:
    assert call("each", [1, 2, 3], batching=True) == [[1], DROP, [3]]
    assert list(call("spread", [1, 2], batching=True)) == [1, 1, 2, 2]
    assert call("drop", [1, 2], batching=True) is DROP
    assert call("table", [1, 2], batching=True) == {"a": 1}


@pytest.mark.parametrize(
    ("function", "text"),
    [
        ("work.py:doubel", "work.py has no 'doubel' (did you mean 'double'?)"),
        ("work.py:scale.tims", "work.py has no 'scale.tims' (did you mean 'times'?)"),
        ("work.py:not_callable", "not_callable is a int, which cannot be called"),
        ("work.py:two", "called with one argument, the payload, but missing a required argument: 'b'"),
        ("wrk.py:double", "(did you mean 'work.py'?)"),
        ("broken.py:f", "importing it failed: ZeroDivisionError: division by zero"),
        ("exits.py:f", "importing it failed: SystemExit"),
        ("broken:f", "importing it failed: ZeroDivisionError"),
        ("needy:f", "importing it failed: ModuleNotFoundError: No module named 'surely_not_there'"),
        ("brokn:f", "there is no module 'brokn' in"),
        ("brokn:f", "(did you mean 'broken'?)"),
    ],
)
def test_what_cannot_be_called_is_told_at_once(make_context: Any, tmp_path: Path, function: str, text: str) -> None:
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "exits.py").write_text("raise SystemExit(1)")
    (tmp_path / "needy.py").write_text("import surely_not_there")
    with pytest.raises(OperatorError) as caught:
        Python().open(make_context(Options(function)))
    assert text in str(caught.value)
    assert repr(function) in str(caught.value)


def test_module_beside_the_config(make_context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    (tmp_path / "beside_the_config.py").write_text("import helper_of_it\nf = helper_of_it.f\n")
    (tmp_path / "helper_of_it.py").write_text("def f(p): return p + 1\n")
    for spec in ("beside_the_config:f", "beside_the_config.py:f"):
        plugin, context = Python(), make_context(Options(spec), last=False)
        plugin.open(context)
        assert plugin.process(Message(1), context) == 2


def test_two_files_of_one_name(make_context: Any, tmp_path: Path) -> None:
    found = []
    for n in (1, 2):
        folder = tmp_path / str(n)
        folder.mkdir()
        (folder / "same.py").write_text(f"def f(p): return {n}\n")
        plugin, context = Python(), make_context(Options(f"{n}/same.py:f"), last=False)
        plugin.open(context)
        found.append(plugin.process(Message(None), context))
    assert found == [1, 2]


def test_functions_that_do_not_say_what_they_take(make_context: Any) -> None:
    plugin, context = Python(), make_context(Options("builtins:dict"), last=False)
    plugin.open(context)
    assert plugin.process(Message({"a": 1}), context) == {"a": 1}


@pytest.mark.parametrize("function", ["", "f", ":f", "module:", "a b:f", "module:f()", "x.py:1"])
def test_wrong_options(function: str) -> None:
    with pytest.raises(ValueError, match=r"allowed are 'module:name' and 'path.py:name'"):
        Options(function)
