"""A pipeline for each test, in short folders of its own; nothing of it survives the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_types import MakePipeline
from pipeline import Pipeline


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
