"""What `run`, `drain` and `dead replay` print at their end. Does not belong here: how any of them comes to it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import click

from zpipe.errors import ExitCode
from zpipe.monitor.formatting import visible
from zpipe.monitor.model.run_ledger import RunLedger


def print_ledger(result: dict[str, Any], links: bool = False) -> None:
    """The ledger as a table of its stages and, if wanted, one of its links."""
    from rich.console import Console  # with --json, rich is not needed

    from zpipe.monitor.run.ledger_table import ledger_table, link_table

    console = Console()
    console.print(ledger_table(result))
    if links:
        console.print(link_table(result))


def exit_code(code: ExitCode, ledger: RunLedger, result: dict[str, Any], more: Iterable[str] = ()) -> ExitCode:
    """Prints what has to be said of the ledger, and `more`. An end in order whose ledger does not balance is UNBALANCED."""
    for problem in [*ledger.problems(), *ledger.remarks(result), *more]:
        with suppress(OSError):  # a disk that is full: the exit code says how it ended, also where no words can
            click.echo(visible(f"zpipe: {problem}"), err=True)
    return ExitCode.UNBALANCED if code is ExitCode.DONE and not ledger.balanced else code
