"""zpipe plugins"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from zpipe import plugin_loading
from zpipe.cli.parameters import json_or_text
from zpipe.config.plugin_options import Option, options_of
from zpipe.errors import ExitCode, PluginError
from zpipe.plugin_loading import Plugin


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON value.")
def command(name: str | None, as_json: bool) -> ExitCode:
    """List the plugins that are installed, and their options, or those of the one plugin NAME.

    Installed are those with an entry point. NAME may also be module:object or a file, as in a config.
    """
    found = plugin_loading.installed()
    if name is not None:
        found = [one for one in found if one[0] == name] or [(name, "", "")]
    rows = [row for one in found for row in _rows(*one)]
    if name is not None and rows[0]["error"]:
        raise PluginError(rows[0]["error"])
    if as_json:
        click.echo(json.dumps({"plugins": rows}))
    else:
        click.echo("\n".join(_lines(rows)) if rows else "no plugins are installed")
    return ExitCode.DONE


def _rows(name: str, distribution: str, version: str) -> list[dict[str, Any]]:
    """A row, or two for a plugin that is a source with options of its own in a stage without input."""
    row: dict[str, Any] = {"name": name, "distribution": distribution, "version": version}
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a plugin may print while it is imported, which is no result
            return [{**row, **_form(plugin), "error": None} for plugin in plugin_loading.load(name, Path.cwd()).forms]
    except PluginError as error:
        problem = str(error)
    except Exception as error:
        problem = f"plugin {name!r}: {type(error).__name__}: {error}"
    return [{**row, "kind": None, "options": [], "error": problem}]


def _form(plugin: Plugin) -> dict[str, Any]:
    options = options_of(plugin.options_type) if plugin.options_type is not None else []
    return {"kind": _kind(plugin), "options": list(map(_option, options))}


def _kind(plugin: Plugin) -> str:
    if plugin.is_source:
        return "source+process" if plugin.takes_messages else "source"
    found = []
    if plugin.takes_messages:
        found.append("process")
    if plugin.takes_batches:
        found.append("batch")
    if plugin.is_wrapper:
        found.append("wrapper")
    return "+".join(found)


def _option(option: Option) -> dict[str, Any]:
    inner = list(map(_option, option.options))
    return {**vars(option), "default": json_or_text(option.default), "options": inner}


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    name, kind = (max(len(row[key] or "broken") for row in rows) for key in ("name", "kind"))
    lines = []
    for row in rows:
        title = f"{row['name']:{name}}  {row['kind'] or 'broken':{kind}}  {row['distribution']} {row['version']}"
        lines.append(title.rstrip())
        if row["error"]:
            lines.append(f"    {row['error']}")
        lines += _option_lines(row["options"], " " * 4)
    return lines


def _option_lines(options: list[dict[str, Any]], indent: str) -> list[str]:
    lines = []
    width = max((len(option["name"]) for option in options), default=0)
    for option in options:
        fallback = "required" if option["required"] else f"default {json.dumps(option['default'])}"
        if not option["required"] and option["default"] is None:
            fallback = "optional"
        lines.append(f"{indent}{option['name']:{width}}  {option['type']}; {fallback}")
        if option["help"]:
            lines.append(f"{indent}{'':{width}}  {option['help']}")
        lines += _option_lines(option["options"], f"{indent}{'':{width}}  ")
    return lines
