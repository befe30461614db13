"""zpipe run CONFIG"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import click

from zpipe.cli.operating.run_report import exit_code, print_ledger
from zpipe.cli.parameters import TimeType, config_argument, host_environment
from zpipe.config import InstanceKey, PipelineConfig, load
from zpipe.errors import ExitCode
from zpipe.monitor.model.run_ledger import RunLedger
from zpipe.monitor.run.progress import LiveProgress, PlainProgress
from zpipe.runtime.environment import HOST, LEAVE_BUFFERS
from zpipe.runtime.logs import for_children
from zpipe.supervisor.file_watch import FileWatch
from zpipe.supervisor.supervisor import Supervisor


@click.command()
@config_argument
@click.option("--json", "as_json", is_flag=True, help="End with the ledger as one line of JSON on stdout.")
@click.option(
    "--fresh",
    is_flag=True,
    help="Start over: forget the committed positions, and what the plugins keep in their state_dir. What disk buffers have is"
    " sent all the same, as it was acked: zpipe buffer drop.",
)
@click.option("--host", metavar="NAME", help="Run the instances of that host of the pipeline.  [default: this one]")
@click.option("--quiet", "-q", is_flag=True, help="No progress, and no table of the ledger at the end.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="warning", show_default=True
)
@click.option(
    "--drain-timeout",
    type=TimeType(),
    metavar="TIME",
    help="Stop now if a drain takes longer (exit code 4).  [default: as long as it takes]",
)
@click.option(
    "--leave-buffers",
    is_flag=True,
    help="Do not wait at the end for consumers of disk buffers: what is stored is kept for the next run.",
)
@click.option(
    "--watch", is_flag=True, help="Start stages again whose plugin's files, or whose part of CONFIG, have changed."
)
@click.option(
    "--no-warm", is_flag=True, help="Start each instance as a new interpreter, not from one that has loaded zpipe."
)
def command(
    config: Path,
    as_json: bool,
    fresh: bool,
    host: str | None,
    quiet: bool,
    log_level: str,
    drain_timeout: float | None,
    leave_buffers: bool,
    watch: bool,
    no_warm: bool,
) -> ExitCode:
    """Run a whole pipeline in this terminal until its sources end.

    Every instance is a daemon of its own; one that dies is started again. Ctrl-C drains: the sources are closed and
    everything held is finished. A second one stops now; the next run goes on from the committed positions.

    Of a pipeline with hosts it runs the instances of one. There Ctrl-C drains the pipeline if a head runs on this host; else this
    host's instances leave, and the others go on.

    Refused where an instance of the pipeline runs already, whoever owns it, or a folder of it belongs to somebody else.
    """
    pipeline = load(config)
    env = host_environment(pipeline, os.environ, host)
    if leave_buffers:
        env = {**env, LEAVE_BUFFERS: "1"}
    ledger = RunLedger(pipeline, here=pipeline.instances_on(env.get(HOST, "")))
    drain_timeout_s = float("inf") if drain_timeout is None else drain_timeout
    code, result = supervise(
        pipeline,
        env,
        ledger,
        quiet=quiet,
        fresh=fresh,
        level=log_level,
        drain_timeout_s=drain_timeout_s,
        file_watch=FileWatch(pipeline) if watch else None,
        warm=not no_warm,
    )
    try:
        if as_json:
            click.echo(json.dumps(result))
        elif not quiet:  # stdout may be that of a stage, for another program
            print_ledger(result)
    except BrokenPipeError:  # nobody reads stdout any more; the exit code still says how the run ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exit_code(code, ledger, result)


def supervise(
    pipeline: PipelineConfig,
    env: Mapping[str, str],
    ledger: RunLedger,
    *,
    quiet: bool = False,
    fresh: bool = False,
    level: str = "warning",
    replay: Collection[InstanceKey] = (),
    drain_timeout_s: float = float("inf"),
    file_watch: FileWatch | None = None,
    warm: bool = True,
) -> tuple[ExitCode, dict[str, Any]]:
    """Runs the pipeline, and shows how it goes. Returns how it ended, and the ledger as JSON. Blocks. Raises OperatorError."""
    display = LiveProgress(pipeline) if sys.stderr.isatty() and not quiet else PlainProgress(pipeline, quiet)
    began = time.monotonic()
    try:
        code = Supervisor(
            pipeline,
            for_children(env),
            display,
            ledger,
            fresh,
            level,
            replay=replay,
            drain_timeout_s=drain_timeout_s,
            file_watch=file_watch,
            warm=warm,
        ).run()
    finally:
        display.close()
    return code, ledger.as_json(time.monotonic() - began)
