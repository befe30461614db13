"""`zpipe.testing.pipeline`: a config's pipeline with its real plugins, killed and cut, and each message in the sink once."""

from __future__ import annotations

import gc
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from zpipe.errors import ConfigError, TargetError
from zpipe.testing import pipeline

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = { count = 300 }

[stages.double]
input = "read"
plugin = "python"
instances = 2
retry = { attempts = 2 }
options = { function = "double.py:double" }

[stages.store]
input = "double"
plugin = "sqlite"
batch = { messages = 20, timeout = "100ms" }
options = { path = "out.db", table = "t", key = "id" }
"""
DOUBLE = """
def double(payload):
    if payload["id"] == 13:
        raise ValueError("unlucky")
    return {"id": payload["id"], "double": 2 * payload["id"]}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "double.py").write_text(DOUBLE)
    path = tmp_path / "p.toml"
    path.write_text(CONFIG)
    return path


def stored(config: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(config.parent / "out.db")) as connection:
        return connection.execute("SELECT id, double FROM t ORDER BY id").fetchall()


EXPECTED = [(n, 2 * n) for n in range(300) if n != 13]


def test_a_pipeline_runs_to_its_end(config: Path) -> None:
    with pipeline(config) as p:
        p.run()
        assert [(dead.stage, dead.id, dead.reason) for dead in p.dead] == [("double", "read:13", "ValueError: unlucky")]
        assert p.attempts["double"]["read:13"] == 2
        assert len(p.received["store"]) == 299
    assert stored(config) == EXPECTED


@pytest.mark.parametrize("seed", range(4))
def test_kills_and_spoilt_links_lose_nothing(config: Path, seed: int) -> None:
    with pipeline(config, seed=seed) as p:
        p.spoil(delay="20ms", duplicate=0.2, drop=0.2, reorder=True)
        p.advance("30ms")
        for stage in ("double", "store", "read", "double"):
            p.kill(stage)
            p.advance("150ms")
        p.stall("double->store", "3s")
        p.freeze("double", "1s", instance=2)
        p.advance("1s")
        p.spoil()
        p.run()
    assert stored(config) == EXPECTED


def test_nobody_is_warned_of_what_a_killed_plugin_had_open(tmp_path: Path) -> None:
    (tmp_path / "keeps.py").write_text(
        "from zpipe import hookimpl\n@hookimpl\ndef zpipe_open(context):\n    context.kept = open(__file__)\n"
        "@hookimpl\ndef zpipe_process(message, context):\n    pass\n"
        "@hookimpl\ndef zpipe_close(context):\n    context.kept.close()\n"
    )
    (tmp_path / "p.toml").write_text(
        '[pipeline]\nname = "p"\n[stages.read]\nplugin = "generate"\noptions = { count = 9 }\n'
        '[stages.keep]\ninput = "read"\nplugin = "./keeps.py"\n'
    )
    with pipeline(tmp_path / "p.toml") as p:
        p.kill("keep")
        p.run()
    gc.collect()  # has this test fail for a warning


def test_nothing_passes_a_link_that_stands_still(config: Path) -> None:
    with pipeline(config) as p:
        p.stall("read->double", "1m")
        p.advance("59s")
        assert not p.received["double"]
        p.advance("2s")
        assert len(p.received["double"]) >= 300
        p.run()


def test_an_endless_source_that_waits_by_the_virtual_clock_is_drained(tmp_path: Path) -> None:
    (tmp_path / "ticks.py").write_text(
        "from zpipe import hookimpl\ncommitted = []\n"
        "@hookimpl\ndef zpipe_source(context):\n    n = 0\n"
        "    while not context.stopping.wait(1):\n        yield n, n\n        n += 1\n"
    )
    (tmp_path / "p.toml").write_text(
        '[pipeline]\nname = "p"\n[stages.ticks]\nplugin = "./ticks.py"\n[stages.out]\ninput = "ticks"\nplugin = "discard"\n'
    )
    with pipeline(tmp_path / "p.toml") as p:
        p.advance("10500ms")
        assert [message.payload for message in p.received["out"]] == list(range(10))
        p.drain()
        assert len(p.received["out"]) == 10


QUEUE = """
from zpipe import Traits, hookimpl

acked = []

@hookimpl
def zpipe_traits(options, config_dir):
    return Traits(divides=True)

@hookimpl
def zpipe_source(context):
    for n in range(context.instance, 41, context.instances):
        yield n, n

@hookimpl
def zpipe_ack(ids, context):
    with open(context.config_dir / f"acked.{context.instance}", "a") as file:
        file.writelines(f"{id}\\n" for id in ids)
"""


def test_heads_that_divide_what_they_read_hear_of_each_message(tmp_path: Path) -> None:
    (tmp_path / "queue.py").write_text(QUEUE.replace("\\\\n", "\\n"))
    (tmp_path / "p.toml").write_text(
        '[pipeline]\nname = "p"\n[stages.read]\nplugin = "./queue.py"\ninstances = 2\n'
        '[stages.out]\ninput = "read"\nplugin = "discard"\n'
    )
    with pipeline(tmp_path / "p.toml") as p:
        p.run()
        assert sorted(message.payload for message in p.received["out"]) == list(range(1, 41))
    for instance in (1, 2):
        lines = (tmp_path / f"acked.{instance}").read_text().split()
        assert sorted(lines) == sorted(f"read:{n}" for n in range(instance, 41, 2))


@pytest.mark.parametrize(
    ("what", "arguments", "said"),
    [
        ("kill", ("stor",), r"there is no stage 'stor' \(did you mean 'store'\?\)"),
        ("kill", ("double", 3), "stage 'double' has no instance 3: allowed are 1 to 2"),
        ("freeze", ("double", "1s", 0), "stage 'double' has no instance 0: allowed are 1 to 2"),
        ("stall", ("read->dubble", "1s"), r"there is no link 'read->dubble' \(did you mean 'read->double'\?\)"),
        ("stall", ("store", "1s"), "there is no link 'store': there are double->store, read->double"),
    ],
)
def test_what_is_not_there_is_told(config: Path, what: str, arguments: tuple[Any, ...], said: str) -> None:
    with pipeline(config) as p, pytest.raises(TargetError, match=said):
        getattr(p, what)(*arguments)


def test_one_that_is_dead_cannot_be_stopped(config: Path) -> None:
    with pipeline(config) as p:
        p.advance("30ms")
        p.kill("double")
        p.freeze("double", "1m")
        p.kill("double")
        p.run()
    assert stored(config) == EXPECTED


def test_mistakes_are_told(config: Path) -> None:
    config.write_text(CONFIG.replace("count", "cout"))
    with pytest.raises(ConfigError, match="did you mean 'count'"):
        pipeline(config)
