"""zpipe dead list|show|edit|replay|drop CONFIG|PIPELINE … Does not belong here: SQL, and how letters are shown."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from zpipe.cli import known_names
from zpipe.cli.operating.run import supervise
from zpipe.cli.operating.run_report import exit_code, print_ledger
from zpipe.cli.parameters import TimeType, find_target, json_option, target_argument
from zpipe.config import load
from zpipe.core.work.stored_dead_letter import MESSAGE, letter_name
from zpipe.errors import ExitCode, TargetError
from zpipe.monitor.formatting import visible
from zpipe.monitor.messages import dead_letter_page
from zpipe.monitor.messages.payload import UNCHANGED, editable_text, read_payload, with_fields
from zpipe.monitor.model.run_ledger import RunLedger
from zpipe.operate.dead_letter_replay import DeadLetterReplay
from zpipe.operate.stored_dead_letters import (
    Numbers,
    Outcome,
    Selection,
    StoredDeadLetters,
    check_editable,
    count,
    refusal,
)
from zpipe.runtime.dead_letter_table import Filter

LIST_LETTERS = 100
PIPE_WIDTH = 100_000
"""Wider than any row, since rich takes a pipe for a terminal of 80 columns."""
LINE_S = 5.0
"""Between two lines that say how far a replay is."""
_PER_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Dead letters: messages that a stage gave up on. A letter's name is STAGE.N/NUMBER.

    Works on the state folders on this machine, whether or not the pipeline runs.
    """


class RateType(click.ParamType[float]):
    """N/s, N/m or N/h. The command gets messages a second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, float):
            return value
        number, _, unit = str(value).partition("/")
        try:
            rate = float(number) / _PER_S[unit or "s"]
        except (ValueError, KeyError):
            rate = 0.0
        if not 0 < rate <= 1e6:
            self.fail(f"must be a rate above 0 such as 50/s, 10/m or 1/h, not {value!r}", param, ctx)
        return rate


def wanted_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --stage, --reason, --older and --newer, which the command gets as `wanted`."""

    @click.option(
        "--stage",
        default="",
        metavar="STAGE[.N]",
        shell_complete=known_names.stages,
        help="Of that stage, or instance.",
    )
    @click.option("--reason", default="", metavar="TEXT", help="With that in the reason.")
    @click.option("--older", type=TimeType(), metavar="TIME", help='That died before so long, such as "1h".')
    @click.option("--newer", type=TimeType(), metavar="TIME", help="That died since.")
    @functools.wraps(function)
    def call(
        *, stage: str, reason: str, older: float | None, newer: float | None, names: tuple[str, ...] = (), **others: Any
    ) -> Any:
        return function(wanted=Selection(names, stage, Filter(reason, older, newer)), **others)

    return call


def selection_required(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds LETTER... and --all, and demands one of them or a filter, so that no letter is touched by an oversight."""

    @click.argument("names", nargs=-1, metavar="[LETTER]...")
    @click.option("--all", "all_", is_flag=True, help="All letters of the pipeline.")
    @functools.wraps(function)
    def call(*, all_: bool, wanted: Selection, **others: Any) -> Any:
        if wanted.names and (wanted != Selection(wanted.names) or all_):
            raise click.UsageError(
                "name letters, or choose them by --stage, --reason, --older, --newer or --all; not both"
            )
        if wanted == Selection() and not all_:
            raise click.UsageError(
                "which letters? Name them, or choose them by --stage, --reason, --older, --newer or --all"
            )
        return function(wanted=wanted, **others)

    return call


_dry_run = click.option("--dry-run", is_flag=True, help="Say which letters it would be, and do nothing.")


def _stored(config: Path) -> StoredDeadLetters:
    found = find_target(config)
    return StoredDeadLetters(found.config, found.env)


@command.command("list")
@target_argument
@wanted_options
@click.option(
    "--limit", type=click.IntRange(min=1), help=f"At most so many.  [default: {LIST_LETTERS}; with --json, all]"
)
@json_option
def list_(config: Path, wanted: Selection, limit: int | None, as_json: bool) -> ExitCode:
    """List letters: name, age, id, tries and reason."""
    stored_dead_letters = _stored(config)
    chosen = stored_dead_letters.find(wanted)
    found = list(stored_dead_letters.letters(chosen, limit or (None if as_json else LIST_LETTERS)))
    if as_json:
        rows = [dead_letter_page.row(letter) for letter in found]
        click.echo(json.dumps({"pipeline": stored_dead_letters.config.name, "count": count(chosen), "letters": rows}))
    elif not found:
        click.echo("no dead letters" + (" like that" if wanted != Selection() else ""), err=True)
    else:
        # A terminal has a width and a pipe has none: whoever reads a pipe needs whole ids.
        Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(dead_letter_page.table(found, time.time()))
        if count(chosen) > len(found):
            click.echo(f"zpipe: {count(chosen) - len(found)} more: --limit", err=True)
    return ExitCode.DONE


@command.command()
@target_argument
@click.argument("names", nargs=-1, required=True, metavar="LETTER...")
@json_option
def show(config: Path, names: tuple[str, ...], as_json: bool) -> ExitCode:
    """Show everything of a letter: payload, traceback, what happened to it."""
    stored_dead_letters = _stored(config)
    found = list(stored_dead_letters.letters(stored_dead_letters.find(Selection(names=names))))
    if as_json:
        pages = [dead_letter_page.whole(letter) for letter in found]
        click.echo(json.dumps(pages[0] if len(names) == 1 and pages else pages))
    else:
        click.echo("\n\n".join(dead_letter_page.page(letter, time.time()) for letter in found))
    return ExitCode.DONE


@command.command()
@target_argument
@click.argument("name", metavar="LETTER")
@click.option("--set", "fields", multiple=True, metavar="FIELD=JSON", help="Give a field of the payload this value.")
@click.option(
    "--payload", "file", type=click.File("r", encoding="utf-8"), help="Take the whole payload from a file, as JSON."
)
@json_option
def edit(config: Path, name: str, fields: tuple[str, ...], file: Any, as_json: bool) -> ExitCode:
    """Change a letter's payload: in $VISUAL or $EDITOR as JSON, or by --set or --payload. Then replay it."""
    if fields and file is not None:
        raise click.UsageError("give --set or --payload, not both")
    stored_dead_letters = _stored(config)
    (letter,) = stored_dead_letters.letters(stored_dead_letters.find(Selection(names=(name,))))
    check_editable(letter)
    try:
        if file is not None:
            payload = read_payload(file.read())
        elif fields:
            payload = with_fields(letter.payload, fields)
        else:
            payload = _edited(editable_text(letter.payload))
    except ValueError as error:
        raise click.UsageError(f"{letter.name}: {error}") from None
    changed = payload is not UNCHANGED and payload != letter.payload
    if changed:
        stored_dead_letters.edit(letter, payload)
    if as_json:
        click.echo(json.dumps({"letter": letter.name, "changed": changed}))
    elif changed:
        click.echo(f"{letter.name} has a new payload: zpipe dead replay {config} {letter.name}", err=True)
    else:
        click.echo(f"{letter.name} is as it was", err=True)
    return ExitCode.DONE


def _edited(text: str) -> Any:
    """What the user makes of the text in an editor. Raises ValueError if it is no JSON and nobody can be asked to try again."""
    while True:
        made = click.edit(text, extension=".json")
        if made is None:
            return UNCHANGED
        try:
            return read_payload(made)
        except ValueError as error:
            if not sys.stdin.isatty():
                raise
            click.echo(f"zpipe: {error}", err=True)
            click.confirm("Edit it again?", default=True, abort=True, err=True)
            text = made


@command.command()
@target_argument
@wanted_options
@selection_required
@click.option("--rate", type=RateType(), default="100/s", show_default=True, help="How fast: N/s, N/m or N/h.")
@_dry_run
@click.option("--no-wait", is_flag=True, help="Where the pipeline runs: do not wait for what comes of it.")
@json_option
def replay(config: Path, wanted: Selection, rate: float, dry_run: bool, no_wait: bool, as_json: bool) -> ExitCode:
    """Give letters to the stage that gave up on them once more.

    Where the pipeline runs, its instances do it; else it is started with its sources closed, and drained when that is done.
    A letter is gone once everything made from its message is acked; one that fails again stays, with what is new. A replay
    that is interrupted goes on when the stage starts.

    Exit codes: 0 all of them were replayed, 1 some failed again or were not replayed, 3 the ledger does not balance.
    """
    stored_dead_letters = _stored(config)
    chosen = _replayable(stored_dead_letters, wanted)
    if dry_run:
        return _print_names(chosen, as_json, "would be replayed")
    return _replay_letters(stored_dead_letters, chosen, rate, wait=not no_wait, as_json=as_json)


def _replay_letters(
    stored_dead_letters: StoredDeadLetters, chosen: Numbers, rate: float, wait: bool, as_json: bool
) -> ExitCode:
    """Marks the letters, and has the running instances or a run of its own replay them. Blocks."""
    stored_dead_letters.mark(chosen, rate)
    if not chosen:
        return _print_outcome(stored_dead_letters.outcome(chosen), None, as_json)
    if not stored_dead_letters.pipeline_runs():
        return _run_pipeline(stored_dead_letters, chosen, as_json)
    replay = DeadLetterReplay(stored_dead_letters, chosen)
    try:
        found = replay.wait(_progress()) if wait else replay.ask()
    except KeyboardInterrupt:
        click.echo("zpipe: the replay goes on without this command; `zpipe dead list` shows what is left", err=True)
        return ExitCode.FAILED
    finally:
        replay.close()
    return _print_outcome(found, None, as_json, waited=wait)


def _progress() -> Callable[[Outcome, list[str]], None]:
    """Prints how far the replay is: now and then, and at once when something else is in the way."""
    printed: list[str] = []
    due = [time.monotonic() + LINE_S]

    def turn(found: Outcome, waits: list[str]) -> None:
        if time.monotonic() < due[0] and waits == printed:
            return
        due[0] = time.monotonic() + LINE_S
        printed[:] = waits
        text = f"event=replay.progress replayed={found.replayed} again={found.again} left={found.left}"
        click.echo(visible("; ".join([text, *waits])), err=True)

    return turn


def _run_pipeline(stored_dead_letters: StoredDeadLetters, chosen: Numbers, as_json: bool) -> ExitCode:
    """Runs the pipeline with its sources closed until every marked letter was taken in hand, and drains it."""
    pipeline = load(stored_dead_letters.config.path)
    marked = stored_dead_letters.instances_with_marked()
    ledger = RunLedger(pipeline, expected={*pipeline.instances, *marked})
    code, result = supervise(pipeline, stored_dead_letters.env, ledger, replay=marked)
    if not as_json:
        print_ledger(result)
    code = exit_code(code, ledger, result)
    replayed = _print_outcome(stored_dead_letters.outcome(chosen), result, as_json)
    return code or replayed


def _print_outcome(found: Outcome, ledger: dict[str, Any] | None, as_json: bool, waited: bool = True) -> ExitCode:
    """Prints what became of the letters. The exit code is FAILED if some were not replayed."""
    if as_json:
        result = {"replayed": found.replayed, "again": found.again, "left": found.left}
        click.echo(json.dumps(result | ({"ledger": ledger} if ledger is not None else {})))
    else:
        text = f"{found.replayed} replayed"
        if found.again:
            text += f", {found.again} failed again and are dead letters still"
        if found.left:
            text += f", {found.left} left: they are replayed when their stage runs"
        click.echo(text, err=True)
    done = not found.again and (not found.left or not waited)
    return ExitCode.DONE if done else ExitCode.FAILED


def _replayable(stored_dead_letters: StoredDeadLetters, wanted: Selection) -> Numbers:
    """The selected letters that can be replayed. Tells the user which cannot. Raises TargetError if none of them can."""
    kinds = stored_dead_letters.kinds(stored_dead_letters.find(wanted))
    refusals = [refusal(numbers, kind) for kind, numbers in kinds.items() if kind != MESSAGE]
    if refusals and (wanted.names or MESSAGE not in kinds):
        raise TargetError("; ".join(refusals))
    for text in refusals:
        click.echo(f"zpipe: {text}", err=True)
    return kinds.get(MESSAGE, {})


@command.command()
@target_argument
@wanted_options
@selection_required
@_dry_run
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def drop(config: Path, wanted: Selection, dry_run: bool, yes: bool, as_json: bool) -> ExitCode:
    """Delete letters for good: their messages are lost."""
    stored_dead_letters = _stored(config)
    chosen = stored_dead_letters.find(wanted)
    if dry_run:
        return _print_names(chosen, as_json, "would be dropped")
    if count(chosen) > 1 and not yes:
        click.confirm(f"Drop {count(chosen)} dead letters for good?", abort=True, err=True)
    dropped = stored_dead_letters.drop(chosen)
    if as_json:
        click.echo(json.dumps({"dropped": dropped}))
    else:
        click.echo(f"{dropped} dropped", err=True)
    return ExitCode.DONE


def _print_names(chosen: Numbers, as_json: bool, what: str) -> ExitCode:
    """For --dry-run: the names of the letters, and what would be done with them."""
    names = [letter_name(*instance, number) for instance, numbers in chosen.items() for number in numbers]
    if as_json:
        click.echo(json.dumps({"count": count(chosen), "letters": names}))
    else:
        for name in names:
            click.echo(name)
        click.echo(f"{len(names)} {what}", err=True)
    return ExitCode.DONE
