"""A drain of instances that run and are slow to answer, as on a busy machine."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from zpipe.config import load
from zpipe.errors import ExitCode, NoPeerError
from zpipe.operate.pipeline_drain import PipelineDrain
from zpipe.runtime.locks import InstanceLock
from zpipe.runtime.places import Places

CONFIG = """
[pipeline]
name = "busy"
[stages.make]
plugin = "generate"
[stages.sink]
input = "make"
plugin = "discard"
"""


@pytest.fixture
def drain(home: Path) -> PipelineDrain:
    (home / "p.toml").write_text(CONFIG)
    return PipelineDrain(load(home / "p.toml", only=""), os.environ)


def test_an_instance_that_runs_and_says_nothing_yet_is_waited_for(drain: PipelineDrain, home: Path) -> None:
    folder = Places(load(home / "p.toml", only=""), os.environ).runtime("make", 1)
    folder.mkdir(parents=True, mode=0o700)
    lock = InstanceLock(folder, "busy.make.1")
    with closing(drain):
        drain.gather(0.0)
        assert drain.run(0.0, lambda: None) is ExitCode.DRAIN_TIMEOUT
        assert drain.missing() == ["make.1 runs but does not answer (stopped?)", "sink.1 is not running"]
        lock.release()
        with pytest.raises(NoPeerError, match="no instance of pipeline 'busy' is running"):
            drain.run(60.0, lambda: None)


def test_without_any_instance_there_is_nothing_to_drain(drain: PipelineDrain) -> None:
    with closing(drain), pytest.raises(NoPeerError, match="no instance of pipeline 'busy' is running"):
        drain.gather(0.0)
