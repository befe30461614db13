"""What `pause` and `resume` share: asking every instance of a stage for one thing."""

from __future__ import annotations

import os
from pathlib import Path

import click

from zpipe.config import load


def ask(config: Path, target: str, what: str, said: str) -> None:
    """Asks STAGE or STAGE.N for `what`, and prints a line for each instance that did it. Raises NoPeerError, OperatorError."""
    from zpipe.daemon.drain import ask_all, parse_target

    pipeline = load(config, only="")
    stage, instance = parse_target(pipeline, target)
    for name in ask_all(pipeline, os.environ, stage, instance, what):
        click.echo(f"{name} {said}")
