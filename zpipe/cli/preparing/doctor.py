"""zpipe doctor CONFIG|PIPELINE. Does not belong here: what is looked at (`operate/doctor`)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zpipe.cli.parameters import TimeType, find_target, json_option, target_argument
from zpipe.config import PipelineConfig, load
from zpipe.errors import ConfigError, ExitCode, TargetError
from zpipe.monitor.formatting import visible

if TYPE_CHECKING:
    from zpipe.operate.doctor import Finding
    from zpipe.runtime.running_pipelines import Target

_COLOURS = {"ok": "green", "warning": "yellow", "wrong": "red"}


@click.command()
@target_argument
@click.option("--host", metavar="NAME", help="Look as that host of the pipeline.  [default: this one]")
@click.option("--timeout", type=TimeType(), metavar="TIME", help="How long to listen to instances.  [default: 3s]")
@json_option
def command(config: Path, host: str | None, timeout: float | None, as_json: bool) -> ExitCode:
    """Find what stands in a pipeline's way, from this machine: the config and its plugins, names, ways to the other hosts, keys,
    versions, clocks, services of plugins, limits, folders, disks and units. Each finding says its cure.

    Changes nothing, and may be called whether the pipeline runs or not. Goes by what a config says, for the next start, or by
    what a PIPELINE that is named runs by. Exit code 1: something is wrong.
    """
    from zpipe.runtime import environment, running_pipelines

    target = find_target(config) if running_pipelines.is_name(config) else None
    path = target.config.path if target else config
    env = {**(target.env if target else os.environ), **({environment.HOST: host} if host else {})}
    found: list[Finding] = []
    for one in _findings(path, target, env, 3.0 if timeout is None else timeout):
        found.append(one)
        if not as_json:
            click.echo(
                f"{click.style(one.verdict.ljust(7), fg=_COLOURS[one.verdict])}  {one.area}: {visible(one.what)}"
            )
            if one.cure:
                click.echo(f"         -> {visible(one.cure)}")
    wrong = sum(one.verdict == "wrong" for one in found)
    if as_json:
        click.echo(json.dumps({"config": str(path), "ok": not wrong, "findings": [one._asdict() for one in found]}))
    else:
        click.echo(f"zpipe: {wrong or 'nothing'} in the way", err=True)
    return ExitCode.FAILED if wrong else ExitCode.DONE


def _findings(path: Path, target: Target | None, env: Mapping[str, str], listen_s: float) -> Iterator[Finding]:
    """`target`: the pipeline that was named."""
    from zpipe.operate.doctor import Finding, examine

    pipeline: PipelineConfig | None = None
    try:
        pipeline = load(path)
        yield Finding("config", "ok", f"{path} is right, and its plugins can be loaded")
    except ConfigError as error:
        for mistake in error.mistakes:
            yield Finding("config", "wrong", str(mistake), "correct it: `zpipe check` says what is allowed")
        with suppress(ConfigError):
            pipeline = load(path, only="")
    if target and not (target.is_file and pipeline):
        pipeline = target.config  # not if the file says the same: instances leave no options in their records
    if pipeline is None:
        return
    yield from examine(pipeline, env, listen_s)
    yield from _units(pipeline, path, env)


def _units(pipeline: PipelineConfig, path: Path, env: Mapping[str, str]) -> Iterator[Finding]:
    """Of a config in /etc/zpipe."""
    from zpipe.config.loading import report_for
    from zpipe.operate.doctor import Finding
    from zpipe.runtime import this_host
    from zpipe.units import install, sandbox, unit_files, unit_names

    if pipeline.path != unit_names.config_path(pipeline.name):
        return
    root = Path("/")
    try:
        host = this_host.name_of(pipeline, env)
    except TargetError:
        return  # which is said already
    encrypted = (install.CREDENTIALS / f"{host}.key").exists()
    wanted = unit_files.files(pipeline, install.templates(), install.program(), host, encrypted)
    changes = install.find_changes(root, pipeline.name, wanted)
    cure = f"zpipe units {path} --install"
    if changes:
        yield Finding("units", "warning", f"{len(changes)} unit files are not as the config has them", cure)
    else:
        yield Finding("units", "ok", "the unit files are as the config has them")
    report = report_for(pipeline, str(path), os.environ)
    sandbox.warn_of_paths(pipeline, report, root)
    sandbox.warn_of_network(pipeline, report, root)
    for warning in [
        *install.warnings(pipeline, install.program(), root, [], host, encrypted),
        *map(str, report.mistakes),
    ]:
        yield Finding("units", "warning", warning)
