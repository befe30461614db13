"""Which files a new plugin of a kind has, and writing them. Does not belong here: what is in them."""

from __future__ import annotations

import keyword
import re
import site
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from zpipe.errors import DISTRIBUTION, OperatorError, TargetError
from zpipe.plugin_loading import provided
from zpipe.scaffold import templates

PLUGINS = {
    "source": templates.SOURCE,
    "map": templates.MAP,
    "batch": templates.BATCH,
    "sink": templates.SINK,
    "async": templates.ASYNC,
    "exec": templates.EXEC,
}
"""The plugin itself, by kind."""
_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")


def files_of(name: str, kind: str, single_file: bool) -> dict[str, str]:
    """Text by path: those of a package in a folder `name`, or a single module with its test and config. Raises TargetError if
    the name will not do."""
    module = name.replace("-", "_")
    if not _NAME.fullmatch(name) or len(name) > 40:
        raise TargetError(f"a name is small letters and digits, with single '-' or '_' between them, not {name!r}")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names:
        raise TargetError(f"{name!r} is the name of something of Python's own: take another")
    if _is_installed(module):  # it, or this, could not be imported any more
        raise TargetError(f"{name!r} is the name of a module that is installed: take another")
    if not single_file and provided(name):
        raise TargetError(f"there is a plugin {name!r} already: take another name")
    if single_file:
        in_place = templates.IN_PLACE + templates.TESTS[kind] if kind == "exec" else _test(templates.BY_PATH, kind)
        files = {
            f"{module}.py": PLUGINS[kind],
            f"test_{module}.py": in_place,
            f"{module}.toml": templates.CONFIG_HEAD + templates.CONFIGS[kind],
        }
    else:
        program = {f"{module}/program.py": templates.EXEC} if kind == "exec" else {}
        kind = "exec package" if program else kind
        files = {
            "pyproject.toml": templates.PYPROJECT,
            "README.md": templates.README,
            f"{module}/__init__.py": templates.EXEC_PLUGIN if program else PLUGINS[kind],
            **program,
            f"{module}/py.typed": "",
            f"tests/test_{module}.py": _test(templates.IMPORTED, kind),
            f"{module}.toml": templates.CONFIG_HEAD + templates.CONFIGS[kind],
        }
    plugin = f"./{module}.py" if single_file else name
    folder = "" if single_file else f"{name}/"
    row = templates.PROGRAM_ROW if kind == "exec package" else ""
    said = {"@PROGRAM@": row, "@NAME@": name, "@MODULE@": module, "@PLUGIN@": plugin, "@ZPIPE@": DISTRIBUTION}
    return {folder + path: _filled(text, said) for path, text in files.items()}


def _is_installed(module: str) -> bool:
    """Not what happens to be in the current folder: a file that is there is not overwritten anyway."""
    places = [*site.getsitepackages(), site.getusersitepackages()]
    return module in ("zpipe", "zpipe_plugins") or PathFinder.find_spec(module, places) is not None


def _test(head: str, kind: str) -> str:
    """The imports of a test come in the order that linters want: those of Python, of zpipe, then of the plugin."""
    body = templates.TESTS[kind]
    if head is not templates.IMPORTED:
        first, _, rest = head.partition("\n\nPLUGIN")
        imports, _, tests = body.partition("\n\n\n")
        return f"{first}\n{imports}\n\nPLUGIN{rest}\n\n{tests}"
    first, _, own = head.partition("\n\n")
    imports, _, tests = body.strip("\n").partition("\n\n\n")
    standard, zpipe = imports.split("\n\n") if "\n\n" in imports else ("", imports)
    parts = [first, standard, f"{own.strip()}\n{zpipe}"]
    return "\n\n".join(part for part in parts if part) + f"\n\n\n{tests}\n"


def _filled(text: str, said: dict[str, str]) -> str:
    for place, value in said.items():
        text = text.replace(place, value)
    return text


def write(files: dict[str, str], folder: Path) -> None:
    """Writes them, or none of them. Raises OperatorError where there is one already, or it cannot be written."""
    there = [path for path in files if (folder / path).exists()]
    if there:
        raise OperatorError(f"there is a file {folder / there[0]} already: nothing was written")
    for path, text in files.items():
        file = folder / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        except OSError as error:
            raise OperatorError(f"cannot write {file}: {error.strerror}") from None
