"""`zpipe monitor --prometheus`: where the metrics are served, and that nothing else is asked for."""

from __future__ import annotations

import os

import click

from zpipe.config import PipelineConfig, values
from zpipe.errors import ExitCode


def export(pipeline: PipelineConfig, given: str) -> ExitCode:
    """Serves at `given` ("": where the config says) until interrupted. Raises OperatorError, UsageError."""
    from zpipe.daemon.watch import Watch
    from zpipe.monitor import exporter
    from zpipe.monitor.app import now_s
    from zpipe.monitor.model import Model

    try:
        host, port = values.host_port(given or pipeline.prometheus)
    except ValueError as problem:
        raise click.BadParameter(str(problem), param_hint="--prometheus") from None
    watch = Watch(pipeline, os.environ)
    try:
        exporter.serve(
            watch,
            Model(pipeline, now_s()),
            host,
            port,
            lambda url: click.echo(f"zpipe: metrics of pipeline {pipeline.name!r} at {url}", err=True),
        )
    except KeyboardInterrupt:
        pass  # the way out
    finally:
        watch.close()
    return ExitCode.DONE
