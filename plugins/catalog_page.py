"""Writes plugins/CATALOG.md from the docstrings and the options of the plugins that come with zpipe: `make catalog`.

The docstring of a plugin's module is its page: the first paragraph says what it does, as "`name`: …". What can be read
from the code (kinds, options, the extra to install) is added here, so that it is said once.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from zpipe import plugin_loading
from zpipe.config.plugin_options import Option, options_of
from zpipe.errors import DISTRIBUTION, install_command

GROUPS = {
    "": "At hand",
    "filesystem": "Files and streams",
    "exec": "Programs in other languages",
    "databases": "Databases",
    "brokers": "Brokers",
    "web": "The web",
    "payloads": "Payloads",
}
"""The headings, by the folder below `zpipe_plugins` that the plugins are in. A folder that is not named here comes last."""
HEAD = """\
# The plugins that come with zpipe

They use nothing but what [README.md](README.md) describes, so each is an example, too. `zpipe plugins NAME` prints the
options of one; `zpipe check CONFIG` finds wrong options, and says what to install where a plugin needs a library. A kind
says where in a pipeline a plugin may stand: a *source* has no input, a *map* passes something on, a *sink* passes nothing
on, and a *wrapper* stands in the `use` of another stage. A *batch* table may be given where the kinds say so.

What a fault does is said in the words of [Failing well](README.md#failing-well): the stage *waits* (`Throttled`: no
message loses an attempt), it *tries again* (`retry` in the config), the message becomes a *dead letter* at once
(`Reject`), or the stage *ends* with a text for whoever runs it (`OperatorError`).

This page is made from the plugins themselves by `make catalog`.
"""
_FORMS = ("option of the source", "option with an `input`")


class Page(NamedTuple):
    name: str
    group: str
    summary: str
    text: str
    kinds: str
    extra: str
    options: dict[str, list[Option]]
    """By what has them: "option", or "option of the source" and so on where the plugin has two classes."""


def first_party() -> dict[str, str]:
    """The module of each plugin that comes with zpipe, by name."""
    points = importlib.metadata.entry_points(group=plugin_loading.GROUP)
    return {point.name: point.value for point in points if point.module.startswith("zpipe_plugins.")}


def pages() -> list[Page]:
    return [_page(name, where) for name, where in sorted(first_party().items())]


def _page(name: str, where: str) -> Page:
    module = where.partition(":")[0]
    text = inspect.cleandoc(importlib.import_module(module).__doc__ or "")
    summary, _, rest = text.partition("\n\n")
    summary = " ".join(summary.split()).removeprefix(f"`{name}`").removeprefix(":").strip()
    plugin = plugin_loading.load(name, Path())
    forms = {"option": plugin} if plugin.source_form is None else dict(zip(_FORMS, plugin.forms, strict=True))
    options = {what: options_of(form.options_type) for what, form in forms.items() if form.options_type is not None}
    folder = module.removeprefix("zpipe_plugins.").rpartition(".")[0].partition(".")[0]
    extra = name if name in _extras() else ""
    kinds = ", ".join(map(_kinds, plugin.forms))
    return Page(name, folder, summary[:1].upper() + summary[1:], rest.strip(), kinds, extra, options)


def _extras() -> set[str]:
    """Those that zpipe may be installed with. A name in the metadata has hyphens."""
    found = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    return {extra.replace("-", "_") for extra in found}


def _kinds(plugin: plugin_loading.Plugin) -> str:
    is_sink = plugin.is_sink or (plugin.options_type is None and plugin.traits(None, Path()).is_sink)
    found = ["source"] if plugin.is_source else []
    if plugin.takes_messages or plugin.takes_batches:
        found.append("sink" if is_sink else "map")
    if plugin.takes_batches:
        found.append("batch" if plugin.takes_messages else "batch only")
    if plugin.is_wrapper:
        found.append("wrapper")
    return ", ".join(found)


# The text


def as_markdown() -> str:
    """plugins/CATALOG.md, whole."""
    found = pages()
    groups = [*GROUPS, *sorted({page.group for page in found} - GROUPS.keys())]
    ordered = [page for group in groups for page in found if page.group == group]
    lines = [HEAD, "| plugin | kinds | |", "|---|---|---|"]
    lines += [f"| [`{p.name}`](#{p.name}) | {p.kinds} | {_cell(_first_sentence(p.summary))} |" for p in ordered]
    for group in groups:
        if any(page.group == group for page in found):
            lines += ["", f"# {GROUPS.get(group, group.title())}"]
            lines += [line for page in found if page.group == group for line in _section(page)]
    return "\n".join(lines) + "\n"


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.])\s", text, maxsplit=1)[0].rstrip(".")


def _section(page: Page) -> Iterator[str]:
    yield from ("", f"## {page.name}", "", page.summary, "")
    yield f"*{page.kinds}*" + (f" · `{install_command(page.extra)}`" if page.extra else "")
    if page.text:
        yield from ("", page.text)
    for what, options in page.options.items():
        yield from ("", f"| {what} | type | default | |", "|---|---|---|---|")
        yield from _rows(options)


def _rows(options: list[Option], within: str = "") -> Iterator[str]:
    for option in options:
        default = "required" if option.required else "" if option.default is None else f"`{_written(option.default)}`"
        yield f"| `{within}{option.name}` | {_cell(option.type)} | {_cell(default)} | {_cell(option.help)} |"
        yield from _rows(option.options, f"{within}{option.name}.")


def _written(default: Any) -> str:
    return json.dumps(default, ensure_ascii=False, default=str)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
