"""`zpipe monitor --prometheus`: where the metrics are served, and that nothing else is asked for."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import click

from zpipe.config import values
from zpipe.config.pipeline_config import PROMETHEUS
from zpipe.errors import ExitCode

if TYPE_CHECKING:
    from zpipe.runtime.running_pipelines import Target


def export(found: Target, given: str) -> ExitCode:
    """Serves at `given` ("": where the config says) until interrupted. Raises OperatorError, UsageError."""
    from zpipe.daemon.service.sdnotify import Notifier
    from zpipe.monitor.export import exporter
    from zpipe.monitor.following import now_s
    from zpipe.monitor.model.pipeline import PipelineModel
    from zpipe.operate.watch import Watch

    pipeline = found.config
    try:
        host, port = values.host_port(given or pipeline.prometheus or PROMETHEUS)
    except ValueError as problem:
        raise click.BadParameter(str(problem), param_hint="--prometheus") from None
    watch, notifier = Watch(pipeline, found.env), Notifier(os.environ)

    def ready(url: str) -> None:
        text = f"metrics of pipeline {pipeline.name!r} at {url}"
        click.echo(f"zpipe: {text}", err=True)
        notifier.send("READY=1", f"STATUS={text}")

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        exporter.serve(
            watch,
            PipelineModel(pipeline, now_s()),
            host,
            port,
            ready,
        )
    except KeyboardInterrupt:
        pass  # the way out
    finally:
        notifier.close()
        watch.close()
    return ExitCode.DONE
