"""zpipe man DIR: a manual page for each command, of what `--help` is made of. Does not belong here: any fact of a command."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click

from zpipe import __version__
from zpipe.errors import ExitCode, OperatorError

EXIT_STATUS = {
    ExitCode.DONE: "done; a run or a drain: and its ledger balances",
    ExitCode.FAILED: "failed; with --check: something is wrong",
    ExitCode.USAGE: "usage or config: nothing was started",
    ExitCode.UNBALANCED: "the ledger does not balance",
    ExitCode.DRAIN_TIMEOUT: "a drain did not end in time",
    ExitCode.NO_PEER: "nothing of that pipeline, or of that stage, runs",
}


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="The paths of the pages as one JSON value.")
def command(folder: Path, as_json: bool) -> ExitCode:
    """Write the manual pages of zpipe and its commands into a folder.

    A package has them in share/man/man1, where man(1) looks for them beside the program.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for name, text in pages().items():
            paths.append(folder / name)
            paths[-1].write_text(text, encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"cannot write into {folder}: {error.strerror}") from None
    if as_json:
        click.echo(json.dumps({"pages": list(map(str, paths))}))
    else:
        click.echo(f"{len(paths)} pages in {folder}")
    return ExitCode.DONE


def pages() -> dict[str, str]:
    """Every page, by the name of its file."""
    from zpipe.cli import ALIASES, group

    whole = click.Context(group, info_name="zpipe")
    commands = {name: click.Context(found, parent=whole, info_name=name) for name, found in _commands(whole)}
    made = {"zpipe.1": _page(whole, [f"zpipe-{name}" for name in commands])}
    for name, context in commands.items():
        made[f"zpipe-{name}.1"] = _page(context, ["zpipe"])
    made |= {f"zpipe-{alias}.1": f".so man1/zpipe-{meant}.1\n" for alias, meant in ALIASES.items()}
    return made


def _commands(context: click.Context) -> Iterator[tuple[str, click.Command]]:
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            if (found := context.command.get_command(context, name)) is not None:
                yield name, found


def _page(context: click.Context, others: list[str]) -> str:
    name = context.command_path.replace(" ", "-")
    lines = [f'.TH "{name.upper()}" "1" "" "zpipe {__version__}" "zpipe"', ".nh", ".SH NAME"]
    lines += [f"{name} \\- {_text(context.command.get_short_help_str(200))}", ".SH SYNOPSIS", _synopsis(context)]
    lines += [".SH DESCRIPTION", *_description(context.command), *_options(context, ".SH OPTIONS")]
    if below := list(_commands(context)):
        lines.append(".SH COMMANDS")
        for word, found in below:
            if context.parent is None:
                lines += [".TP", f"\\fBzpipe {_text(word)}\\fR", _text(found.get_short_help_str(200))]
            else:
                inner = click.Context(found, parent=context, info_name=word)
                lines += [
                    f'.SS "{_text(inner.command_path)}"',
                    _synopsis(inner),
                    *_description(found),
                    *_options(inner, ""),
                ]
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXIT_STATUS.items():
        lines += [".TP", f"\\fB{code.value}\\fR", _text(meaning)]
    lines += [".SH SEE ALSO", ", ".join(f"\\fB{_text(one)}\\fR(1)" for one in others)]
    return "\n".join(lines) + "\n"


def _synopsis(context: click.Context) -> str:
    words = " ".join(context.command.collect_usage_pieces(context))
    return f"\\fB{_text(context.command_path)}\\fR {_text(words)}"


def _description(command: click.Command) -> Iterator[str]:
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(command.help or ""))
    for paragraph in paragraphs:
        yield from (".PP", _text(" ".join(paragraph.split())))


def _options(context: click.Context, heading: str) -> Iterator[str]:
    options = [one for one in context.command.get_params(context) if isinstance(one, click.Option)]
    rows = [row for one in options if (row := one.get_help_record(context)) is not None and "--help" not in one.opts]
    if rows and heading:
        yield heading
    for names, meaning in rows:
        yield from (".TP", f"\\fB{_text(names)}\\fR", _text(" ".join(meaning.split())))


def _text(text: str) -> str:
    """As roff needs it: a hyphen that can be searched for and copied, and no line that begins with a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga")
    return f"\\&{text}" if text.startswith((".", "'")) else text
