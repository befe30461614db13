"""zpipe stage CONFIG STAGE"""

from __future__ import annotations

import os
from pathlib import Path

import click

from zpipe.config import load
from zpipe.errors import ExitCode
from zpipe.plugin import nearest_name


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("stage")
@click.option("--instance", "-i", type=click.IntRange(min=1), default=1, show_default=True, help="Which instance.")
@click.option("--fresh", is_flag=True, help="Forget the source's committed position.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Default: the config's.")
def command(config: Path, stage: str, instance: int, fresh: bool, log_level: str | None) -> ExitCode:
    """Run one instance of a stage in the foreground (what systemd runs).

    SIGTERM or Ctrl-C leaves: what is started is finished, the rest goes back. A second one stops now.
    """
    from zpipe.daemon.assembly import run_stage

    pipeline = load(config, only=stage)
    if stage not in pipeline.stages:
        near = nearest_name(stage, pipeline.stages)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise click.UsageError(f"{config} has no stage {stage!r}{hint}; it has {', '.join(pipeline.stages)}")
    return run_stage(pipeline, stage, instance, os.environ, fresh, log_level or pipeline.log_level)
