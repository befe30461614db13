"""The names in the pages on the code are those of the code, and their links lead somewhere; and objects are joined by their
constructors."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("docs/architecture.md", "docs/where-is.md", "docs/decisions.md", "CONTRIBUTING.md")
MOST_LINES = 120
"""Of docs/architecture.md: a new reader reads it at one sitting. What goes on from there has pages of its own."""
NAMED = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.py)(?::([A-Za-z_.]+))?`")


def named() -> list[tuple[str, str, str]]:
    """(page, path of a module below zpipe/, name in it) of everything that the pages name."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        found += [(page, path, name) for path, name in dict.fromkeys(NAMED.findall(text))]
    return found


def names_of(module: Path) -> set[str]:
    names: set[str] = set()

    def add(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    add(node.body, f"{node.name}.")
            elif isinstance(node, ast.Assign):
                names.update(prefix + target.id for target in node.targets if isinstance(target, ast.Name))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(prefix + node.target.id)

    add(ast.parse(module.read_text(encoding="utf-8")).body, "")
    return names


def test_the_tables_are_there() -> None:
    assert len(named()) > 60


@pytest.mark.parametrize(("page", "path", "name"), named())
def test_what_a_page_names_is_there(page: str, path: str, name: str) -> None:
    places = [ROOT / "zpipe" / path, ROOT / path, ROOT / "plugins" / "zpipe_plugins" / path]
    module = next((place for place in places if place.is_file()), None)
    assert module is not None, f"{page} names {path}, which is not there"
    assert not name or name in names_of(module), f"{page} names {name}, which {path} does not have"


def test_the_architecture_is_one_page() -> None:
    assert len((ROOT / PAGES[0]).read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def anchors_of(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if "://" not in link:
            file, _, anchor = link.partition("#")
            to = (ROOT / page).parent / file if file else ROOT / page
            assert to.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors_of(to), f"{page}: {link}"


# ---- nobody writes into another object

RECORDS = {
    "habits": "what a scripted neighbour does by itself, which a case of the conformance kit changes as it goes",
    "session": "what an end of a link knows of a session; its owner alone has it",
    "upstream": "what a stage knows of an upstream instance",
    "grant": "what was granted to one session",
    "messages": "the grant of a session, in messages",
    "bytes": "the grant of a session, in bytes",
    "flight": "a parcel that was sent",
    "section": "messages that travel together",
    "part": "a section that is being cut from another",
    "one": "a section, among others",
    "counts": "the counts of a stage, which each part of it counts up",
    "task": "work that passes from one part to the next",
    "letter": "a message that passes to the store",
    "replay": "a letter that is replayed",
    "passage": "what a tap has counted on one link",
    "error": "what is known of an error is added where it passes",
    "result": "what comes of a task",
    "context": "the public record of where a plugin runs",
    "marked": "a copy of a message, being made",
    "folded": "letters that are equal, and how many",
    "choice": "the screen as its user has set it",
    "pane": "lines that are being put together",
    "bus": "links that share a track, while it is found",
    "field": "an input of Textual's, which is set by its attributes",
    "widget": "a widget of Textual's, likewise",
    "connection": "what a simulated network knows of a connection",
    "log": "a logger, which has no other way",
    "library": "a logger of a library",
    "server": "of prometheus_client, which makes it and takes nothing",
    "before_fork": "what a thread keeps for itself (threading.local)",
}
"""Plain records, by the name that the code has for one, with what it is. They have no behaviour that a value could upset."""

TO_BE_MENDED = {
    "self._inlet.rate",
    "self._inlet.window",
    "self._mailbox.asleep",
    "self._service_rate.workers",
}
"""These are no plain records: each of them should be told by a method. Nothing is to be added here."""


def written_from_outside(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Each attribute of another object than `self` that something is assigned to."""
    for node in ast.walk(tree):
        stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)
        if stored and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            yield node


def callbacks_from_outside(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Those to which a function is assigned: a lambda, a function of the module, or a method of the object that assigns it."""
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            value = node.value
            name = value.attr if isinstance(value, ast.Attribute) else value.id if isinstance(value, ast.Name) else ""
            if isinstance(value, ast.Lambda) or name in functions:
                yield from (one for target in node.targets for one in written_from_outside(target))


def record_of(attribute: ast.Attribute) -> str:
    """What the code calls the object that is written into: `counts` of `self._counts.retries`."""
    holder = attribute.value
    return (holder.attr if isinstance(holder, ast.Attribute) else ast.unparse(holder)).lstrip("_")


@pytest.mark.parametrize(
    "text", ["loop.on_stop = stop", "self.loop.run_id += 1", "self.parts[0].stop: int = 1", "del loop.x"]
)
def test_an_assignment_into_another_object_is_seen(text: str) -> None:
    assert [record_of(one) in RECORDS for one in written_from_outside(ast.parse(text))] == [False]


@pytest.mark.parametrize("value", ["lambda: None", "self.stop", "stop"])
def test_a_callback_in_a_record_is_seen(value: str) -> None:
    assert list(callbacks_from_outside(ast.parse(f"def stop(self): ...\n\nsession.on_stop = {value}")))


def test_parts_get_what_they_need_by_their_constructors() -> None:
    """A callback or a setting that is assigned from outside is seen neither by mypy nor by who reads the class."""
    found, used = [], set()
    for path in sorted((ROOT / "zpipe").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        callbacks = [one for one in callbacks_from_outside(tree) if record_of(one) != "server"]
        for one in written_from_outside(tree):
            target = ast.unparse(one)
            used |= {record_of(one), target}
            if one in callbacks or (record_of(one) not in RECORDS and target not in TO_BE_MENDED):
                found.append(f"{path.relative_to(ROOT)}:{one.lineno}: {target}")
    assert not found, "hand it to the constructor, or make it a method: " + ", ".join(found)
    unused = {*RECORDS, *TO_BE_MENDED} - used
    assert not unused, f"take what is not needed any more off the list: {', '.join(unused)}"


def test_all_of_zpipe_but_its_public_api_is_closed_to_plugins() -> None:
    """A new package or module is closed until somebody opens it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    [plugins] = [contract for contract in contracts if contract["name"].startswith("Plugins know the public API only")]
    inside = (ROOT / "zpipe").iterdir()
    parts = {path.stem for path in inside if path.suffix == ".py" or (path / "__init__.py").is_file()}
    public = {"__init__", "__main__", "errors", "messages"}
    assert set(plugins["forbidden_modules"]) == {f"zpipe.{part}" for part in parts - public}
