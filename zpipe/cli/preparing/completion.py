"""zpipe completion install|show [SHELL]. Does not belong here: which names there are (`known_names`)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from zpipe.errors import ExitCode, OperatorError

SHELLS = ("bash", "zsh", "fish")
_shell = click.argument("shell", required=False, metavar="[bash|zsh|fish]", type=click.Choice(SHELLS))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Complete commands, options, pipelines, stages and instances in a shell.

    Without a name it is the shell that $SHELL names.
    """


@command.command()
@_shell
@click.option("--json", "as_json", is_flag=True, help="One JSON value on stdout.")
def install(shell: str | None, as_json: bool) -> ExitCode:
    """Write the completion where the shell looks for it, for this user, and say what else it needs."""
    shell = shell or _users_shell()
    path, needs = _place(shell)
    text = _script(shell)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"cannot write {path}: {error.strerror}") from None
    if as_json:
        click.echo(json.dumps({"shell": shell, "path": str(path), "needs": needs}))
    else:
        click.echo(f"wrote {path}")
        click.echo(f"zpipe: {needs}", err=True)
    return ExitCode.DONE


@command.command()
@_shell
def show(shell: str | None) -> ExitCode:
    """Print the completion, for a package or for `source`."""
    click.echo(_script(shell or _users_shell()), nl=False)
    return ExitCode.DONE


def _users_shell() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise click.UsageError(f"which shell? $SHELL is none of {', '.join(SHELLS)}: name one")
    return name


def _script(shell: str) -> str:
    from zpipe.cli import group

    made = get_completion_class(shell)
    assert made is not None
    # Not `source()`, which for bash starts one to ask for its version, even where another shell is used.
    one = made(group, {}, "zpipe", "_ZPIPE_COMPLETE")
    return str(one.source_template % one.source_vars()).lstrip("\n")


def _place(shell: str) -> tuple[Path, str]:
    """Where the completion of a shell belongs, and what the user has to do besides."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    if shell == "fish":
        return config / "fish" / "completions" / "zpipe.fish", "fish reads it at the next tab"
    if shell == "zsh":
        path = data / "zsh" / "site-functions" / "_zpipe"
        return path, f"zsh needs this in ~/.zshrc, before compinit: fpath+=({path.parent})"
    path = data / "bash-completion" / "completions" / "zpipe"
    return path, f"a new bash reads it, if bash-completion is installed; else ~/.bashrc needs: source {path}"
