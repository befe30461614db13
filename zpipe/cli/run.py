"""zpipe run CONFIG"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import click

from zpipe.cli.parameters import TimeType
from zpipe.config import load
from zpipe.errors import ExitCode


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="End with the ledger as one line of JSON on stdout.")
@click.option(
    "--fresh",
    is_flag=True,
    help="Start over: forget the committed positions, and what the plugins keep in their state_dir.",
)
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="warning", show_default=True
)
@click.option(
    "--drain-timeout",
    type=TimeType(),
    metavar="TIME",
    help="Stop now if a drain takes longer (exit code 4).  [default: as long as it takes]",
)
def command(
    config: Path, as_json: bool, fresh: bool, quiet: bool, log_level: str, drain_timeout: float | None
) -> ExitCode:
    """Run a whole pipeline in this terminal until its sources end.

    Every instance is a daemon of its own; one that dies is started again. Ctrl-C drains: the sources are closed and
    everything held is finished. A second one stops now; the next run goes on from the committed positions.

    Refused where an instance of the pipeline runs already, whoever owns it, or a folder of it belongs to somebody else.
    """
    from zpipe.monitor.model.run_ledger import RunLedger
    from zpipe.monitor.run.ledger_table import ledger_table
    from zpipe.monitor.run.progress import LiveProgress, PlainProgress
    from zpipe.runtime.logs import for_children
    from zpipe.supervisor.supervisor import Supervisor

    pipeline = load(config)
    ledger = RunLedger(pipeline)
    display = LiveProgress(pipeline) if sys.stderr.isatty() and not quiet else PlainProgress(pipeline, quiet)
    began = time.monotonic()
    try:
        env = for_children(os.environ)
        drain_timeout_s = float("inf") if drain_timeout is None else drain_timeout
        code = Supervisor(pipeline, env, display, ledger, fresh, log_level, drain_timeout_s=drain_timeout_s).run()
    finally:
        display.close()
    result = ledger.as_json(time.monotonic() - began)
    try:
        if as_json:
            click.echo(json.dumps(result))
        else:
            from rich.console import Console

            Console().print(ledger_table(result))
    except BrokenPipeError:  # nobody reads stdout any more; the exit code still says how the run ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for problem in [*ledger.problems(), *ledger.remarks(result)]:
        click.echo(f"zpipe: {problem}", err=True)
    if code is ExitCode.DONE and not ledger.balanced:
        return ExitCode.UNBALANCED
    return code
