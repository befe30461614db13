"""What `zpipe dead replay` does with the letters it was given: asks who runs, or runs the pipeline for them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from zpipe.config import load
from zpipe.errors import ExitCode

if TYPE_CHECKING:
    from zpipe.operate.dead_letter_replay import Outcome
    from zpipe.operate.stored_dead_letters import Numbers, StoredDeadLetters

LINE_S = 5.0


def replay_letters(
    stored_dead_letters: StoredDeadLetters, chosen: Numbers, rate: float, wait: bool, as_json: bool
) -> ExitCode:
    """Marks them, then sees to it that they are replayed. Blocks."""
    from zpipe.operate.dead_letter_replay import Replaying, outcome, running

    stored_dead_letters.mark(chosen, rate)
    if not chosen:
        return _said(outcome(stored_dead_letters, chosen), None, as_json)
    if not running(stored_dead_letters):
        return _run(stored_dead_letters, chosen, as_json)
    replaying = Replaying(stored_dead_letters.config, stored_dead_letters.env, stored_dead_letters, chosen)
    try:
        found = replaying.wait(_progress()) if wait else replaying.ask()
    except KeyboardInterrupt:
        click.echo("zpipe: the replay goes on without this command; `zpipe dead list` shows what is left", err=True)
        return ExitCode.FAILED
    finally:
        replaying.close()
    return _said(found, None, as_json, waited=wait)


def _progress() -> Callable[[Outcome, list[str]], None]:
    """Says how far it is: now and then, and at once when something is in the way."""
    said: list[str] = []
    due = [time.monotonic() + LINE_S]

    def turn(found: Outcome, waits: list[str]) -> None:
        if time.monotonic() < due[0] and waits == said:
            return
        due[0] = time.monotonic() + LINE_S
        said[:] = waits
        text = f"event=replay.progress replayed={found.replayed} again={found.again} left={found.left}"
        click.echo("; ".join([text, *waits]), err=True)

    return turn


def _run(stored_dead_letters: StoredDeadLetters, chosen: Numbers, as_json: bool) -> ExitCode:
    """Runs the pipeline with its sources closed until every letter that is marked has come, and drains it."""
    from zpipe.monitor.model.run_ledger import RunLedger
    from zpipe.monitor.run.progress import LiveProgress, PlainProgress
    from zpipe.operate.dead_letter_replay import outcome
    from zpipe.runtime.logs import for_children
    from zpipe.supervisor.supervisor import Supervisor

    pipeline = load(stored_dead_letters.config.path)
    marked = stored_dead_letters.any_marked()
    configured = {(s.name, n) for s in pipeline.stages.values() for n in range(1, s.instances + 1)}
    ledger = RunLedger(pipeline, expected=configured | marked)
    display = LiveProgress(pipeline) if sys.stderr.isatty() else PlainProgress(pipeline)
    began = time.monotonic()
    try:
        code = Supervisor(
            pipeline, for_children(stored_dead_letters.env), display, ledger, False, "warning", replay=marked
        ).run()
    finally:
        display.close()
    result = ledger.as_json(time.monotonic() - began)
    if not as_json:
        from rich.console import Console

        from zpipe.monitor.run.ledger_table import ledger_table

        Console().print(ledger_table(result))
    for problem in [*ledger.problems(), *ledger.remarks(result)]:
        click.echo(f"zpipe: {problem}", err=True)
    said = _said(outcome(stored_dead_letters, chosen), result, as_json)
    if code is not ExitCode.DONE:
        return code
    return said if ledger.balanced else ExitCode.UNBALANCED


def _said(found: Outcome, ledger: dict[str, Any] | None, as_json: bool, waited: bool = True) -> ExitCode:
    """Prints what came of it."""
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
