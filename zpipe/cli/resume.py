"""zpipe resume CONFIG|PIPELINE STAGE"""

from __future__ import annotations

from pathlib import Path

import click

from zpipe.cli.asking import ask
from zpipe.cli.pipeline_argument import target_argument


@click.command()
@target_argument
@click.argument("stage", metavar="STAGE[.N]")
def command(config: Path, stage: str) -> None:
    """Have a paused stage go on."""
    ask(config, stage, "resume", "goes on")
