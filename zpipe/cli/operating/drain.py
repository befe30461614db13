"""zpipe drain CONFIG|PIPELINE [STAGE.N]"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from zpipe.cli import known_names
from zpipe.cli.operating.run_report import exit_code, print_ledger
from zpipe.cli.parameters import TimeType, find_target, target_argument
from zpipe.config.targets import read_stage_target
from zpipe.errors import ExitCode
from zpipe.monitor.model.run_ledger import RunLedger
from zpipe.monitor.run.drain_progress import DrainProgress
from zpipe.operate.pipeline_drain import PipelineDrain
from zpipe.units.systemctl import stop_drained_target


@click.command()
@target_argument
@click.argument("instance", required=False, metavar="[STAGE.N]", shell_complete=known_names.instances)
@click.option("--timeout", type=TimeType(), metavar="TIME", default="10m", show_default=True)
@click.option(
    "--leave-buffers",
    is_flag=True,
    help="Do not wait for consumers of disk buffers: what is stored is kept for the next run.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="End with the ledger as one line of JSON; with STAGE.N: who has left."
)
def command(config: Path, instance: str | None, timeout: float, leave_buffers: bool, as_json: bool) -> ExitCode:
    """Shut a running pipeline down in order, and prove it.

    The heads close their sources, each stage flushes its partial batch at once, acks run back, and stages exit from the head.
    With STAGE.N only that instance leaves: what it has not started goes to its siblings.

    Exit codes: 0 everything stopped and the ledger balances, 3 it does not balance, 4 not within --timeout, 5 nobody there.
    """
    found = find_target(config)
    pipeline = found.config
    target = read_stage_target(pipeline, instance) if instance is not None else None
    if target is not None and target[1] is None:
        raise click.UsageError(f"which instance of {target[0]} is to leave? Name one, such as {target[0]}.1")
    drain = PipelineDrain(pipeline, found.env, leave_buffers)
    began = time.monotonic()
    progress = DrainProgress(pipeline, drain.last, sys.stderr)
    try:
        if target is not None:
            code = drain.leave(target[0], target[1] or 1, timeout, progress.turn)
            has_left, who = code is ExitCode.DONE, f"{target[0]}.{target[1] or 1}"
            if as_json:
                click.echo(json.dumps({"pipeline": pipeline.name, "instance": who, "left": has_left}))
            else:
                click.echo(
                    f"{who} has left" if has_left else f"zpipe: {who} has not left within {timeout:g} s", err=True
                )
            return code
        drain.gather(2 * pipeline.interval_s + 1.0)
        code = drain.run(timeout, progress.turn)
        missing = drain.missing()
    except KeyboardInterrupt:
        click.echo("zpipe: the drain goes on without this command; `zpipe drain` again shows it", err=True)
        return ExitCode.FAILED
    finally:
        progress.close()
        drain.close()
    ledger = RunLedger(pipeline, expected=set(drain.last))
    for snapshot in drain.killed:
        ledger.killed(snapshot)
    for snapshot in drain.last.values():
        ledger.final(snapshot)
    result = ledger.as_json(time.monotonic() - began)
    if as_json:
        click.echo(json.dumps(result))
    else:
        print_ledger(result, links=True)
    if code is ExitCode.DONE:
        left = stop_drained_target(pipeline)
        return exit_code(code, ledger, result, [left] if left else [])
    if code is not ExitCode.DRAIN_TIMEOUT:
        missing = []
    elif not leave_buffers and any(link.get("stored") for link in result["links"]):
        missing.append("what disk buffers have stored is not waited for with --leave-buffers")
    return exit_code(code, ledger, result, missing)
