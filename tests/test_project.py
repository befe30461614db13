"""The project's own rules, where no linter knows them."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import needs
import pytest

import zpipe
from zpipe.errors import DISTRIBUTION

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT / "zpipe", ROOT / "plugins" / "zpipe_plugins")
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
CORE = sorted((ROOT / "zpipe" / "core").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins" / "zpipe_plugins").rglob("*.py"))

# A smoke alarm, never a reason to cut one story in two.
MODULE_LINES = 600
FUNCTION_LINES = 80
# More in one folder, and its list of names no longer shows what it is about.
FOLDER_MODULES = 14
# What the core may import besides itself: nothing here reads a clock, a file, an environment or a socket.
CORE_MAY_IMPORT = {
    "__future__",
    "abc",
    "bisect",
    "cbor2",
    "collections",
    "contextlib",
    "copy",
    "dataclasses",
    "enum",
    "functools",
    "gc",  # get_referents and is_tracked alone: what a value holds
    "hashlib",
    "heapq",
    "ipaddress",
    "itertools",
    "json",  # the codec alone: no file of it
    "math",
    "operator",
    "ormsgpack",
    "re",
    "struct",
    "types",
    "typing",
    "zlib",  # checksums
    "zpipe.core",
    "zpipe.errors",
    "zpipe.messages",
}
PLUGINS_MAY_IMPORT_OF_ZPIPE = {"zpipe", "zpipe.errors", "zpipe.messages"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, at any depth; of `from a import b` both a.b (if it is one of ours) and else a."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                inner = ROOT / node.module.replace(".", "/") / alias.name
                ours = inner.is_dir() or inner.with_suffix(".py").is_file()
                yield node.lineno, f"{node.module}.{alias.name}" if ours else node.module


def within(module: str, allowed: set[str]) -> bool:
    return any(module == one or module.startswith(one + ".") for one in allowed)


def visible_files() -> list[Path]:
    """The files git tracks or would track."""
    needs.skip_without("git", "clone")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for path in (ROOT / one for one in listed.split("\0") if one) if path.is_file()]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_and_functions_stay_small(path: Path) -> None:
    too_long = []
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if lines > MODULE_LINES:
        too_long.append(f"{name(path)} has {lines} lines, at most {MODULE_LINES}")
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES:
                too_long.append(f"{name(path)}:{node.lineno} {node.name} has {lines} lines, at most {FUNCTION_LINES}")
    assert not too_long, "\n".join(too_long)


def test_no_folder_holds_more_modules_than_can_be_taken_in_at_a_glance() -> None:
    folders = Counter(name(path.parent) for path in MODULES if path.name != "__init__.py")
    assert folders["zpipe/core"], "no folder was counted"
    crowded = {folder: modules for folder, modules in folders.items() if modules > FOLDER_MODULES}
    assert not crowded, f"at most {FOLDER_MODULES} modules a folder"


@pytest.mark.parametrize("path", CORE, ids=name)
def test_core_modules_say_what_may_live_in_them(path: Path) -> None:
    body = path.read_text(encoding="utf-8").strip()
    assert not body or ast.get_docstring(tree(path)), f"{name(path)} does not open with a docstring"


@pytest.mark.parametrize("path", CORE, ids=name)
def test_core_is_pure(path: Path) -> None:
    impure = [f"{name(path)}:{line} imports {m}" for line, m in imports(path) if not within(m, CORE_MAY_IMPORT)]
    assert not impure, "\n".join(impure)


@pytest.mark.parametrize("path", PLUGINS, ids=name)
def test_plugins_use_the_public_api_only(path: Path) -> None:
    private = [
        f"{name(path)}:{line} imports {module}"
        for line, module in imports(path)
        if within(module, {"zpipe"}) and module not in PLUGINS_MAY_IMPORT_OF_ZPIPE
    ]
    assert not private, "\n".join(private)


def test_only_the_transport_imports_zmq() -> None:
    importers = {name(path) for path in MODULES for _, module in imports(path) if within(module, {"zmq"})}
    assert {path.rpartition("/")[0] for path in importers} == {"zpipe/transport"}


def test_the_command_line_is_light_to_import() -> None:
    """`zpipe --help` answers at once: it loads neither zmq nor what draws the monitor."""
    script = "import sys, zpipe.cli; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert not {"zmq", "rich", "sqlite3", "asyncio"} & set(loaded)


def test_changelog_has_a_section_for_this_version() -> None:
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert zpipe.__version__ in sections


def test_no_file_names_a_path_of_one_machine_or_beside_the_checkout() -> None:
    machine = re.compile(r"(?<![\w.])/(?:wo" r"rk|ro" r"ot|ho" r"me/\w+)/|\.\./sha" r"red")
    found = []
    for path in visible_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name(path)}:{n}: {line}" for n, line in enumerate(text.splitlines(), 1) if machine.search(line)]
    assert not found, "\n".join(found)


STRANGER = re.compile(
    r"""(?:\bpip[\d.x]*|\buvx?|\bpoetry|\bconda)\s(?!uninstall)[^\n`;&|]*  # a command that installs or runs it
        (?<![\w./-])zpipe(?![\w./-])
    | \bdependencies\s*=\s*\[[^]]*["']zpipe\s*["'\[<>=~!@;]  # in a pyproject.toml
    | ^zpipe\s*(?:\[|[<>=~!]=|@)  # in a list of requirements
    | (?<![\w./-])zpipe\[[a-z_,-]+\]
    | pypi\.org/\w+/zpipe\b(?!-)
    | \bmetadata\.\w+\(["']zpipe["']""",
    re.VERBOSE | re.MULTILINE,
)
"""What fetches the `zpipe` of the package index, which is somebody else's, or asks for it."""


@pytest.mark.parametrize(
    "text",
    [
        "pip install @ pytest",
        "see `python -m pip install --upgrade '@'`",
        "/opt/@/bin/pip install --quiet '@[prometheus]'",
        "uv tool install @==0.2",
        "uv run --with @ demo.py",
        "uvx @ demo",
        "pipx install @",
        'dependencies = [\n    "click",\n    "@>=0.1",\n]',
        "click\n@ @ file:///tmp/it.whl\n",
        "the extra `@[web]`",
        "https://pypi.org/project/@/",
        'metadata.version("@")',
    ],
)
def test_what_fetches_the_strangers_package_is_found(text: str) -> None:
    assert STRANGER.search(text.replace("@", "zpipe", 1)) or STRANGER.search(text.replace("@", "zpipe"))
    assert not STRANGER.search(text.replace("@", "zpipe-stages"))
    assert not STRANGER.search(text.replace("@", "./zpipe_stages-0.2.0-py3-none-any.whl"))


def test_nothing_fetches_the_strangers_package() -> None:
    found = []
    for path in visible_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name(path)}:{text.count(chr(10), 0, m.start()) + 1}: {m[0]}" for m in STRANGER.finditer(text)]
    assert not found, "\n".join(found)


def test_the_name_of_the_distribution_is_that_of_the_code() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == DISTRIBUTION
    assert importlib.metadata.version(DISTRIBUTION) == zpipe.__version__


def test_entry_points_name_modules_that_are_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    plugins = ROOT / "plugins"
    modules = {".".join(path.relative_to(plugins).with_suffix("").parts) for path in PLUGINS}
    declared = project["entry-points"]["zpipe.plugins"]
    assert set(declared.values()) <= modules
    installed = {entry.name: entry.value for entry in importlib.metadata.entry_points(group="zpipe.plugins")}
    assert declared.items() <= installed.items()
