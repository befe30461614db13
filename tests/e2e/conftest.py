"""A pipeline for each test, in short folders of its own; nothing of it survives the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_types import MakePipeline
from installation import Installed, wheel_installed
from pipeline import Pipeline

ENDLESS_WORK = """
[pipeline]
name = "endless"

[telemetry]
interval = "200ms"

[stages.read]
plugin = "generate"
options = {{ rate = 200 }}

[stages.work]
input = "read"
plugin = "python"
retry = {{ {retry} }}
options = {{ function = "work.py:work" }}

[stages.store]
input = "work"
plugin = "discard"
"""


@pytest.fixture
def make(home: Path) -> Iterator[MakePipeline]:
    """make(config, module=source…): the pipeline of this test."""
    made: list[Pipeline] = []

    def make_one(text: str, **modules: str) -> Pipeline:
        made.append(Pipeline(home, text, **modules))
        return made[-1]

    yield make_one
    for pipeline in made:
        pipeline.kill_all()


@pytest.fixture
def make_work(make: MakePipeline) -> MakePipeline:
    """make_work(source of work.py, retry=keys): a pipeline without end, in the middle of which is the stage `work`."""

    def make_one(source: str, retry: str = "deaths = 2") -> Pipeline:
        return make(ENDLESS_WORK.format(retry=retry), work=source)

    return make_one


@pytest.fixture(scope="session")
def installed() -> Iterator[Installed]:
    with wheel_installed() as found:
        yield found
