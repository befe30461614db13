"""zpipe pause CONFIG|PIPELINE STAGE"""

from __future__ import annotations

from pathlib import Path

import click

from zpipe.cli.asking import ask
from zpipe.cli.pipeline_argument import target_argument


@click.command()
@target_argument
@click.argument("stage", metavar="STAGE[.N]")
def command(config: Path, stage: str) -> None:
    """Have a stage start no work until it is resumed; what it has started goes on, its queue fills and pushes back."""
    ask(config, stage, "pause", "is paused")
