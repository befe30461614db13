"""Which files the stages of a run are made of, and which have changed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from zpipe.config import load
from zpipe.supervisor.file_watch import LOOK_S, FileWatch, files_of

CONFIG = """
[pipeline]
name = "p"
[stages.read]
plugin = "./read.py:made"
[stages.call]
input = "read"
plugin = "python"
use = ["./around.py:made"]
options = { function = "work.py:work" }
[stages.run]
input = "call"
plugin = "exec"
options = { command = ["./stage", "stage.js", "data.txt"] }
[stages.package]
input = "run"
plugin = "watched_package:made"
"""
PLUGIN = """
from zpipe import hookimpl
class Made:
    @hookimpl
    def HOOK: return []
made = Made()
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "read.py").write_text(PLUGIN.replace("HOOK", "zpipe_source(self, context)"))
    (tmp_path / "around.py").write_text(PLUGIN.replace("HOOK", "zpipe_wrap(self, call, messages)"))
    (tmp_path / "work.py").write_text("def work(payload): return payload")
    (tmp_path / "stage").write_text("#!/bin/sh")
    (tmp_path / "stage").chmod(0o755)
    for name in ("stage.js", "data.txt"):
        (tmp_path / name).write_text("")
    package = tmp_path / "watched_package"
    package.mkdir()
    (package / "__init__.py").write_text(PLUGIN.replace("HOOK", "zpipe_process(self, message)"))
    (package / "inner.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "watched_package", raising=False)
    (tmp_path / "p.toml").write_text(CONFIG)
    return tmp_path / "p.toml"


def test_a_stage_is_made_of_its_plugin_and_of_the_programs_that_its_options_name(config: Path) -> None:
    loaded = load(config)
    found = {
        stage: sorted(str(f.relative_to(config.parent)) for f in files_of(loaded, stage)) for stage in loaded.stages
    }
    assert found == {
        "read": ["read.py"],
        "call": ["around.py", "work.py"],
        "run": ["stage", "stage.js"],
        "package": ["watched_package/__init__.py", "watched_package/inner.py"],
    }


def test_what_has_changed_is_told_once(config: Path) -> None:
    watch = FileWatch(load(config))
    inner, script = config.parent / "watched_package" / "inner.py", config.parent / "stage.js"
    assert watch.changed(0.0) == set()
    inner.write_text("changed = 1")
    os.remove(script)
    assert watch.changed(LOOK_S / 2) == set(), "it looks now and then"
    changed = watch.changed(LOOK_S)
    assert changed == {inner, script}
    assert watch.stages_of(changed) == {"package": inner}, "one that is gone is nobody's until it is back"
    assert watch.changed(2 * LOOK_S) == set()
    script.write_text("// anew")
    assert watch.stages_of(watch.changed(3 * LOOK_S)) == {"run": script}
