"""CONFIG|PIPELINE: what commands that ask a running pipeline take. May live here: that argument, and finding what it names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from zpipe.runtime.running_pipelines import Target

C = TypeVar("C", bound=Callable[..., Any])
METAVAR = "CONFIG|PIPELINE"


def target_argument(function: C) -> C:
    """The command gets it as `config`."""
    return click.argument("config", metavar=METAVAR, type=click.Path(path_type=Path))(function)


def find_target(given: Path) -> Target:
    """The pipeline of that file or of that name; says where the file is not what runs. Raises ZpipeError."""
    from zpipe.runtime import running_pipelines

    target = running_pipelines.find(given, os.environ)
    for note in target.notes:
        click.echo(f"zpipe: {note}", err=True)
    return target
