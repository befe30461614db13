"""Plugins of a stage's `use`: around each call once, whatever the hook is and gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zpipe.config import load
from zpipe.errors import ConfigError
from zpipe.testing import stage

WRAPPERS = """
from dataclasses import dataclass
import zpipe

@dataclass
class Options:
    word: str = "x"

class Mark(zpipe.Wrapper[Options]):
    def open(self, context):
        self.word, self.calls = context.options.word, 0

    def wrap(self, call, messages, context):
        self.calls += 1
        for message in messages:
            message.payload = f"{message.payload}{self.word}{self.calls}"
        return call(messages)

class Late(zpipe.Wrapper[None]):
    async def wrap(self, call, messages, context):
        made = await call(messages)
        return f"{made}!"

class Dedupe(zpipe.Wrapper[None]):
    def open(self, context):
        self.seen = set()

    def wrap(self, call, messages, context):
        [message] = messages
        if message.payload in self.seen:
            return zpipe.DROP
        self.seen.add(message.payload)
        return call(messages)
"""
PLAIN = "import zpipe\nclass P(zpipe.Map):\n  {}\n"
PROCESS = PLAIN.format("def process(self, message): return message.payload")
BATCH = PLAIN.replace("Map", "BatchMap").format(
    "def process_batch(self, messages): return [m.payload for m in messages]"
)
MANY = PLAIN.format("def process(self, message):\n    yield message.payload\n    yield 2")
ASYNC = PLAIN.format("async def process(self, message): return message.payload")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "w.py").write_text(WRAPPERS)
    return tmp_path


def out(folder: Path, plugin: str, payloads: list[Any], **keys: Any) -> list[Any]:
    (folder / "p.py").write_text(plugin)
    with stage(str(folder / "p.py"), **keys) as s:
        s.send_many(payloads)
        s.advance("2s")
        return s.out


def use(folder: Path, *entries: Any) -> list[Any]:
    return [entry if isinstance(entry, dict) else f"{folder}/w.py:{entry}" for entry in entries]


def test_each_call_is_wrapped_once_the_first_outermost(folder: Path) -> None:
    inner = {"plugin": f"{folder}/w.py:Mark", "options": {"word": "-"}}
    assert out(folder, PROCESS, ["a", "b"], use=use(folder, "Mark", inner)) == ["ax1-1", "bx2-2"]


def test_a_batch_is_one_call(folder: Path) -> None:
    assert out(folder, BATCH, ["a", "b"], use=use(folder, "Mark"), batch={"messages": 2}) == ["ax1", "bx1"]


def test_generators_and_awaitables_pass_through(folder: Path) -> None:
    assert out(folder, MANY, ["a"], use=use(folder, "Mark")) == ["ax1", 2]
    assert out(folder, ASYNC, ["a"], use=use(folder, "Late", "Mark")) == ["ax1!"]


def test_one_may_answer_without_a_call(folder: Path) -> None:
    assert out(folder, PROCESS, ["a", "a", "b"], use=use(folder, "Dedupe")) == ["a", "b"]


TEXT = '[pipeline]\nname = "t"\n[stages.a]\nplugin = "generate"\n[stages.b]\ninput = "a"\nplugin = "{}"\nuse = {}\n'


@pytest.mark.parametrize(
    ("plugin", "use", "said"),
    [
        ("discard", '["./w.py:Mrk"]', "(did you mean 'Mark'?)"),
        ("discard", '["discard"]', "plugin 'discard' is none to be used beside another: it has no zpipe_wrap"),
        ("discard", '[{ plugin = "./w.py:Mark", options = { wrd = 1 } }]', "(did you mean 'word'?)"),
        ("discard", '[{ plugin = "./w.py:Late", options = { a = 1 } }]', "takes no options"),
        ("discard", "[5]", 'the name of a plugin, or { plugin = "NAME", options = { … } }'),
        ("./w.py:Mark", '["./w.py:Mark"]', "is for the `use` of a stage"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(folder: Path, plugin: str, use: str, said: str) -> None:
    path = folder / "p.toml"
    path.write_text(TEXT.format(plugin, use))
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert said in str(raised.value) and "p.toml:" in str(raised.value)
