"""zpipe monitor CONFIG|PIPELINE: its options say what it shows, and where. Does not belong here: how that looks."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zpipe.cli import known_names
from zpipe.cli.parameters import METAVAR, TimeType, find_target
from zpipe.config import PipelineConfig
from zpipe.config.pipeline_config import PROMETHEUS
from zpipe.config.reading import values
from zpipe.config.targets import read_link
from zpipe.errors import ExitCode, OperatorError, install_command
from zpipe.monitor import snapshot_feed
from zpipe.monitor.export import checks, exporter
from zpipe.monitor.export.checks import Thresholds
from zpipe.monitor.export.recording import Recorder, Recording
from zpipe.monitor.export.tape import Tape
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.snapshot_feed import SnapshotListener, now_s
from zpipe.monitor.table.glyphs import UNICODE, glyphs_of
from zpipe.operate.watch import Watch
from zpipe.runtime.places import Places
from zpipe.runtime.running_pipelines import Target

if TYPE_CHECKING:
    from zpipe.cli.operating.screen_operator import ScreenOperator
    from zpipe.monitor.screen.source import Source

REDRAW_S = 0.25
"""The screen is not redrawn more often, however short the interval of the snapshots is."""
LATE_ANSWER_S = 10.0
"""So much longer an instance of this machine is waited for that holds its lock: on a busy machine it is slow to answer. One whose
process is stopped never does."""
WEB = ("127.0.0.1", 8000)
"""Where --web serves the screen if it is not told where: to this machine alone, since whoever sees the screen can operate it."""


class DepthType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """N, or FROM->TO=N for one link. The command gets ("", N) or ("FROM->TO", N)."""

    name = "N|LINK=N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        link, _, number = str(value).rpartition("=")
        if not (number.isascii() and number.isdigit()):
            self.fail(f"{value!r} is no number of messages, nor LINK=N such as 'read->parse=1000'", param, ctx)
        return link.replace(" ", ""), int(number)


@click.command()
@click.argument(
    "config", required=False, metavar=METAVAR, type=click.Path(path_type=Path), shell_complete=known_names.pipelines
)
@click.option("--once", is_flag=True, help="Show it once, as soon as every instance was heard of.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON; without --once, one each interval.")
@click.option(
    "--timeout",
    type=TimeType(),
    metavar="TIME",
    help="How long to wait for instances to be heard of.  [default: two intervals and a second, and up to 10 s more for those"
    " that run on this machine and do not answer yet; on the screen, for ever]",
)
@click.option(
    "--prometheus", is_flag=False, flag_value="", metavar="[HOST:PORT]", help="Serve metrics, and show nothing."
)
@click.option("--check", is_flag=True, help="One line: OK, or what is wrong (exit code 1). For cron and the like.")
@click.option(
    "--max-depth",
    multiple=True,
    type=DepthType(),
    help="With --check: wrong if more messages wait on any link; or on one. May be given more than once.",
)
@click.option(
    "--max-age",
    type=TimeType(zero=True),
    metavar="TIME",
    help="With --check: wrong if a message waits longer, such as 30s.",
)
@click.option(
    "--max-dead", type=click.IntRange(min=0), help="With --check: wrong if a stage has more dead letters stored."
)
@click.option("--record", type=click.Path(path_type=Path), metavar="FILE", help="Keep what is heard; .gz: compressed.")
@click.option("--replay", type=click.Path(path_type=Path), metavar="FILE", help="Show what was recorded instead.")
@click.option(
    "--web",
    is_flag=False,
    flag_value="",
    metavar="[HOST:PORT]",
    help="Serve the screen to a browser.  [default: 127.0.0.1:8000]",
)
@click.option("--at", metavar="TIME", help="With --replay --once: when; +90s from its start, or 2026-01-31T12:00:00.")
def command(
    config: Path | None, once: bool, as_json: bool, timeout: float | None, check: bool, **options: Any
) -> ExitCode:
    """Show states, depths and rates of a running pipeline, and what holds it up.

    In a terminal it is a screen with keys (?: help) and a mouse, which also waits for a pipeline that is not up yet. Piped, it is
    text.
    It goes on until every instance has stopped, q, or Ctrl-C.

    Exit codes: 0 done, 1 with --check: something is wrong, 5 no instance of the pipeline is running.
    """
    _refuse_mixtures(once=once, as_json=as_json, check=check, timeout=timeout, **options)
    path, address = _config_and_address(config, options["prometheus"])
    if options["web"] is not None:
        return _serve_web(path, options["web"], options["replay"])
    found = find_target(path)
    pipeline = found.config
    if address is not None:
        return _export(found, address)
    try:
        if options["replay"] is not None:
            return _replay(pipeline, options["replay"], options["at"], once, as_json)
        places = Places(pipeline, found.env)
        watch = Watch(pipeline, places, ask_unheard=True)
        with closing(watch), _recorder(pipeline, options["record"]) as heard:
            if _is_screen() and not (once or as_json or check):
                return _show_screen(found, places, watch, heard, timeout)
            thresholds = _thresholds(pipeline, options) if check else None
            return _print(pipeline, places, watch, heard, once, as_json, timeout, thresholds)
    except KeyboardInterrupt:
        return ExitCode.DONE  # how watching is ended


@contextmanager
def _recorder(pipeline: PipelineConfig, path: Path | None) -> Iterator[SnapshotListener]:
    if path is None:
        yield lambda *_: None
        return
    recorder = Recorder(path, pipeline.name, pipeline.interval_s)
    # A service manager ends a recording by SIGTERM, and the end of a compressed file must still be written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield recorder.add
    finally:
        recorder.close()


def _is_screen() -> bool:
    """Whether this is a terminal with a keyboard on which lines can be put anywhere."""
    if _is_served():
        return True
    return sys.stdout.isatty() and sys.stdin.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")


def _is_served() -> bool:
    """Whether a page in a browser is the terminal: textual-serve runs the screen on pipes, and names a driver for them."""
    return os.environ.get("TEXTUAL_DRIVER", "").endswith(":WebDriver")


def _show_screen(
    found: Target, places: Places, watch: Watch, heard: SnapshotListener, timeout: float | None
) -> ExitCode:
    # Textual takes a quarter of a second to be imported, which whoever asks for text should not wait for.
    from zpipe.cli.operating.screen_operator import ScreenOperator
    from zpipe.monitor.screen.source import LivePipeline

    pipeline = found.config
    interval_s = max(pipeline.interval_s, REDRAW_S)
    give_up_s = float("inf") if timeout is None else timeout
    model = PipelineModel(pipeline, now_s())
    source = LivePipeline(watch, model, pipeline, interval_s, places.searched, heard, give_up_s)
    code = _run_screen(source, pipeline, ScreenOperator(pipeline, found.env))
    if source.over and not source.heard:
        raise _nobody(pipeline, places, give_up_s)
    if model.over:  # the screen is gone, and what it said with it
        click.echo(f"zpipe: every instance of pipeline {pipeline.name!r} has stopped", err=True)
    return code


def _run_screen(source: Source, pipeline: PipelineConfig, operator: ScreenOperator | None) -> ExitCode:
    """Blocks until the screen is left. A signal that ends it ends the screen in order, so that the terminal is given back."""
    from zpipe.monitor.screen.app import MonitorApp

    if not _is_served():
        # Textual believes them before the terminal, but a shell that exports them does not follow the window.
        for name in ("COLUMNS", "LINES"):
            os.environ.pop(name, None)
    glyphs = UNICODE if _is_served() else glyphs_of(sys.stdout)
    app = MonitorApp(source, pipeline, operator, glyphs, coloured=not os.environ.get("NO_COLOR"))
    app.run()
    if app.ended_by not in (0, signal.SIGINT):
        raise SystemExit(128 + app.ended_by)
    return ExitCode.DONE if app.return_code in (0, None) else ExitCode.FAILED


def _serve_web(config: Path, given: str, replay: Path | None) -> ExitCode:
    """Serves the screen until it is interrupted: each page that is opened starts one. Raises OperatorError and UsageError."""
    try:
        from zpipe.cli.operating.screen_server import ScreenServer
    except ImportError:
        raise OperatorError(f"--web needs textual-serve: {install_command('web')}") from None
    try:
        host, port = values.host_port(given) if given else WEB
    except ValueError as problem:
        raise click.BadParameter(str(problem), param_hint="--web") from None
    find_target(config)
    words = [sys.executable, "-m", "zpipe", "monitor", str(config)]
    words += ["--replay", str(replay)] if replay is not None else []
    server = ScreenServer(shlex.join(words), host=host, port=port, title=f"zpipe monitor {config.stem}")
    try:
        server.serve()
    except OSError as error:
        raise OperatorError(f"cannot serve at http://{host}:{port}: {error.strerror or error}") from None
    except KeyboardInterrupt:
        pass  # how it is ended
    return ExitCode.DONE


def _nobody(pipeline: PipelineConfig, places: Places, waited_s: float) -> OperatorError:
    running = _running(pipeline, places)
    if len(running) == 1:
        why = f"{running[0]} runs but does not answer (stopped?)"
    else:
        why = f"{', '.join(running)} run but do not answer (stopped?)" if running else "is it running?"
    return places.no_peer_error(f"no instance of pipeline {pipeline.name!r} is heard of in {waited_s:g} s: {why}")


def _running(pipeline: PipelineConfig, places: Places) -> list[str]:
    """Instances that hold their locks on this machine, as STAGE.N."""
    return [f"{stage}.{n}" for stage, n in pipeline.instances if places.is_local(stage, n) and places.alive(stage, n)]


def _gather(
    pipeline: PipelineConfig,
    places: Places,
    watch: Watch,
    model: PipelineModel,
    heard: SnapshotListener,
    timeout_s: float,
    late_s: float,
    all_needed: bool,
) -> None:
    """Reads until every instance was heard of, at most for `timeout_s`, and for `late_s` more as long as one that runs here was
    not, or unless they are `all_needed` nobody at all."""
    snapshot_feed.gather(watch, model, timeout_s, heard)
    deadline = time.monotonic() + late_s
    while (left_s := deadline - time.monotonic()) > 0 and (all_needed or not model.heard):
        if not set(model.missing).intersection(_running(pipeline, places)):
            return
        snapshot_feed.read(watch, model, left_s, heard)


def _print(
    pipeline: PipelineConfig,
    places: Places,
    watch: Watch,
    heard: SnapshotListener,
    once: bool,
    as_json: bool,
    timeout: float | None,
    thresholds: Thresholds | None,
) -> ExitCode:
    enough_s = 2 * pipeline.interval_s + 1.0
    wait_s = enough_s if timeout is None else timeout
    model = PipelineModel(pipeline, now_s()) if wait_s < enough_s else PipelineModel(pipeline)
    began = time.monotonic()
    late_s = LATE_ANSWER_S if timeout is None else 0.0
    _gather(pipeline, places, watch, model, heard, wait_s, late_s, once or thresholds is not None)
    if not model.heard:
        raise _nobody(pipeline, places, round(time.monotonic() - began, 1) if timeout is None else timeout)
    for value in snapshot_feed.follow(
        watch, model, pipeline.interval_s if as_json else max(pipeline.interval_s, REDRAW_S), heard
    ):
        if thresholds is not None:
            problems = checks.wrong(value, thresholds)
            click.echo(
                json.dumps({"ok": not problems, "problems": problems}) if as_json else checks.line(value, problems)
            )
            return ExitCode.FAILED if problems else ExitCode.DONE
        click.echo(json.dumps(value) if as_json else _text(value))
        if once:
            break
    return ExitCode.DONE


def _replay(pipeline: PipelineConfig, path: Path, at: str | None, once: bool, as_json: bool) -> ExitCode:
    with closing(Recording(path, pipeline.name)) as recording:
        tape = Tape(recording, pipeline)
        if _is_screen() and not (once or as_json):
            from zpipe.monitor.screen.source import RecordedPipeline

            return _run_screen(RecordedPipeline(tape), pipeline, None)
        moments = [_moment(at, recording)] if once else _moments(recording)
        for moment in moments:
            tape.move(moment)
            click.echo(json.dumps(tape.value) if as_json else _text(tape.value))
    return ExitCode.DONE


def _export(found: Target, given: str) -> ExitCode:
    """Serves the metrics at `given`, or where the config says if that is "", until interrupted. Raises OperatorError and
    UsageError."""
    pipeline = found.config
    try:
        host, port = values.host_port(given or pipeline.prometheus or PROMETHEUS)
    except ValueError as problem:
        raise click.BadParameter(str(problem), param_hint="--prometheus") from None
    from zpipe.daemon.service.sdnotify import Notifier  # only this needs it

    watch, notifier = Watch(pipeline, Places(pipeline, found.env)), Notifier(os.environ)

    def ready(url: str) -> None:
        text = f"metrics of pipeline {pipeline.name!r} at {url}"
        click.echo(f"zpipe: {text}", err=True)
        notifier.send("READY=1", f"STATUS={text}")

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        exporter.serve(watch, PipelineModel(pipeline, now_s()), host, port, ready)
    except KeyboardInterrupt:
        pass  # how it is ended
    finally:
        notifier.close()
        watch.close()
    return ExitCode.DONE


def _refuse_mixtures(**given: Any) -> None:
    """Raises UsageError for options that have no meaning together."""
    limits = [
        f"--{key.replace('_', '-')}" for key in ("max_depth", "max_age", "max_dead") if given[key] not in (None, ())
    ]
    if limits and not given["check"]:
        raise click.UsageError(f"{', '.join(limits)} is for --check: add it")
    for one, other in (("replay", "record"), ("replay", "check"), ("replay", "timeout")):
        if given[one] is not None and given[other] not in (None, False):
            raise click.UsageError(f"--{one} shows what was recorded: --{other} is for a pipeline that runs")
    served = [f"--{key.removeprefix('as_')}" for key in ("check", "once", "as_json", "record", "replay") if given[key]]
    if given["prometheus"] is not None and (served or given["web"] is not None):
        served += ["--web"] if given["web"] is not None else []
        raise click.UsageError(f"--prometheus serves until it is ended: {', '.join(served)} cannot go with it")
    if given["web"] is not None and (set(served) - {"--replay"} or given["timeout"] is not None):
        raise click.UsageError("--web serves the screen: of the other options only --replay goes with it")
    if given["at"] is not None and not (given["replay"] and given["once"]):
        raise click.UsageError("--at is a moment of a recording: give --replay FILE --once too")


def _config_and_address(config: Path | None, prometheus: str | None) -> tuple[Path, str | None]:
    """The config and the address to serve metrics at. Raises UsageError if there is no config.

    The value of --prometheus may be left out, so click takes CONFIG for it in `--prometheus CONFIG`.
    """
    if config is not None:
        return config, prometheus
    with suppress(ValueError):
        values.host_port(prometheus or "")
        prometheus = None
    if not prometheus:
        raise click.UsageError("Missing argument 'CONFIG|PIPELINE'.")
    return Path(prometheus), ""


def _thresholds(pipeline: PipelineConfig, options: dict[str, Any]) -> Thresholds:
    """Raises TargetError for a link that the config does not have."""
    for link, _ in options["max_depth"]:
        if link:
            read_link(pipeline, link)
    depths = dict(options["max_depth"])
    every = depths.pop("", None)
    return Thresholds(depth=every, depths=depths, age_s=options["max_age"], dead=options["max_dead"])


def _moment(text: str | None, recording: Recording) -> float:
    """A time in the recording: +90s from its start, seconds since the epoch, or ISO 8601. Without a text, its end."""
    if text is None:
        return recording.ended
    try:
        if text.startswith("+"):
            at = recording.began + TimeType(zero=True).convert(text[1:], None, None)
        else:
            at = float(text) if text.replace(".", "", 1).isdigit() else datetime.fromisoformat(text).timestamp()
    except (ValueError, click.BadParameter):
        raise click.BadParameter(f"{text!r}: allowed is +90s, 2026-01-31T12:00:00 or seconds since the epoch") from None
    if not recording.began - recording.interval_s <= at <= recording.ended + recording.interval_s:
        first, last = (
            datetime.fromtimestamp(one).isoformat(timespec="seconds") for one in (recording.began, recording.ended)
        )
        raise click.BadParameter(f"{text!r} is not in the recording, which is from {first} to {last}")
    return at


def _moments(recording: Recording) -> Iterator[float]:
    """The times at which each interval of the recording ends."""
    at = recording.began
    while at < recording.ended:
        yield at
        at += recording.interval_s
    yield recording.ended


def _text(value: dict[str, Any]) -> str:
    """The status as text, as wide as the terminal if stdout is one."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else snapshot_feed.PLAIN_WIDTH
    return snapshot_feed.as_text(value, width, glyphs_of(sys.stdout))
