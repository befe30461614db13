"""zpipe units CONFIG"""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from zpipe.cli.parameters import config_argument, host_environment
from zpipe.config import load
from zpipe.config.loading import report_for
from zpipe.errors import ExitCode, OperatorError
from zpipe.runtime.environment import HOST


@click.command()
@config_argument
@click.option("--install", "installing", is_flag=True, help="Write the files, and have systemd read them.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default="/",
    show_default=True,
    help="Another system's root.",
)
@click.option("--host", metavar="NAME", help="The units of that host of the pipeline.  [default: this one]")
@click.option("--encrypt", is_flag=True, help="Units read this host's private key from an encrypted credential.")
@click.option("--json", "as_json", is_flag=True, help="What is changed, as one JSON value.")
def command(config: Path, installing: bool, root: Path, host: str | None, encrypt: bool, as_json: bool) -> ExitCode:
    """Make a pipeline's systemd units: its target, for each instance a drop-in that orders it, and what serves its metrics
    if [telemetry] prometheus is in the config.

    Shows what would change in ROOT/etc/systemd/system; nothing is written without --install. Units read
    /etc/zpipe/PIPELINE.toml. Of a pipeline with hosts it makes those of one; they have the host's private key as a credential,
    from /etc/zpipe/keys or, with --encrypt, from /etc/credstore.encrypted.
    """
    from zpipe.units import install, sandbox, systemctl, unit_files

    # Plugins are imported since they say whether they need the network. The user's code must not run as root.
    pipeline = load(config, ask_plugins=False)
    program = install.program()
    name = host_environment(pipeline, os.environ, host).get(HOST, "") if pipeline.hosts or host else ""
    try:
        wanted = unit_files.files(pipeline, install.templates(), program, name, encrypt)
    except ValueError as error:
        raise OperatorError(str(error)) from None
    root = root.absolute()
    folder = root / install.FOLDER
    changes = install.find_changes(root, pipeline.name, wanted)
    if installing:
        install.apply(root, changes)
        reloaded = root == Path("/") and bool(changes) and systemctl.reload_manager()
    report = report_for(pipeline, str(config), os.environ)
    sandbox.warn_of_paths(pipeline, report, root)
    warnings = install.warnings(pipeline, program, root, changes, name, encrypt)
    warnings += map(str, report.mistakes)
    for warning in warnings:
        click.echo(f"zpipe: {warning}", err=True)
    target = unit_files.target_name(pipeline.name)
    if as_json:
        listed = [{"path": str(folder / one.path), "action": one.action} for one in changes]
        value = {"pipeline": pipeline.name, "target": target, "installed": installing, "changes": listed}
        click.echo(json.dumps({**value, "warnings": warnings}))
    elif not installing:
        click.echo(install.diff(folder, changes), nl=False)
        text = f"{len(changes)} change{'s' * (len(changes) > 1)}; --install makes them"
        click.echo(f"zpipe: {text if changes else 'nothing to change'}", err=True)
    elif changes:
        for one in changes:
            click.echo(f"{one.action} {folder / one.path}")
        click.echo(f"zpipe: next: systemctl {'' if reloaded else 'daemon-reload; systemctl '}start {target}", err=True)
    else:
        click.echo("nothing to change")
    return ExitCode.DONE
