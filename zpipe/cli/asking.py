"""What `pause` and `resume` share: asking every instance of a stage for one thing."""

from __future__ import annotations

from pathlib import Path

import click

from zpipe.cli.pipeline_argument import find_target


def ask(config: Path, target: str, what: str, said: str) -> None:
    """Asks STAGE or STAGE.N for `what`, and prints a line for each instance that did it. Raises NoPeerError, OperatorError."""
    from zpipe.operate.pipeline_drain import ask_all, parse_target

    found = find_target(config)
    stage, instance = parse_target(found.config, target)
    for name in ask_all(found.config, found.env, stage, instance, what):
        click.echo(f"{name} {said}")
