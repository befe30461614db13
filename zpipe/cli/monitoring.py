"""What `zpipe monitor` reads from its options, and who carries out what is asked for on its screen."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zpipe.cli.times import Time
from zpipe.errors import NoPeerError, TargetError

if TYPE_CHECKING:
    from zpipe.config import PipelineConfig
    from zpipe.monitor.export.checks import Thresholds
    from zpipe.monitor.export.recording import Recording
    from zpipe.operate.watch import Watch

ORDER_S = 1.0
"""An answer is waited for no longer: the screen stands still meanwhile."""


class Depth(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """N, or FROM->TO=N for one link: ("", N) or ("FROM->TO", N)."""

    name = "N|LINK=N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        link, _, number = str(value).rpartition("=")
        if not (number.isascii() and number.isdigit()):
            self.fail(f"{value!r} is no number of messages, nor LINK=N such as 'read->parse=1000'", param, ctx)
        return link.replace(" ", ""), int(number)


def refuse_mixtures(**given: Any) -> None:
    """Raises UsageError for options that say nothing together."""
    limits = [
        f"--{key.replace('_', '-')}" for key in ("max_depth", "max_age", "max_dead") if given[key] not in (None, ())
    ]
    if limits and not given["check"]:
        raise click.UsageError(f"{', '.join(limits)} is for --check: add it")
    for one, other in (("replay", "record"), ("replay", "check"), ("replay", "timeout")):
        if given[one] is not None and given[other] not in (None, False):
            raise click.UsageError(f"--{one} shows what was recorded: --{other} is for a pipeline that runs")
    served = [f"--{key.removeprefix('as_')}" for key in ("check", "once", "as_json", "record", "replay") if given[key]]
    if given["prometheus"] is not None and served:
        raise click.UsageError(f"--prometheus serves until it is ended: {', '.join(served)} cannot go with it")
    if given["at"] is not None and not (given["replay"] and given["once"]):
        raise click.UsageError("--at is a moment of a recording: give --replay FILE --once too")


def config_and_address(config: Path | None, prometheus: str | None) -> tuple[Path, str | None]:
    """In `--prometheus CONFIG` the option, whose value may be left out, has taken what is not its own. Raises UsageError."""
    from zpipe.config import values

    if config is not None:
        return config, prometheus
    with suppress(ValueError):
        values.host_port(prometheus or "")
        prometheus = None
    if not prometheus:
        raise click.UsageError("Missing argument 'CONFIG|PIPELINE'.")
    return Path(prometheus), ""


def thresholds(pipeline: PipelineConfig, options: dict[str, Any]) -> Thresholds:
    """Raises TargetError for a link that the config does not have."""
    from zpipe.monitor.export.checks import Thresholds

    links = [
        f"{name}{'.' + outlet if outlet else ''}->{consumer}"
        for name in pipeline.stages
        for outlet, consumer in pipeline.consumers(name)
    ]
    for link, _ in options["max_depth"]:
        if link and link not in links:
            raise TargetError(f"{pipeline.path} has no link {link!r}; it has {', '.join(links) or 'none'}")
    depths = dict(options["max_depth"])
    every = depths.pop("", None)
    return Thresholds(depth=every, depths=depths, age_s=options["max_age"], dead=options["max_dead"])


def moment(text: str | None, recording: Recording) -> float:
    """A time of the recording: +90s from its start, seconds since the epoch, or ISO 8601; by default its end."""
    if text is None:
        return recording.ended
    try:
        if text.startswith("+"):
            at = recording.began + Time(zero=True).convert(text[1:], None, None)
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


def moments(recording: Recording) -> Iterator[float]:
    """Every interval of it."""
    at = recording.began
    while at < recording.ended:
        yield at
        at += recording.interval_s
    yield recording.ended


def text(value: dict[str, Any]) -> str:
    """The status as text: as wide as the terminal, if it is one."""
    from zpipe.monitor.following import PLAIN_WIDTH, as_text
    from zpipe.monitor.screen.terminal import glyphs_of

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH
    return as_text(value, width, glyphs_of(sys.stdout))


class Operator:
    """Asks the instances that a watch sees."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def order(self, what: str, stage: str) -> str:
        """pause or resume (a stage), drain (every head): what was done, in words. Raises NoPeerError, OperatorError."""
        config = self._watch.config
        stages = [stage] if stage else [one.name for one in config.stages.values() if not one.inputs]
        done, silent = [], []
        for name in stages:
            for instance in sorted(n for (s, n) in self._watch.snapshots if s == name):
                try:
                    self._watch.ask(name, instance, what, ORDER_S)
                    done.append(f"{name}.{instance}")
                except NoPeerError:
                    silent.append(f"{name}.{instance}")
        if silent or not done:
            raise NoPeerError(f"{', '.join(silent or stages)} does not answer: is it running?")
        return f"{', '.join(done)}: {what} is asked for"

    def silence(self) -> str:
        return self._watch.places.searched()
