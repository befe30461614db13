"""zpipe pause CONFIG|PIPELINE STAGE, zpipe resume CONFIG|PIPELINE STAGE"""

from __future__ import annotations

from pathlib import Path

import click

from zpipe.cli.parameters import find_target, target_argument


@click.command()
@target_argument
@click.argument("stage", metavar="STAGE[.N]")
def pause(config: Path, stage: str) -> None:
    """Have a stage start no work until it is resumed; what it has started goes on, its queue fills and pushes back."""
    _ask(config, stage, "pause", "is paused")


@click.command()
@target_argument
@click.argument("stage", metavar="STAGE[.N]")
def resume(config: Path, stage: str) -> None:
    """Have a paused stage go on."""
    _ask(config, stage, "resume", "goes on")


def _ask(config: Path, target: str, request: str, done: str) -> None:
    """Sends the request to STAGE or STAGE.N, and prints a line for each instance that did it. Raises OperatorError."""
    from zpipe.operate.targets import read_stage_target
    from zpipe.operate.watch import ask_instances

    found = find_target(config)
    stage, instance = read_stage_target(found.config, target)
    for name in ask_instances(found.config, found.env, stage, instance, request):
        click.echo(f"{name} {done}")
