"""zpipe monitor CONFIG"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from zpipe.cli.exporting import export
from zpipe.cli.seconds import Seconds
from zpipe.config import load
from zpipe.errors import ExitCode, NoPeerError

REDRAW_S = 0.25
"""The screen is redrawn no more often than this, however short the interval of the snapshots is."""


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Show it once, as soon as every instance was heard of.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON; without --once, one each interval.")
@click.option(
    "--timeout",
    type=Seconds(),
    metavar="SECONDS",
    help="How long to wait for instances to be heard of.  [default: two intervals and a second]",
)
@click.option(
    "--prometheus", is_flag=False, flag_value="", metavar="[HOST:PORT]", help="Serve metrics, and show nothing."
)
def command(config: Path, once: bool, as_json: bool, timeout: float | None, prometheus: str | None) -> ExitCode:
    """Show states, depths and rates of a running pipeline, and what holds it up.

    Goes on until every instance has stopped, or Ctrl-C. Exit code 5 if no instance of the pipeline is running.
    """
    from zpipe.daemon.watch import Watch
    from zpipe.monitor import app
    from zpipe.monitor.model import Model

    pipeline = load(config, only="")  # whoever looks on needs none of the plugins
    if prometheus is not None:
        return export(pipeline, prometheus)
    wait_s = timeout if timeout is not None else 2 * pipeline.interval_s + 1.0
    model = Model(pipeline)
    watch = Watch(pipeline, os.environ)
    try:
        if not app.gather(watch, model, wait_s):
            where = f"listened for {wait_s:g} s, {watch.places.silence()}"
            raise NoPeerError(f"no instance of pipeline {pipeline.name!r} is heard of: is it running? ({where})")
        values = app.follow(watch, model, pipeline.interval_s if as_json else max(pipeline.interval_s, REDRAW_S))
        if sys.stdout.isatty() and not as_json:
            app.show([next(values)] if once else values)
            return ExitCode.DONE
        for value in values:
            click.echo(json.dumps(value) if as_json else app.as_text(value))
            if once:
                break
    except KeyboardInterrupt:
        pass  # the way out of watching
    finally:
        watch.close()
    return ExitCode.DONE
