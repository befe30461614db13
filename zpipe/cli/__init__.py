"""The group of all commands, which loads a command when it is called, and what every command's end has in common.

Each command has a file of its own in one of the two folders here. Does not belong in any of them: logic that is of use without a
terminal.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import click

from zpipe import __version__
from zpipe.errors import ExitCode, OperatorError, ZpipeError

_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

COMMANDS = {
    "demo": "Run an example, and ask it a question: the first minute with zpipe.",
    "run": "Run a whole pipeline in this terminal until its sources end.",
    "stage": "Run one instance of a stage in the foreground (what systemd runs).",
    "check": "Check configs: every mistake at once, and the memory they may take.",
    "graph": "Print a pipeline as a graph (mermaid or dot).",
    "monitor": "Show states, depths and rates of a running pipeline.",
    "tap": "Show messages that pass, without taking them.",
    "drain": "Shut a running pipeline down in order, and prove it.",
    "restart": "Restart the units of a running pipeline one by one, from the last stage on.",
    "pause": "Have a stage start no work.",
    "resume": "Have a paused stage go on.",
    "dead": "List, show, edit, replay or drop dead letters.",
    "buffer": "List, verify, show or drop what disk buffers have.",
    "units": "Make a pipeline's systemd units.",
    "keys": "Make, trust, rotate and drop the keys of hosts.",
    "doctor": "Find what stands in a pipeline's way, and say its cure.",
    "new": "Begin a plugin, with options, tests and a config.",
    "plugins": "List the plugins that are installed.",
    "conform": "Check that a stage in any language keeps the protocol.",
    "completion": "Have a shell complete commands, pipelines, stages and instances.",
    "man": "Write the manual pages.",
}
ALIASES = {"top": "monitor"}
_OPERATING = ("demo", "run", "stage", "monitor", "tap", "drain", "restart", "pause", "resume", "dead", "buffer")
"""The commands that start, show or change a pipeline that runs. Their modules are in `operating`, all others in `preparing`."""
_BESIDE = {"pause": "pause_resume", "resume": "pause_resume"}
"""The modules of commands that do not have one of their own name."""


class _Group(click.Group):
    """Imports a command when it is called, so that `zpipe --help` need not load sockets and terminals."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        name = ALIASES.get(name, name)
        if name not in COMMANDS:
            return None
        room = "operating" if name in _OPERATING else "preparing"
        module = importlib.import_module(f"zpipe.cli.{room}.{_BESIDE.get(name, name)}")
        command: click.Command = getattr(module, name if name in _BESIDE else "command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(name)) for name in COMMANDS])

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        with _output():  # --help and --version print here
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _output():
            return super().invoke(ctx)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from zpipe.plugin_loading import did_you_mean

        name = args[0] if args else ""
        known = {*COMMANDS, *ALIASES}
        if name and not name.startswith("-") and name not in known and (hint := did_you_mean(name, known)):
            ctx.fail(f"no such command: {name!r}{hint}")
        return super().resolve_command(ctx, args)


def _summary(name: str) -> str:
    aliases = [alias for alias, meant in ALIASES.items() if meant == name]
    return COMMANDS[name] + (f" Also: {', '.join(aliases)}." if aliases else "")


@click.command(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=lambda context, _, asked: _show_version(context) if asked else None,
    help="Show the version, the commit and the Python, and exit.",
)
def group() -> None:
    """Independent pipeline stages, connected by bounded queues over ZeroMQ, with no broker."""


def _show_version(context: click.Context) -> None:
    click.echo(f"zpipe {__version__} (commit {_commit()}, Python {platform.python_version()})")
    context.exit()


def _commit() -> str:
    """That which the distribution was built of. A checkout has no file that says so: git does."""
    package = Path(__file__).parents[1]
    with suppress(OSError):
        return (package / "commit").read_text("utf-8").strip()
    import subprocess

    command = ["git", "--no-optional-locks", "describe", "--always", "--exclude=*", "--dirty", "--abbrev=12"]
    if (package.parent / ".git").exists():
        with suppress(OSError, subprocess.CalledProcessError):
            done = subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=True)
            return done.stdout.strip()
    return "unknown"


@contextmanager
def _output() -> Iterator[None]:
    """Handles output that cannot be written. A reader that has gone (`| head`) is no error, for which click would exit with 1."""
    try:
        yield
    except BrokenPipeError:
        _abandon(sys.stdout)
        raise click.exceptions.Exit(ExitCode.DONE) from None
    except OSError as error:
        if error.errno not in _CANNOT_WRITE or error.filename is not None:
            raise
        _abandon(sys.stdout)
        raise OperatorError(f"cannot write the output: {error.strerror}") from None


def _abandon(stream: TextIO) -> None:
    """Drops what is left in its buffer, since Python writes it once more at the exit, and that would fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _tell(text: str) -> None:
    with suppress(OSError):  # where no words can be written, the exit code still says it
        click.echo(text, err=True)


def main() -> None:
    """The console script. A mistake of the user ends in one clear message and an exit code, never in a traceback."""
    if os.getpid() == 1:
        from zpipe.cli import first_process

        first_process.stay_behind()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a character that the locale does not have
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = group.main(standalone_mode=False)
    except click.Abort:
        code = ExitCode.FAILED
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        code = error.exit_code
    except ZpipeError as error:
        from zpipe.monitor.formatting import visible_lines  # it may have words of a neighbour

        _tell(visible_lines(f"zpipe: {error}"))
        code = error.exit_code
    except PermissionError as error:  # whichever file it is, the same advice helps
        if error.filename is None:
            raise
        from zpipe.folders import denied

        _tell(f"zpipe: {denied(Path(os.fsdecode(error.filename)), error)}")
        code = ExitCode.FAILED
    try:
        sys.stderr.flush()
    except OSError:
        _abandon(sys.stderr)
    sys.exit(int(code or 0))
