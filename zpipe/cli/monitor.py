"""zpipe monitor CONFIG|PIPELINE"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zpipe.cli import monitoring
from zpipe.cli.exporting import export
from zpipe.cli.pipeline_argument import METAVAR, find_target
from zpipe.cli.times import Time
from zpipe.errors import ExitCode, OperatorError

if TYPE_CHECKING:
    from zpipe.config import PipelineConfig
    from zpipe.monitor.following import SnapshotListener
    from zpipe.operate.watch import Watch
    from zpipe.runtime.running_pipelines import Target

REDRAW_S = 0.25
"""The screen is redrawn no more often than this, however short the interval of the snapshots is."""


@click.command()
@click.argument("config", required=False, metavar=METAVAR, type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Show it once, as soon as every instance was heard of.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON; without --once, one each interval.")
@click.option(
    "--timeout",
    type=Time(),
    metavar="TIME",
    help="How long to wait for instances to be heard of.  [default: two intervals and a second; on the screen, for ever]",
)
@click.option(
    "--prometheus", is_flag=False, flag_value="", metavar="[HOST:PORT]", help="Serve metrics, and show nothing."
)
@click.option("--check", is_flag=True, help="One line: OK, or what is wrong (exit code 1). For cron and the like.")
@click.option(
    "--max-depth",
    multiple=True,
    type=monitoring.Depth(),
    help="With --check: wrong if more messages wait on any link; or on one. May be given more than once.",
)
@click.option(
    "--max-age",
    type=Time(zero=True),
    metavar="TIME",
    help="With --check: wrong if a message waits longer, such as 30s.",
)
@click.option(
    "--max-dead", type=click.IntRange(min=0), help="With --check: wrong if a stage has more dead letters stored."
)
@click.option("--record", type=click.Path(path_type=Path), metavar="FILE", help="Keep what is heard; .gz: compressed.")
@click.option("--replay", type=click.Path(path_type=Path), metavar="FILE", help="Show what was recorded instead.")
@click.option("--at", metavar="TIME", help="With --replay --once: when; +90s from its start, or 2026-01-31T12:00:00.")
def command(
    config: Path | None, once: bool, as_json: bool, timeout: float | None, check: bool, **options: Any
) -> ExitCode:
    """Show states, depths and rates of a running pipeline, and what holds it up.

    In a terminal it is a screen with keys (h: help), which also waits for a pipeline that is not up yet. Piped, it is text.
    It goes on until every instance has stopped, q, or Ctrl-C.

    Exit codes: 0 done, 1 with --check: something is wrong, 5 no instance of the pipeline is running.
    """
    monitoring.refuse_mixtures(once=once, as_json=as_json, check=check, timeout=timeout, **options)
    path, address = monitoring.config_and_address(config, options["prometheus"])
    found = find_target(path)
    pipeline = found.config
    if address is not None:
        return export(found, address)
    try:
        if options["replay"] is not None:
            return _replay(pipeline, options["replay"], options["at"], once, as_json)
        with _recorder(pipeline, options["record"]) as heard, _watch(found) as watch:
            if _is_screen() and not (once or as_json or check):
                return _live(pipeline, watch, heard, timeout)
            thresholds = monitoring.thresholds(pipeline, options) if check else None
            return _lines(pipeline, watch, heard, once, as_json, timeout, thresholds)
    except KeyboardInterrupt:
        return ExitCode.DONE  # the way out of watching


@contextmanager
def _watch(found: Target) -> Iterator[Watch]:
    from zpipe.operate.watch import Watch

    watch = Watch(found.config, found.env, eager=True)
    try:
        yield watch
    finally:
        watch.close()


@contextmanager
def _recorder(pipeline: PipelineConfig, path: Path | None) -> Iterator[SnapshotListener | None]:
    from zpipe.monitor.export.recording import Recorder

    if path is None:
        yield None
        return
    recorder = Recorder(path, pipeline.name, pipeline.interval_s)
    # A service manager's way to end a recording; the end of a compressed file has to be written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield recorder.add
    finally:
        recorder.close()


def _is_screen() -> bool:
    from zpipe.monitor.screen.terminal import is_screen

    return is_screen(sys.stdout)


def _live(pipeline: PipelineConfig, watch: Watch, heard: SnapshotListener | None, timeout: float | None) -> ExitCode:
    from zpipe.monitor.following import now_s
    from zpipe.monitor.model.pipeline import PipelineModel
    from zpipe.monitor.screen import live

    interval_s = max(pipeline.interval_s, REDRAW_S)
    operator, keep = monitoring.Operator(watch), heard or (lambda *_: None)
    give_up_s = float("inf") if timeout is None else timeout
    model = PipelineModel(pipeline, now_s())
    if not live.show(watch, model, pipeline, interval_s, operator, keep, give_up_s):
        raise _nobody(pipeline, watch, give_up_s)
    if model.over:  # the screen is gone, and with it what it said
        click.echo(f"zpipe: every instance of pipeline {pipeline.name!r} has stopped", err=True)
    return ExitCode.DONE


def _nobody(pipeline: PipelineConfig, watch: Watch, waited_s: float) -> OperatorError:
    said = f"no instance of pipeline {pipeline.name!r} is heard of in {waited_s:g} s: is it running?"
    return watch.places.nobody(said)


def _lines(
    pipeline: PipelineConfig,
    watch: Watch,
    heard: SnapshotListener | None,
    once: bool,
    as_json: bool,
    timeout: float | None,
    thresholds: Any,
) -> ExitCode:
    from zpipe.monitor import following
    from zpipe.monitor.export import checks
    from zpipe.monitor.model.pipeline import PipelineModel

    enough_s = 2 * pipeline.interval_s + 1.0
    wait_s = enough_s if timeout is None else timeout
    model = PipelineModel(pipeline, following.now_s()) if wait_s < enough_s else PipelineModel(pipeline)
    if not following.gather(watch, model, wait_s, heard):
        raise _nobody(pipeline, watch, wait_s)
    for value in following.follow(
        watch, model, pipeline.interval_s if as_json else max(pipeline.interval_s, REDRAW_S), heard
    ):
        if thresholds is not None:
            problems = checks.wrong(value, thresholds)
            click.echo(
                json.dumps({"ok": not problems, "problems": problems}) if as_json else checks.line(value, problems)
            )
            return ExitCode.FAILED if problems else ExitCode.DONE
        click.echo(json.dumps(value) if as_json else monitoring.text(value))
        if once:
            break
    return ExitCode.DONE


def _replay(pipeline: PipelineConfig, path: Path, at: str | None, once: bool, as_json: bool) -> ExitCode:
    from zpipe.monitor.export.recording import Recording
    from zpipe.monitor.screen import recording_player

    recording = Recording(path, pipeline.name)
    try:
        tape = recording_player.Tape(recording, pipeline)
        if _is_screen() and not (once or as_json):
            recording_player.show(tape, recording)
            return ExitCode.DONE
        moments = [monitoring.moment(at, recording)] if once else monitoring.moments(recording)
        for moment in moments:
            tape.move(moment)
            click.echo(json.dumps(tape.value) if as_json else monitoring.text(tape.value))
    finally:
        recording.close()
    return ExitCode.DONE
