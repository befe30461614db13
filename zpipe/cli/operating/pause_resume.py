"""zpipe pause CONFIG|PIPELINE STAGE[.N], zpipe resume CONFIG|PIPELINE STAGE[.N]"""

from __future__ import annotations

import json
from pathlib import Path

import click

from zpipe.cli.parameters import find_target, json_option, stage_argument, target_argument
from zpipe.errors import ExitCode


@click.command()
@target_argument
@stage_argument("stage")
@json_option
def pause(config: Path, stage: str, as_json: bool) -> ExitCode:
    """Have a stage start no work until it is resumed; what it has started goes on, its queue fills and pushes back."""
    return _ask(config, stage, "pause", "is paused", as_json)


@click.command()
@target_argument
@stage_argument("stage")
@json_option
def resume(config: Path, stage: str, as_json: bool) -> ExitCode:
    """Have a paused stage go on."""
    return _ask(config, stage, "resume", "goes on", as_json)


def _ask(config: Path, target: str, request: str, done: str, as_json: bool) -> ExitCode:
    """Sends the request to STAGE or STAGE.N, and prints which instances did it. Raises OperatorError."""
    from zpipe.config.targets import read_stage_target
    from zpipe.operate.watch import ask_instances

    found = find_target(config)
    stage, instance = read_stage_target(found.config, target)
    names = ask_instances(found.config, found.env, stage, instance, request)
    if as_json:
        click.echo(json.dumps({"pipeline": found.config.name, "request": request, "instances": list(names)}))
    else:
        for name in names:
            click.echo(f"{name} {done}")
    return ExitCode.DONE
