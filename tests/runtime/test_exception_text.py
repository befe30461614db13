"""Tracebacks as they are logged and stored."""

from __future__ import annotations

from typing import Any

from zpipe.runtime.exception_text import ZPIPE, traceback_of


def function(name: str, file: str, body: str, **known: Any) -> Any:
    exec(compile(f"def {name}():\n    {body}", file, "exec"), known)
    return known[name]


def trace_of(call: Any) -> str:
    try:
        call()
    except Exception as error:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
        return traceback_of(error)
    raise AssertionError("it raises nothing")


def test_a_fault_of_a_plugin_is_alike_by_whichever_way_it_was_called() -> None:
    plugin = function("work", "/plugins/work.py", "1 / 0")
    ways = [function(name, f"{ZPIPE}daemon/{name}.py", "called()", called=plugin) for name in ("one", "each")]
    first, second = map(trace_of, ways)
    assert first == second and "in work" in first and "in one" not in first


def test_what_the_plugin_calls_in_zpipe_is_told() -> None:
    inner = function("inner", f"{ZPIPE}inner.py", "1 / 0")
    text = trace_of(function("work", "/plugins/work.py", "called()", called=inner))
    assert "in work" in text and "in inner" in text


def test_one_that_is_all_zpipes_is_whole() -> None:
    inner = function("inner", f"{ZPIPE}inner.py", "1 / 0")
    text = trace_of(function("outer", f"{ZPIPE}outer.py", "called()", called=inner))
    assert "in outer" in text and "in inner" in text
