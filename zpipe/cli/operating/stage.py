"""zpipe stage CONFIG STAGE[.N], zpipe stage --unit PIPELINE.STAGE.N"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from zpipe.cli import known_names
from zpipe.config import load
from zpipe.config.targets import read_stage_target
from zpipe.errors import ExitCode
from zpipe.units import unit_names


@click.command()
@click.argument(
    "config",
    required=False,
    metavar="CONFIG",
    type=click.Path(path_type=Path),
    shell_complete=known_names.pipelines,
)
@click.argument("stage", required=False, metavar="STAGE[.N]", shell_complete=known_names.stages)
@click.option("--instance", "-i", type=click.IntRange(min=1), help="Which instance, as N does.  [default: 1]")
@click.option("--unit", metavar="PIPELINE.STAGE.N", help="All three at once; the config is /etc/zpipe/PIPELINE.toml.")
@click.option(
    "--fresh",
    is_flag=True,
    help="Start over: forget the committed position, and what the plugin keeps in its state_dir. What disk buffers have is sent"
    " all the same, as it was acked: zpipe buffer drop.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Default: the config's.")
@click.option(
    "--record-events",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write all that happens to the instance to FILE, with the content of its messages, for the report of a fault.",
)
def command(
    config: Path | None,
    stage: str | None,
    instance: int | None,
    unit: str | None,
    fresh: bool,
    log_level: str | None,
    record_events: Path | None,
) -> ExitCode:
    """Run one instance of a stage in the foreground (what systemd runs).

    SIGTERM or Ctrl-C leaves: what is started is finished, the rest goes back. A second one stops now.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # an early reload waits until the instance listens
    if unit is not None:
        if config is not None or instance is not None:
            raise click.UsageError("--unit names the config, the stage and the instance: leave the others out")
        found, pipeline = unit_names.load(unit)
        stage, instance = found.stage, found.instance
    elif config is None or stage is None:
        raise click.UsageError("give CONFIG and STAGE, or --unit PIPELINE.STAGE.N")
    else:
        pipeline = load(config, only=stage.partition(".")[0])
        stage, number = read_stage_target(pipeline, stage)
        if number is not None and instance is not None:
            raise click.UsageError(f"give {stage}.{number} or --instance {instance}, not both")
        instance = number or instance
    if pipeline.stages[stage].traits.needs_network:
        from zpipe.units import sandbox  # most stages do not need it

        sandbox.check_network(pipeline.stages[stage])
    if pipeline.stages[stage].command:
        if record_events is not None:
            raise click.UsageError(f"stage {stage!r} is a program in another language: its events cannot be recorded")
        from zpipe.daemon.keeper import run_program

        return run_program(pipeline, stage, instance or 1, os.environ, fresh, log_level or pipeline.log_level)
    from zpipe.daemon.instance import run_stage

    level = log_level or pipeline.log_level
    return run_stage(pipeline, stage, instance or 1, os.environ, fresh, level, record_events)
