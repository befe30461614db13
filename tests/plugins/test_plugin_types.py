"""mypy --strict and pyright find what is wrong with a plugin's class, at its line, and nothing wrong with a right one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import needs
import pytest

from zpipe.scaffold import templates
from zpipe.scaffold.plugin_files import PLUGINS

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
RIGHT = """\
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from dataclasses import field as made_by
from typing import Annotated, Any

import zpipe


@dataclass
class Server:
    host: Annotated[str, "its name"]
    token: zpipe.Secret | None = None


@dataclass
class Options:
    field: str
    most: int = 3
    wait: Annotated[zpipe.Duration, "between two looks"] = 0.5
    size: zpipe.Size | None = None
    token: Annotated[zpipe.Secret, "of the account"] = zpipe.Secret("")
    servers: list[Server] = made_by(default_factory=list)


class Tail(zpipe.Source[Options, int]):
    @zpipe.override
    def open(self, context: zpipe.Context[Options]) -> None:
        self.path = context.options.field
        self.wait: float = context.options.wait
        self.size: int = context.options.size or 1
        self.tokens: list[str] = [context.options.token.reveal(), *(server.host for server in context.options.servers)]

    @zpipe.override
    def source(self, context: zpipe.Context[Options, int]) -> Iterator[tuple[int, str]]:
        first = 0 if context.position is None else context.position + 1
        yield first, self.path

    @zpipe.override
    def commit(self, position: int, context: zpipe.Context[Options, int]) -> None:
        context.log.info("%d", position + 1)


class Ask(zpipe.Map[Options]):
    @zpipe.override
    async def process(self, message: zpipe.Message, context: zpipe.Context[Options]) -> Any:
        return message.payload[context.options.field]


class Loose(zpipe.Map):
    def process(self, message: zpipe.Message, context: zpipe.Context) -> Any:
        yield message.payload[context.options.field]


class Batch(zpipe.BatchMap[Options]):
    def process_batch(self, messages: list[zpipe.Message], context: zpipe.Context[Options]) -> list[Any]:
        return [message.payload for message in messages[: context.options.most]]


class Store(zpipe.Sink[None]):
    def process(self, message: zpipe.Message, context: zpipe.Context[None]) -> None:
        context.log.info("%s", message.id)


class Both(Tail, zpipe.BatchMap[Options]):
    @zpipe.override
    def process_each(self, messages: list[zpipe.Message], context: zpipe.Context[Options]) -> list[Any]:
        return [message.payload for message in messages]

    @zpipe.override
    def process_batch(self, messages: list[zpipe.Message], context: zpipe.Context[Options]) -> list[Any]:
        return self.process_each(messages, context)
"""

WRONG = {
    "a misspelt hook": """
class Wrong(zpipe.Map[Options]):
    @zpipe.override
    def proces(self, message: zpipe.Message, context: zpipe.Context[Options]) -> Any:  # wrong
        return message
""",
    "a misspelt hook that is optional": """
class Wrong(Tail):
    @zpipe.override
    def comit(self, position: int, context: zpipe.Context[Options, int]) -> None: ...  # wrong
""",
    "a hook of another kind": """
class Wrong(Ask):
    @zpipe.override
    def commit(self, position: int, context: zpipe.Context[Options, int]) -> None: ...  # wrong
""",
    "an argument too few": """
class Wrong(zpipe.Map[Options]):
    def process(self, message: zpipe.Message) -> Any:  # wrong
        return message
""",
    "an argument of the wrong type": """
class Wrong(zpipe.BatchMap[Options]):
    def process_batch(self, messages: zpipe.Message, context: zpipe.Context[Options]) -> Any:  # wrong
        return messages
""",
    "an argument too many": """
class Wrong(Both):
    def process_each(self, messages: list[zpipe.Message], context: zpipe.Context[Options], n: int) -> Any:  # wrong
        return messages
""",
    "an option that is not there": """
class Wrong(zpipe.Map[Options]):
    def process(self, message: zpipe.Message, context: zpipe.Context[Options]) -> Any:
        return context.options.fild  # wrong
""",
    "an option of another type": """
class Wrong(zpipe.Map[Options]):
    def process(self, message: zpipe.Message, context: zpipe.Context[Options]) -> Any:
        return context.options.most.upper()  # wrong
""",
    "a secret for a text": """
class Wrong(zpipe.Map[Options]):
    def process(self, message: zpipe.Message, context: zpipe.Context[Options]) -> Any:
        return "Bearer " + context.options.token  # wrong
""",
    "a duration that is a text": """
Options("a", wait="500ms")  # wrong
""",
    "an option of a table in a table": """
class Wrong(zpipe.Map[Options]):
    def process(self, message: zpipe.Message, context: zpipe.Context[Options]) -> Any:
        return context.options.servers[0].hots  # wrong
""",
    "a position that is yielded": """
class Wrong(zpipe.Source[Options, int]):
    def source(self, context: zpipe.Context[Options, int]) -> Iterator[tuple[str, Any]]:  # wrong
        yield "a", 1
""",
    "a position that is committed": """
class Wrong(Tail):
    def commit(self, position: str, context: zpipe.Context[Options, int]) -> None: ...  # wrong
""",
    "what a sink returns": """
class Wrong(zpipe.Sink[Options]):
    def process(self, message: zpipe.Message, context: zpipe.Context[Options]) -> dict[str, Any]:  # wrong
        return {}
""",
    "a source that is a list of payloads": """
class Wrong(zpipe.Source[Options, int]):
    def source(self, context: zpipe.Context[Options, int]) -> list[str]:  # wrong
        return []
""",
    "a plugin without its hook": """
class Wrong(zpipe.Map[Options]): ...


plugin = Wrong()  # wrong
""",
}


def files(folder: Path) -> list[Path]:
    """The examples, what `zpipe new` writes, a right plugin, and each wrong one after a copy of it, so that nothing else can
    be wrong."""
    for kind, text in {**PLUGINS, "exec": templates.EXEC_PLUGIN}.items():
        (folder / f"new_{kind}.py").write_text(text)
    texts = [RIGHT, *(RIGHT + "\n" + wrong for wrong in WRONG.values())]
    for number, text in enumerate(texts):
        (folder / f"p{number}.py").write_text(text)
    return [*(folder / f"p{number}.py" for number in range(len(texts))), *sorted(folder.glob("new_*.py")), *EXAMPLES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("types")


def found_by_mypy(folder: Path) -> set[tuple[str, int]]:
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), *map(str, files(folder))]
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert not output.stderr
    return {(name, int(line)) for name, line in re.findall(r"(\w+)\.py:(\d+): error", output.stdout, re.MULTILINE)}


def found_by_pyright(folder: Path) -> set[tuple[str, int]]:
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--pythonpath",
        sys.executable,
        "--outputjson",
        *map(str, files(folder)),
    ]
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    if "generalDiagnostics" not in output.stdout:
        needs.skip_for("package index", detail=f"pyright cannot be set up: {output.stderr.strip()[-200:]}")
    found = json.loads(output.stdout)["generalDiagnostics"]
    return {(Path(d["file"]).stem, d["range"]["start"]["line"] + 1) for d in found if d["severity"] == "error"}


def expected() -> set[tuple[str, int]]:
    lines = {}
    for number, wrong in enumerate(WRONG.values(), 1):
        text = f"{RIGHT}\n{wrong}".splitlines()
        [lines[f"p{number}"]] = [n for n, line in enumerate(text, 1) if line.endswith("# wrong")]
    return set(lines.items())


def test_mypy_finds_each_at_its_line(folder: Path) -> None:
    assert found_by_mypy(folder) == expected()


@pytest.mark.needs("node")
def test_pyright_finds_each_at_its_line(folder: Path) -> None:
    assert found_by_pyright(folder) == expected()
