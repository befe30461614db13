"""What several commands take and give: CONFIG|PIPELINE, a time, a value as JSON. Does not belong here: what one command has."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zpipe.cli import known_names
from zpipe.config.reading import values

if TYPE_CHECKING:
    from zpipe.config import PipelineConfig
    from zpipe.runtime.running_pipelines import Target

C = TypeVar("C", bound=Callable[..., Any])
METAVAR = "CONFIG|PIPELINE"


_file = partial(click.argument, "config", type=click.Path(path_type=Path), shell_complete=known_names.pipelines)
target_argument = _file(metavar=METAVAR)
"""CONFIG|PIPELINE, which the command gets as `config`."""
config_argument = _file(metavar="CONFIG")
"""CONFIG, of a command that reads the file whatever runs."""
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON value on stdout.")
"""Of a command that prints one value. The command gets it as `as_json`."""


def stage_argument(name: str, metavar: str = "STAGE[.N]") -> Callable[[C], C]:
    """Adds the argument STAGE[.N]: a stage, or one instance of it (`config.targets.read_stage_target`)."""
    return click.argument(name, metavar=metavar, shell_complete=known_names.stages)


def find_target(given: Path) -> Target:
    """The pipeline of that file or of that name. Tells the user if the file differs from what runs. Raises ZpipeError."""
    from zpipe.runtime import running_pipelines

    target = running_pipelines.find(given, os.environ)
    for note in target.notes:
        click.echo(f"zpipe: {note}", err=True)
    return target


def host_environment(config: PipelineConfig, env: Mapping[str, str], host: str | None) -> Mapping[str, str]:
    """The environment with the host of the pipeline that this is, or is to be taken for. Raises UsageError if that cannot be
    known."""
    from zpipe.runtime import this_host
    from zpipe.runtime.environment import HOST

    name = host or this_host.name_of(config, env)
    known = ", ".join(config.hosts)
    if host and host not in config.hosts:
        raise click.UsageError(f"{config.path} has no host {host!r}; it has {known or 'none'}")
    if config.hosts and not name:
        raise click.UsageError(f"this machine is none of {known}, as far as can be seen: say which by --host NAME")
    return {**env, HOST: name} if config.hosts else env


def json_or_text(value: Any) -> Any:
    """The value as JSON has it, or as text if it is one that JSON does not have."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return str(value)


class TimeType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """5, 5s, 2m or 250ms, as in a config. The command gets seconds. `zero`: whether 0 is allowed."""

    name = "time"

    def __init__(self, zero: bool = False) -> None:
        self._read = values.duration(zero=zero)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
