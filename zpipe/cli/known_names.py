"""The names that a shell completes: pipelines and configs, stages, instances. Does not belong here: how a shell asks for them.

Whatever goes wrong while a name is typed is of no interest then, so nothing is raised and nothing is printed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from zpipe.config import StageConfig

MOST_INSTANCES = 64
"""Of a stage, that are listed."""


def pipelines(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Names of pipelines that run here, and configs in the folder that is typed. Any file where none of these fits, since a shell
    shows either these or files."""
    from click.shell_completion import CompletionItem

    found = {*_running(), *_configs(typed)} if "/" not in typed else set(_configs(typed))
    items = [CompletionItem(name) for name in sorted(found) if name.startswith(typed)]
    return items or [CompletionItem(typed, type="file")]


def stages(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """STAGE and STAGE.N of the pipeline that was given before."""
    return _starting(typed, (name for stage, names in _instances(context) for name in (stage, *names)))


def instances(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """STAGE.N of the pipeline that was given before."""
    return _starting(typed, (name for _, names in _instances(context) for name in names))


def _starting(typed: str, names: Iterator[str]) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in names if name.startswith(typed)]


def _running() -> list[str]:
    from zpipe.runtime import running_pipelines

    with suppress(Exception):
        return running_pipelines.names(os.environ)
    return []


def _configs(typed: str) -> Iterator[str]:
    folder = os.path.dirname(typed)
    with suppress(OSError):
        for name in os.listdir(folder or "."):
            if name.endswith(".toml") and name != "pyproject.toml":
                yield os.path.join(folder, name)


def _of_stage(stage: StageConfig, running: Iterable[int]) -> list[str]:
    numbers = sorted({*range(1, stage.instances + 1), *running})
    return [f"{stage.name}.{number}" for number in numbers[:MOST_INSTANCES]]


def _instances(context: click.Context) -> list[tuple[str, list[str]]]:
    """Each stage with its instances: those of the config, and those that run."""
    from zpipe.runtime import running_pipelines
    from zpipe.runtime.places import Places

    with suppress(Exception):
        # Behind an option that has no value yet, click leaves all arguments as they are.
        given = context.params.get("config") or context.args[0]
        target = running_pipelines.find(Path(given), os.environ)
        places = Places(target.config, target.env)
        return [(stage.name, _of_stage(stage, places.instances(stage.name))) for stage in target.config.stages.values()]
    return []
