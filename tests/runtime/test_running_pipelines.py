"""Finding pipelines by the records in runtime folders: which folders are looked into, and what is found in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from zpipe.config import load
from zpipe.errors import ConfigError, NoPeerError, TargetError
from zpipe.runtime import running_pipelines
from zpipe.runtime.locks import InstanceLock
from zpipe.runtime.places import Places

TEXT = '[pipeline]\nname = "p"\n[stages.a]\nplugin = "generate"\n[stages.b]\ninput = "a"\nplugin = "discard"\n'


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "p.toml"
    path.write_text(TEXT)
    return path


def lives(config: Path, stage: str, stack: ExitStack) -> Path:
    """As an instance does: its lock is held, and its record left. Its runtime folder."""
    loaded = load(config, only="")
    places = Places(loaded, os.environ)
    folder = places.runtime(stage, 1)
    lock = InstanceLock(folder, f"p.{stage}.1")
    stack.callback(lock.release)
    running_pipelines.write_record(places, loaded, stage, 1)
    return folder


def find(given: object) -> running_pipelines.Target:
    return running_pipelines.find(Path(str(given)), os.environ)


def test_the_file_counts_where_nothing_runs_and_a_name_needs_something(home: Path, config: Path) -> None:
    found = find(config)
    assert (found.config.name, found.env, found.notes) == ("p", os.environ, ())
    with pytest.raises(NoPeerError, match=r"no pipeline 'p' runs here, .*running are none \(looked into .*/r\)"):
        find("p")
    config.write_text("[")
    with pytest.raises(ConfigError):
        find(config)


def test_what_has_stopped_is_known_by_its_name_but_is_no_match_for_the_file(
    home: Path, config: Path, stack: ExitStack
) -> None:
    with ExitStack() as life:
        lives(config, "a", life)
        assert find("p").notes == ()
    assert find("p").config.path == config
    config.write_text(TEXT.replace("generate", "files"))
    assert find(config).config.stages["a"].plugin == "files"
    assert find(config).notes == ()


def test_a_run_that_is_over_does_not_hide_the_pipeline_of_that_name_in_etc(
    home: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its letters would be shown, replayed or dropped in place of the other's."""
    with ExitStack() as life:
        lives(config, "a", life)
    system = tmp_path / "etc"
    system.mkdir()
    monkeypatch.setattr(running_pipelines, "SYSTEM_CONFIGS", system)
    assert find("p").config.path == config
    (system / "p.toml").write_text(TEXT)
    with pytest.raises(
        TargetError, match=rf"more than one pipeline 'p': .*{config}, .*{system}/p.toml; name the config"
    ):
        find("p")
    assert find(system / "p.toml").config.path == system / "p.toml"
    with ExitStack() as life:
        lives(config, "a", life)
        assert find("p").config.path == config, "what runs counts"


@pytest.mark.parametrize("name", ["config.json", "lock"])
def test_nobody_waits_for_what_stands_in_place_of_a_file(home: Path, config: Path, stack: ExitStack, name: str) -> None:
    """Whoever looks may be root, and the folder anybody's."""
    folder = lives(config, "a", stack)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert find(config).notes == ()
    (folder / name).unlink()
    (folder / name).symlink_to(config)
    assert find(config).notes == ()


def test_a_record_at_the_bound_of_its_size_is_read_and_one_above_is_not(
    home: Path, config: Path, stack: ExitStack
) -> None:
    folder = lives(config, "a", stack)
    path = folder / running_pipelines.FILE
    text = path.read_text()
    path.write_text(text.ljust(running_pipelines.LARGEST_BYTES))
    assert find("p").config.name == "p"
    path.write_text(text.ljust(running_pipelines.LARGEST_BYTES + 1))
    with pytest.raises(NoPeerError):
        find("p")


def test_a_record_of_another_instance_is_none(home: Path, config: Path, stack: ExitStack) -> None:
    folder = lives(config, "a", stack)
    folder.rename(folder.with_name("q.a.1"))
    for name in ("p", "q"):
        with pytest.raises(NoPeerError):
            find(name)


def test_another_version_is_named(home: Path, config: Path, stack: ExitStack) -> None:
    folder = lives(config, "a", stack)
    value = json.loads((folder / running_pipelines.FILE).read_text())
    (folder / running_pipelines.FILE).write_text(json.dumps(value | {"version": "0.0.9"}))
    assert find("p").notes == (f"pipeline 'p' runs zpipe 0.0.9, and this is {value['version']}",)
