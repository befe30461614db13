"""The configs that zpipe ships are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from zpipe.config import load
from zpipe.core.policy import BatchPolicy

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_examples_have_no_mistakes(path: Path) -> None:
    assert load(path, env={"STDLIB": "/usr/lib/python3", "ZPIPE_RUNTIME_DIR": "/run/z"}).stages


def test_the_demo() -> None:
    config = load(CONFIGS / "index.toml", env={"STDLIB": "/lib", "ZPIPE_RUNTIME_DIR": "/run/z"})
    read, parse, store = config.stages.values()
    assert (read.options.paths, read.options.format) == (["/lib/**/*.py"], "file")
    assert (parse.instances, parse.options.function) == (2, "python_index.py:parse")
    assert store.batch == BatchPolicy(messages=200, timeout_s=1.0)
    assert (store.options.path, store.options.fts) == ("index.db", ["name", "signature", "docstring"])
