"""zpipe plugins"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, get_type_hints

import click

from zpipe import plugin_loading
from zpipe.cli.parameters import json_or_text
from zpipe.config.plugin_options import describe
from zpipe.errors import ExitCode, PluginError
from zpipe.plugin_loading import Plugin


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON value.")
def command(as_json: bool) -> ExitCode:
    """List the plugins that are installed, and their options.

    They are those with an entry point. A config may also name one as module:object, or as a file.
    """
    rows = [_row(*found) for found in plugin_loading.installed()]
    if as_json:
        click.echo(json.dumps({"plugins": rows}))
    else:
        click.echo("\n".join(_lines(rows)) if rows else "no plugins are installed")
    return ExitCode.DONE


def _row(name: str, distribution: str, version: str) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "distribution": distribution, "version": version}
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a plugin may print while it is imported, which is no result
            plugin = plugin_loading.load(name, Path.cwd())
            return {**row, "kind": _kind(plugin), "options": _options(plugin), "error": None}
    except PluginError as error:
        problem = str(error)
    except Exception as error:
        problem = f"plugin {name!r}: {type(error).__name__}: {error}"
    return {**row, "kind": None, "options": [], "error": problem}


def _kind(plugin: Plugin) -> str:
    if plugin.is_source:
        return "source+process" if plugin.takes_messages else "source"
    if plugin.is_wrapper:
        return "wrapper"
    if plugin.takes_messages and plugin.takes_batches:
        return "process+batch"
    return "batch" if plugin.takes_batches else "process"


def _options(plugin: Plugin) -> list[dict[str, Any]]:
    if plugin.options_type is None:
        return []
    hints = get_type_hints(plugin.options_type)
    options = []
    for field in dataclasses.fields(plugin.options_type):
        if not field.init:
            continue
        default: Any = None
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        described = describe(hints[field.name])
        options.append({"name": field.name, "type": described, "required": required, "default": json_or_text(default)})
    return options


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    name, kind = (max(len(row[key] or "broken") for row in rows) for key in ("name", "kind"))
    lines = []
    for row in rows:
        title = f"{row['name']:{name}}  {row['kind'] or 'broken':{kind}}  {row['distribution']} {row['version']}"
        lines.append(title.rstrip())
        if row["error"]:
            lines.append(f"    {row['error']}")
        width = max((len(option["name"]) for option in row["options"]), default=0)
        for option in row["options"]:
            fallback = "required" if option["required"] else f"default {json.dumps(option['default'])}"
            if not option["required"] and option["default"] is None:
                fallback = "optional"
            lines.append(f"    {option['name']:{width}}  {option['type']}; {fallback}")
    return lines
