"""zpipe pause CONFIG STAGE"""

from __future__ import annotations

import os
from pathlib import Path

import click

from zpipe.config import load


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("stage", metavar="STAGE[.N]")
def command(config: Path, stage: str) -> None:
    """Have a stage start no work until it is resumed; what it has started goes on, its queue fills and pushes back."""
    from zpipe.daemon.drain import ask_all, parse_target

    pipeline = load(config, only="")
    name, instance = parse_target(pipeline, stage)
    for done in ask_all(pipeline, os.environ, name, instance, "pause"):
        click.echo(f"{done} is paused")
