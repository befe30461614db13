"""Fixtures for pytest, which finds them by an entry point. They start in the test's own folder, and close what was left open.

Nothing of zpipe is imported before a test asks for one, since pytest loads this in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zpipe.hookspecs import Context
    from zpipe.testing import PipelineRun, StageRun


@pytest.fixture
def zpipe_stage(tmp_path: Path) -> Iterator[Callable[..., StageRun]]:
    """zpipe_stage(plugin, options, …): a stage as `zpipe.testing.stage` has it, open until the test ends.

    Its relative paths start in `tmp_path`, and those of the plugin in the current folder.
    """
    from zpipe.testing import stage

    with ExitStack() as open_stages:

        def start(plugin: Any, options: Any = None, **keys: Any) -> StageRun:
            keys.setdefault("folder", tmp_path)
            return open_stages.enter_context(stage(_here(plugin), options, **keys))

        yield start


@pytest.fixture
def zpipe_pipeline() -> Iterator[Callable[..., PipelineRun]]:
    """zpipe_pipeline(config): a pipeline as `zpipe.testing.pipeline` has it, open until the test ends."""
    from zpipe.testing import pipeline

    with ExitStack() as open_pipelines:
        yield lambda config, **keys: open_pipelines.enter_context(pipeline(config, **keys))


@pytest.fixture
def zpipe_context(tmp_path: Path) -> Callable[..., Context[Any, Any]]:
    """zpipe_context(options, …): a context for calling a hook by hand."""
    from zpipe.testing import make_context

    return lambda options=None, **fields: make_context(options, **({"config_dir": tmp_path} | fields))


def _here(plugin: Any) -> Any:
    """A file's path from the current folder, where the test runs, and not from the folder of the stage."""
    if isinstance(plugin, str | Path) and ".py" in str(plugin):
        return str(Path.cwd() / plugin)
    return plugin
