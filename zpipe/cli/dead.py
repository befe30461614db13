"""zpipe dead list|show|edit|replay|drop CONFIG|PIPELINE …"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zpipe.cli.letter_options import RateType, Wanted, selected, wanted_options
from zpipe.cli.pipeline_argument import find_target, target_argument
from zpipe.errors import ExitCode

if TYPE_CHECKING:
    from zpipe.operate.stored_dead_letters import Numbers, StoredDeadLetters

LIST_LETTERS = 100
PIPE_WIDTH = 100_000
"""Above any row: rich takes a pipe for a terminal of 80 columns."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Dead letters: messages that a stage gave up on. A letter's name is STAGE.N/NUMBER.

    Works on the state folders on this machine, whether or not the pipeline runs.
    """


_json = click.option("--json", "as_json", is_flag=True, help="One JSON value on stdout.")
_dry_run = click.option("--dry-run", is_flag=True, help="Say which letters it would be, and do nothing.")


def _graveyard(config: Path) -> StoredDeadLetters:
    from zpipe.operate.stored_dead_letters import StoredDeadLetters

    found = find_target(config)
    return StoredDeadLetters(found.config, found.env)


@command.command("list")
@target_argument
@wanted_options
@click.option(
    "--limit", type=click.IntRange(min=1), help=f"At most so many.  [default: {LIST_LETTERS}; with --json, all]"
)
@_json
def list_(config: Path, wanted: Wanted, limit: int | None, as_json: bool) -> ExitCode:
    """List letters: name, age, id, tries and reason."""
    from zpipe.monitor.messages import dead_letter_page
    from zpipe.operate.dead_letter_replay import count

    stored_dead_letters = _graveyard(config)
    chosen = stored_dead_letters.find(wanted.selection())
    found = list(stored_dead_letters.letters(chosen, limit or (None if as_json else LIST_LETTERS)))
    if as_json:
        rows = [dead_letter_page.row(letter) for letter in found]
        click.echo(json.dumps({"pipeline": stored_dead_letters.config.name, "count": count(chosen), "letters": rows}))
    elif not found:
        click.echo("no dead letters" + (" like that" if wanted.any else ""), err=True)
    else:
        from rich.console import Console

        # Whoever reads a pipe needs whole ids to go on with. A terminal has a width, a pipe has none.
        Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(dead_letter_page.table(found, time.time()))
        if count(chosen) > len(found):
            click.echo(f"zpipe: {count(chosen) - len(found)} more: --limit", err=True)
    return ExitCode.DONE


@command.command()
@target_argument
@click.argument("names", nargs=-1, required=True, metavar="LETTER...")
@_json
def show(config: Path, names: tuple[str, ...], as_json: bool) -> ExitCode:
    """Show everything of a letter: payload, traceback, what happened to it."""
    from zpipe.monitor.messages import dead_letter_page
    from zpipe.operate.stored_dead_letters import Selection

    stored_dead_letters = _graveyard(config)
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
def edit(config: Path, name: str, fields: tuple[str, ...], file: Any) -> ExitCode:
    """Change a letter's payload: in $VISUAL or $EDITOR as JSON, or by --set or --payload. Then replay it."""
    from zpipe.monitor.messages.payload import UNCHANGED, editable_text, read_payload, with_fields
    from zpipe.operate.stored_dead_letters import Selection, check_editable

    if fields and file is not None:
        raise click.UsageError("give --set or --payload, not both")
    stored_dead_letters = _graveyard(config)
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
    if payload is UNCHANGED or payload == letter.payload:
        click.echo(f"{letter.name} is as it was", err=True)
        return ExitCode.DONE
    stored_dead_letters.edit(letter, payload)
    click.echo(f"{letter.name} has a new payload: zpipe dead replay {config} {letter.name}", err=True)
    return ExitCode.DONE


def _edited(text: str) -> Any:
    """What the user makes of it in an editor. Raises ValueError if it is no JSON and they do not want to go on."""
    from zpipe.monitor.messages.payload import UNCHANGED, read_payload

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
@selected
@click.option("--rate", type=RateType(), default="100/s", show_default=True, help="How fast: N/s, N/m or N/h.")
@_dry_run
@click.option("--no-wait", is_flag=True, help="Where the pipeline runs: do not wait for what comes of it.")
@_json
def replay(config: Path, wanted: Wanted, rate: float, dry_run: bool, no_wait: bool, as_json: bool) -> ExitCode:
    """Give letters to the stage that gave up on them once more.

    Where the pipeline runs, its instances do it; else it is started with its sources closed, and drained when that is done.
    A letter is gone once everything made from its message is acked; one that fails again stays, with what is new. A replay
    that is interrupted goes on when the stage starts.

    Exit codes: 0 all of them were replayed, 1 some failed again or were not replayed, 3 the ledger does not balance.
    """
    from zpipe.cli.replay_waiting import replay_letters

    stored_dead_letters = _graveyard(config)
    chosen = _replayable(stored_dead_letters, wanted)
    if dry_run:
        return _listed(chosen, as_json, "would be replayed")
    return replay_letters(stored_dead_letters, chosen, rate, wait=not no_wait, as_json=as_json)


def _replayable(stored_dead_letters: StoredDeadLetters, wanted: Wanted) -> Numbers:
    """The selected letters that can be; says which cannot. Raises TargetError if none of them can."""
    from zpipe.core.work.stored_letter import MESSAGE
    from zpipe.errors import TargetError
    from zpipe.operate.stored_dead_letters import refusal

    kinds = stored_dead_letters.kinds(stored_dead_letters.find(wanted.selection()))
    refusals = [refusal(numbers, kind) for kind, numbers in kinds.items() if kind != MESSAGE]
    if refusals and (wanted.names or MESSAGE not in kinds):
        raise TargetError("; ".join(refusals))
    for text in refusals:
        click.echo(f"zpipe: {text}", err=True)
    return kinds.get(MESSAGE, {})


@command.command()
@target_argument
@wanted_options
@selected
@_dry_run
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@_json
def drop(config: Path, wanted: Wanted, dry_run: bool, yes: bool, as_json: bool) -> ExitCode:
    """Delete letters for good: their messages are lost."""
    from zpipe.operate.dead_letter_replay import count

    stored_dead_letters = _graveyard(config)
    chosen = stored_dead_letters.find(wanted.selection())
    if dry_run:
        return _listed(chosen, as_json, "would be dropped")
    if count(chosen) > 1 and not yes:
        click.confirm(f"Drop {count(chosen)} dead letters for good?", abort=True, err=True)
    dropped = stored_dead_letters.drop(chosen)
    if as_json:
        click.echo(json.dumps({"dropped": dropped}))
    else:
        click.echo(f"{dropped} dropped", err=True)
    return ExitCode.DONE


def _listed(chosen: Numbers, as_json: bool, what: str) -> ExitCode:
    from zpipe.core.work.stored_letter import letter_name
    from zpipe.operate.dead_letter_replay import count

    names = [letter_name(*instance, number) for instance, numbers in chosen.items() for number in numbers]
    if as_json:
        click.echo(json.dumps({"count": count(chosen), "letters": names}))
    else:
        for name in names:
            click.echo(name)
        click.echo(f"{len(names)} {what}", err=True)
    return ExitCode.DONE
