"""zpipe restart CONFIG|PIPELINE"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from zpipe.cli.parameters import find_target, json_option, target_argument
from zpipe.errors import ExitCode


@click.command()
@target_argument
@json_option
def command(config: Path, as_json: bool) -> ExitCode:
    """Restart the units of a running pipeline one by one, from the last stage to the head.

    The pipeline keeps running: an instance that restarts finishes what it has started, and its siblings or the stage before
    hold the rest. The next instance follows when systemd reports that this one is ready. Use it after an upgrade of zpipe or
    of a plugin; the Debian package calls it.

    Exit codes: 0 all of them are ready, 1 one did not come back (the rest is left as it is), 5 no unit of the pipeline runs.
    """
    from zpipe.units import rolling_restart

    pipeline = find_target(config).config
    units = rolling_restart.running_units(pipeline)
    took = []
    began = time.monotonic()
    for unit in rolling_restart.restart(units):
        now = time.monotonic()
        took.append({"unit": unit, "took_s": round(now - began, 3)})
        if not as_json:
            click.echo(f"{unit} is ready again after {now - began:.1f} s")
        began = now
    if as_json:
        click.echo(json.dumps({"pipeline": pipeline.name, "restarted": took}))
    return ExitCode.DONE
