"""zpipe new NAME --kind KIND"""

from __future__ import annotations

import json
from pathlib import Path

import click

from zpipe.errors import ExitCode
from zpipe.scaffold import plugin_files


@click.command()
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(list(plugin_files.PLUGINS)),
    default="map",
    show_default=True,
    help="What it does: reads, handles single messages or batches, stores, awaits, or is a program in any language.",
)
@click.option("--single-file", is_flag=True, help="A module with its test and config, here; no package.")
@click.option("--json", "as_json", is_flag=True, help="The files as one JSON value.")
def command(name: str, kind: str, single_file: bool, as_json: bool) -> ExitCode:
    """Begin a plugin: one that works, with options, tests and a config that runs it, to be changed into your own.

    A package of that NAME in a folder of its own, or with --single-file three files in this one. Nothing is overwritten.
    """
    files = plugin_files.files_of(name, kind, single_file)
    plugin_files.write(files, Path.cwd())
    if as_json:
        click.echo(json.dumps({"name": name, "kind": kind, "files": list(files)}))
        return ExitCode.DONE
    click.echo("\n".join(files))
    config = next(path for path in files if path.endswith(".toml") and not path.endswith("pyproject.toml"))
    install = f"pip install -e ./{name} && " if f"{name}/pyproject.toml" in files else ""
    click.echo(f"next: {install}python -m pytest {'.' if single_file else name} && zpipe run {config}", err=True)
    return ExitCode.DONE
