"""zpipe tap CONFIG|PIPELINE STAGE|LINK"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import click

from zpipe.cli.parameters import TimeType, find_target, stage_argument, target_argument
from zpipe.errors import ExitCode, OperatorError
from zpipe.monitor.messages.condition import read_condition
from zpipe.monitor.messages.redaction import Redaction, read_names
from zpipe.monitor.messages.tapped_messages import TappedMessage, TappedMessages
from zpipe.operate.tap_subscription import TapSubscription, read_tap_target

TURN_S = 0.1
MOST_SECTIONS = 10_000
"""More than any instance shows, so that the instance decides."""


@click.command()
@target_argument
@stage_argument("target", "STAGE[.N]|LINK")
@click.option("--where", multiple=True, metavar="CONDITION", help="Only messages that meet it; may be given again.")
@click.option("--redact", multiple=True, metavar="FIELD,…", help="Do not show these fields, wherever they stand.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many messages.")
@click.option("--rate", type=click.FloatRange(min=0.1, max=10_000), default=10.0, show_default=True, metavar="N",
              help="Show at most so many messages a second.")  # fmt: skip
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE", help="Also write them to a new fixture file.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each message.")
@click.option("--timeout", type=TimeType(), default="3s", show_default=True,
              metavar="TIME", help="How long to wait for an instance to answer.")  # fmt: skip
def command(
    config: Path,
    target: str,
    where: tuple[str, ...],
    redact: tuple[str, ...],
    count: int | None,
    rate: float,
    save: Path | None,
    as_json: bool,
    timeout: float,
) -> ExitCode:
    """Show messages that pass, without taking them.

    STAGE shows what enters and leaves it; LINK is "read->parse", or "read.OUTLET->parse" of a named outlet (in quotes, for
    the shell). It is a sample: the rate is yours, and a busy instance shows at most 500 sections and 1 MiB a second of each
    link, so that nothing is slowed down.

    CONDITION is FIELD=VALUE, !=, >, >=, <, <= or FIELD~REGEX. FIELD leads into the payload (user.email, items.0.price) or is @id,
    @origin, @attempt, @headers.NAME. Conditions see fields that --redact hides, which takes the same names, but of a message's
    own only @id, @headers and @headers.NAME. It hides fields, not text elsewhere that repeats what is in them.

    Goes on until --count, Ctrl-C, or every instance has stopped. Exit code 5 if none of the stage answers.
    """
    try:
        conditions = [read_condition(text) for text in where]
        redaction = Redaction(read_names(redact))
    except ValueError as problem:
        raise click.UsageError(str(problem)) from None
    found = find_target(config)
    targets, link = read_tap_target(found.config, target)
    tapped_messages = TappedMessages(link, conditions, redaction, rate, time.monotonic())
    show = _printer(as_json)
    with ExitStack() as stack:
        file = stack.enter_context(_new(save)) if save is not None else None
        # With conditions, every message has to be looked at. Without, there is no use for more sections than messages shown.
        tap = TapSubscription(found.config, found.env, targets, MOST_SECTIONS if conditions else int(rate) + 1)
        stack.callback(tap.close)
        try:
            for one in islice(_follow(tap, tapped_messages, timeout), count):
                if file is not None:
                    _write(file, one.as_json() + "\n")
                show(one)
        except KeyboardInterrupt:
            pass  # how watching is ended
    click.echo(f"zpipe: {tapped_messages.summary()}", err=True)
    return ExitCode.DONE


def _follow(tap: TapSubscription, tapped_messages: TappedMessages, wait_s: float) -> Iterator[TappedMessage]:
    """Each message that is to be shown, until every instance has stopped. Blocks between.

    Raises NoPeerError if no instance answers within `wait_s`, OperatorError if this user may not look for them.
    """
    deadline = time.monotonic() + wait_s
    while not tap.over:
        for frame in tap.poll(TURN_S):
            yield from tapped_messages.take(frame, time.time(), time.monotonic())
        if not tap.heard and time.monotonic() > deadline:
            raise tap.missing()


def _printer(as_json: bool) -> Callable[[TappedMessage], None]:
    """Prints a message to stdout: a line of JSON, or a heading and the payload, in colour on a terminal that wants it."""
    if as_json:
        return lambda seen: click.echo(seen.as_json())
    if not sys.stdout.isatty():
        return lambda seen: click.echo(f"{seen.heading()}\n{seen.body()}")
    from rich.console import Console
    from rich.text import Text

    console = Console()
    return lambda seen: console.print(Text.assemble((seen.heading(), "bold cyan"), "\n", seen.body()), soft_wrap=True)


@contextmanager
def _new(path: Path) -> Iterator[BinaryIO]:
    """Opens a new file, and removes it if it stays empty. A file that exists is refused, so that nobody overwrites one by
    mistake."""
    try:
        file = path.open("xb", buffering=0)
    except FileExistsError:
        raise OperatorError(f"{path} is there already: name another file, or remove it") from None
    except OSError as error:
        raise OperatorError(f"cannot write {path}: {error.strerror}") from None
    try:
        yield file
    finally:
        with suppress(OSError):  # a full disk was reported already
            file.close()
        if not path.stat().st_size:
            path.unlink(missing_ok=True)


def _write(file: BinaryIO, line: str) -> None:
    """Writes the whole line or nothing, since half a line is no message."""
    at, left = file.tell(), line.encode()
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        file.truncate(at)
        raise OperatorError(f"cannot write {file.name}: {error.strerror}; what was saved before is whole") from None
