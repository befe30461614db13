"""zpipe conform -- CMD…"""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from zpipe.conform import report
from zpipe.conform.cases import CASES
from zpipe.conform.verdicts import KINDS, Kind
from zpipe.errors import ExitCode


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("command_line", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--kind", type=click.Choice(KINDS), default="map", show_default=True, help="What the stage is.")
@click.option("--level", type=click.IntRange(1, 3), default=1, show_default=True, help="Ask what is up to this level.")
@click.option("--case", "numbers", multiple=True, type=int, help="Ask only this case; may be repeated.")
@click.option("--many", is_flag=True, help="The map sends a payload's `copies` outputs for it, and none for 0.")
@click.option("--list", "listed", is_flag=True, help="List the cases, and run none.")
@click.option("--json", "as_json", is_flag=True, help="One JSON value on stdout.")
@click.option(
    "--jobs", type=click.IntRange(1, 32), default=4, show_default=True, help="Cases at a time; most of them wait."
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Also write JUnit XML to this file.")
def command(
    command_line: tuple[str, ...],
    kind: Kind,
    level: int,
    numbers: tuple[int, ...],
    many: bool,
    listed: bool,
    as_json: bool,
    jobs: int,
    junit: Path | None,
) -> ExitCode:
    """Check that a stage keeps the protocol, whatever language it is written in.

    CMD is started for each case between scripted neighbours, with ZPIPE_RUNTIME_DIR, ZPIPE_STATE_DIR, ZPIPE_PIPELINE,
    ZPIPE_STAGE, ZPIPE_INSTANCE and ZPIPE_CONFIG in its environment. A map has to send every payload on as it is. A sink has to
    append the id of each message to the file `options.path`, a line each, and to ack it once that is durable.

    In CMD, {config} is replaced by the path of the pipeline's config, and {instance} by the instance's number. So a stage of
    zpipe's own is checked by `zpipe conform --level 3 -- zpipe stage {config} work --instance {instance}`.
    """
    if unknown := [number for number in numbers if number not in CASES]:
        raise click.UsageError(f"there is no case {unknown[0]}: they are {min(CASES)} to {max(CASES)}")
    if foreign := [number for number in numbers if kind not in CASES[number].kinds]:
        kinds = " or ".join(CASES[foreign[0]].kinds)
        raise click.UsageError(f"case {foreign[0]} is asked of a {kinds}, and this is a {kind} (--kind)")
    if junit is not None and not (
        junit.parent.is_dir() and os.access(junit if junit.exists() else junit.parent, os.W_OK)
    ):
        raise click.BadParameter(f"cannot write {junit}", param_hint="'--junit'")
    cases = report.chosen(kind, level, numbers)
    if listed:
        for one in cases:
            click.echo(f"{one.number:>3}  level {one.level}  {one.title}")
        return ExitCode.DONE
    keep = (lambda _: None) if as_json else lambda one: click.echo(report.line(one))
    results = report.run(command_line, kind, cases, many, jobs, keep)
    if junit is not None:
        junit.write_text(report.junit(results), encoding="utf-8")
    whole = not numbers and len(results) == len(cases)
    value = report.as_json(command_line, kind, results, whole) if as_json else None
    click.echo(json.dumps(value) if as_json else report.summary(results, whole))
    if len(results) < len(cases):
        rest = len(cases) - len(results)
        what = f"it says nothing to its neighbours, so the other {rest} cases were not asked: see what it wrote, and its command"
        click.echo(f"zpipe: {what}", err=True)
    return ExitCode.FAILED if any(one.outcome == "not kept" for one in results) else ExitCode.DONE
