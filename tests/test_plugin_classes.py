"""Plugins as classes: what is loaded of them, and everything that can be wrong with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zpipe import Context, Traits, plugin_loading
from zpipe.errors import PluginError

START = """
from dataclasses import dataclass
import zpipe

@dataclass
class Options:
    field: str = "a"

class Shout(zpipe.Map[Options]):
    def process(self, message, context):
        return self, message, context
"""
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        (tmp_path / "p.py").write_text(START + text)
        return tmp_path

    return write


def problem(folder: Path, name: str = "./p.py") -> str:
    with pytest.raises(PluginError) as raised:
        plugin_loading.load(name, folder)
    return str(raised.value)


def test_the_class_of_a_file(write: Write) -> None:
    found = plugin_loading.load("./p.py", write(""))
    assert (found.takes_messages, found.takes_batches, found.is_source) == (True, False, False)
    assert found.options_type is not None and found.options_type.__name__ == "Options"
    first, second = found.hooks["zpipe_process"](1, 2), found.hooks["zpipe_process"](3, 4)
    assert first[1:] == (1, 2) and first[0] is second[0], "one object has all calls"
    assert plugin_loading.load("./p.py", write("")).hooks["zpipe_process"](1, 2)[0] is not first[0]


def test_by_its_name_and_as_an_object(write: Write) -> None:
    folder = write("class Other(zpipe.Sink):\n  async def process_batch(self, messages): pass\nother = Other()\n")
    for name in ("Other", "other"):
        found = plugin_loading.load(f"./p.py:{name}", folder)
        assert (found.takes_messages, found.takes_batches, found.is_sink) == (False, True, True)
        assert (found.options_type, found.is_async) == (None, {"zpipe_process_batch"})
    assert problem(folder) == "plugin './p.py' has the classes Shout, Other: name one, as in ./p.py:Shout"


def test_a_source_that_takes_messages_too(write: Write) -> None:
    folder = write(
        "class Both(zpipe.Source[Options, int], zpipe.BatchMap[Options]):\n"
        "  def source(self, context): yield 1, 2\n  def process_batch(self, messages): pass\n"
        "  def process_each(self, messages, context): pass\n  def commit(self, position): pass\n"
    )
    both = plugin_loading.load("./p.py:Both", folder)
    assert both.options_type is not None and both.options_type.__name__ == "Options"
    assert set(both.in_stage(has_input=False).hooks) == {"zpipe_source", "zpipe_commit"}
    assert set(both.in_stage(has_input=True).hooks) == {"zpipe_process_batch", "zpipe_process_each", "zpipe_commit"}


def test_a_source_that_is_a_sink_too_is_one_or_the_other(write: Write) -> None:
    folder = write(
        "class Queue(zpipe.Source[None, int], zpipe.Sink[None]):\n"
        "  def source(self, context): yield 1, 2\n  def process(self, message): pass\n"
    )
    queue = plugin_loading.load("./p.py:Queue", folder)
    assert not queue.in_stage(has_input=False).traits(None, folder).is_sink
    assert queue.in_stage(has_input=True).traits(None, folder).is_sink


def test_a_map_that_is_for_use_as_well(write: Write) -> None:
    folder = write(
        "class Both(Shout, zpipe.Wrapper[Options]):\n  def wrap(self, call, messages, context): return call(messages)\n"
    )
    both = plugin_loading.load("./p.py:Both", folder)
    assert both.is_wrapper and both.takes_messages and both.options_type is not None
    assert set(both.in_stage(has_input=True).hooks) == {"zpipe_process"}


def test_a_base_of_another_and_a_private_class_are_not_meant(write: Write) -> None:
    folder = write("class _Helper(zpipe.Map): pass\nclass Louder(Shout): pass\n")
    assert type(plugin_loading.load("./p.py", folder).hooks["zpipe_process"](1, 2)[0]).__name__ == "Louder"


PAIR = (
    "class Read(zpipe.Source[Options, int]):\n  def source(self, context): yield 1, 2\n"
    "class Store(zpipe.Sink[None]):\n  def process(self, message, context): pass\n"
)


def test_a_source_and_what_takes_messages_are_one_plugin(write: Write) -> None:
    folder = write("del Shout\n" + PAIR)
    plugin = plugin_loading.load("./p.py", folder)
    source, sink = plugin.in_stage(has_input=False), plugin.in_stage(has_input=True)
    assert source.is_source and not source.takes_messages and source.options_type is not None
    assert sink.takes_messages and not sink.is_source and sink.options_type is None and sink.is_sink
    assert [form.hooks.keys() for form in plugin.forms] == [{"zpipe_source"}, {"zpipe_process"}]
    assert [form.in_stage(has_input=True) for form in (source, sink)] == [source, sink]


def test_a_source_beside_two_others_is_not(write: Write) -> None:
    assert "has the classes Shout, Read, Store: name one" in problem(write(PAIR))


def test_options_through_a_generic_class(write: Write) -> None:
    folder = write(
        "from typing import Generic, TypeVar\nT = TypeVar('T')\n"
        "class Base(zpipe.Source[T, int], Generic[T]):\n  def source(self, context): yield 1, 2\n"
        "class Tail(Base[Options]): pass\n"
    )
    found = plugin_loading.load("./p.py:Tail", folder)
    assert found.options_type is not None and found.options_type.__name__ == "Options"
    assert plugin_loading.load("./p.py:Base", folder).options_type is None


def test_a_sink_says_so_beside_its_own_traits(write: Write) -> None:
    folder = write(
        "class Store(zpipe.Sink[None]):\n  def process(self, message, context): pass\n"
        "class Far(Store):\n  def traits(self, options): return zpipe.Traits(needs_network=True)\n"
    )
    assert plugin_loading.load("./p.py:Store", folder).traits(None, folder) == Traits(is_sink=True)
    assert plugin_loading.load("./p.py:Far", folder).traits(None, folder) == Traits(needs_network=True, is_sink=True)
    assert plugin_loading.load("./p.py:Shout", folder).traits(None, folder) == Traits()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class W(zpipe.Map):\n  def proces(self, message, context): pass\n", "(did you mean 'process'?)"),
        ("class W(Shout):\n  def closed(self, context): pass\n", "Map has no hook 'closed' (did you mean 'close'?)"),
        ("class W(Shout):\n  def zpipe_open(self, context): pass\n", "(did you mean 'open'?)"),
        ("class W(Shout):\n  def commit(self, position, context): pass\n", "commit is a hook of zpipe.Source, not of"),
        ("class W(zpipe.Source): pass\n", "W lacks the hook source"),
        ("class W(zpipe.Sink): pass\n", "W lacks the hook process or process_batch"),
        (
            "class W(Shout):\n  def process(self, msg, context): pass\n",
            "'msg' (did you mean 'message'?); it is process(message, ",
        ),
        ("class W(Shout):\n  def process(self, message, contxt): pass\n", "(did you mean 'context'?)"),
        ("class W(zpipe.Map[dict]):\n  def process(self, message): pass\n", "the options of W are no dataclass"),
        ("class W(Shout):\n  def __init__(self, n): pass\n", "W() raised TypeError"),
        ("class W(Shout, zpipe.Sink): pass\n", "W derives from 2 of zpipe.Source, zpipe.Map"),
        ("class W(zpipe.Source, zpipe.Wrapper): pass\n", "W derives from 2 of zpipe.Source, zpipe.Map"),
        ("class W(zpipe.Source, zpipe.BatchMap): pass\n", "W lacks the hook process_batch and source"),
        (
            "class W(zpipe.Source, Shout):\n  def source(self, context): pass\n  def comit(self): pass\n",
            "Source and zpipe.Map has no hook 'comit' (did you mean 'commit'?)",
        ),
        ("class W: pass\n", "'W' is a class; name an object, such as W()"),
        ("class W(zpipe.BatchMap):\n  def process(self, message): pass\n", "W lacks the hook process_batch"),
    ],
)
def test_what_is_wrong_is_said(write: Write, text: str, expected: str) -> None:
    assert expected in problem(write(text), "./p.py:W")


def test_a_class_and_hooks_in_one_file(write: Write) -> None:
    folder = write("@zpipe.hookimpl\ndef zpipe_open(context): pass\n")
    assert "has the classes Shout and hooks besides: name one, as in ./p.py:Shout" in problem(folder)


def test_names_that_are_not_near_may_be_used(write: Write) -> None:
    folder = write("class W(Shout):\n  def parse(self): pass\n  def _proces(self): pass\n  opened = None\n")
    assert plugin_loading.load("./p.py:W", folder).takes_messages


def test_a_context_takes_one_type_or_two() -> None:
    assert Context[int].__args__ == (int, Any)
    assert Context[int, str].__args__ == (int, str)
