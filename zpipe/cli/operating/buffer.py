"""zpipe buffer list|verify|show|drop CONFIG|PIPELINE … Does not belong here: reading the files of a buffer."""

from __future__ import annotations

import json
import time
from itertools import islice
from pathlib import Path

import click

from zpipe.cli import known_names
from zpipe.cli.parameters import find_target, json_option, json_or_text, target_argument
from zpipe.errors import ExitCode
from zpipe.monitor.formatting import duration, visible
from zpipe.operate.stored_buffers import StoredBuffers, Verification, drop, list_buffer, show, verify

SHOW_MESSAGES = 20

_some = click.argument("names", nargs=-1, metavar="[BUFFER]...", shell_complete=known_names.stages)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Disk buffers: what is stored between stages. A buffer's name is STAGE.N/CONSUMER, or STAGE.N/OUTLET.CONSUMER; STAGE or
    STAGE.N stands for all that it has.

    Works on the state folders on this machine, whether or not the pipeline runs.
    """


def _stored(config: Path) -> StoredBuffers:
    found = find_target(config)
    return StoredBuffers(found.config, found.env)


@command.command("list")
@target_argument
@_some
@json_option
def list_(config: Path, names: tuple[str, ...], as_json: bool) -> ExitCode:
    """List buffers: messages that wait, and since when, bytes on the disk, damaged places."""
    stored = _stored(config)
    found = {name: list_buffer(folder) for name, folder in stored.find(names).items()}
    if as_json:
        rows = [{"buffer": name, **one._asdict(), "folder": str(one.folder)} for name, one in found.items()]
        click.echo(json.dumps({"pipeline": stored.config.name, "buffers": rows}))
    elif not found:
        click.echo("no disk buffers", err=True)
    else:
        width = max(map(len, found))
        for name, one in found.items():
            files = f"{one.disk_bytes:,} bytes in {one.segments} segments"
            damaged = f", {one.damaged} damaged places in {one.folder / 'bad'}" if one.damaged else ""
            unread = f", {one.unreadable} of them cannot be read in whole now" if one.unreadable else ""
            age = f", the oldest stored {duration(max(time.time() - one.oldest_at, 0))} ago" if one.oldest_at else ""
            click.echo(f"{name:{width}}  {one.messages:,} messages{age}, {files}{unread}{damaged}")
    return ExitCode.DONE


@command.command("verify")
@target_argument
@_some
@json_option
def verify_(config: Path, names: tuple[str, ...], as_json: bool) -> ExitCode:
    """Read every record and compare its checksums.

    Exit codes: 0 all of them are whole, 1 some are damaged or cannot be read.
    """
    stored = _stored(config)
    found = {name: verify(folder) for name, folder in stored.find(names).items()}
    if as_json:
        rows = [
            {"buffer": name, **one._asdict(), "damages": [place._asdict() for place in one.damages]}
            for name, one in found.items()
        ]
        click.echo(json.dumps({"pipeline": stored.config.name, "buffers": rows}))
    else:
        for name, one in found.items():
            _print_verified(name, one)
    return ExitCode.DONE if all(one.whole for one in found.values()) else ExitCode.FAILED


def _print_verified(name: str, found: Verification) -> None:
    click.echo(f"{name}  {found.messages:,} messages in {found.records:,} whole records, {found.bytes:,} bytes")
    for place in found.damages:
        where = f"bytes {place.start} to {place.stop}" if place.stop else ""
        what = f"{where} are damaged" if where else "cannot be opened"
        if place.error:
            what = f"{where} cannot be read now: {place.error}" if where else f"{what} now: {place.error}"
        known = place.messages or not place.error
        click.echo(f"  {place.segment}: {what}{f': {place.messages:,} messages' if known else ''}")
    if found.unfinished_bytes:
        click.echo(f"  {found.unfinished_bytes:,} bytes at the end are of a write that is under way or was cut off")


@command.command("show")
@target_argument
@click.argument("name", metavar="BUFFER", shell_complete=known_names.instances)
@click.option("--from", "first", type=click.IntRange(min=1), default=1, metavar="NUMBER", help="From this message on.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=SHOW_MESSAGES, show_default=True, help="At most so many messages."
)
@json_option
def show_(config: Path, name: str, first: int, limit: int, as_json: bool) -> ExitCode:
    """Show messages that wait in a buffer, the oldest first, without taking them."""
    ((_, folder),) = _one(_stored(config), name)
    rows = [
        {
            "number": one.number,
            "id": one.id,
            "origin": one.origin,
            "attempt": one.attempt,
            "headers": json_or_text(one.headers),
            "payload": json_or_text(one.payload),
        }
        for one in islice(show(folder, first), limit)
    ]
    if as_json:
        click.echo(json.dumps(rows))
    else:
        for row in rows:
            click.echo(visible(f"{row['number']}  {row['id']}  {json.dumps(row['payload'], ensure_ascii=False)}"))
    return ExitCode.DONE


def _one(stored: StoredBuffers, name: str) -> list[tuple[str, Path]]:
    """The only buffer that the name chooses."""
    found = list(stored.find([name]).items())
    if len(found) > 1:
        raise click.UsageError(f"{name!r} has several disk buffers: {', '.join(one for one, _ in found)}")
    return found


@command.command("drop")
@target_argument
@click.argument("names", nargs=-1, required=True, metavar="BUFFER...", shell_complete=known_names.stages)
@click.option("--until", type=click.IntRange(min=1), metavar="NUMBER", help="Only messages below this number.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def drop_(config: Path, names: tuple[str, ...], until: int | None, yes: bool, as_json: bool) -> ExitCode:
    """Have messages that wait in buffers never be sent: they are lost. Their instances must not run."""
    stored = _stored(config)
    found = stored.find(names)
    if until is not None:
        found = dict(_one(stored, name)[0] for name in names)
    stored.check_at_rest(found)
    if not yes:
        waiting = sum(list_buffer(folder).messages for folder in found.values())
        which = f"of {waiting:,} messages those below number {until}" if until is not None else f"{waiting:,} messages"
        click.confirm(f"Drop {which} from {', '.join(found)} for good?", abort=True, err=True)
    dropped = {name: drop(folder, until) for name, folder in found.items()}
    if as_json:
        click.echo(json.dumps({"dropped": {name: one._asdict() for name, one in dropped.items()}}))
    else:
        for name, one in dropped.items():
            click.echo(f"{name}  {one.messages:,} messages dropped, {one.bytes:,} bytes free", err=True)
    return ExitCode.DONE
