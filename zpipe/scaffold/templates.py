"""The texts of the files of a new plugin. `@NAME@` stands for its name, `@MODULE@` for its module, `@PLUGIN@` for what a config
calls it. Does not belong here: which of them a kind of plugin gets.
"""

from __future__ import annotations

SOURCE = '''"""@NAME@: a source for zpipe that gives the lines of a file."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zpipe import Context, Source, override
from zpipe.errors import OperatorError


@dataclass
class Options:
    """path: the file, relative to the config."""

    path: str


class Plugin(Source[Options, int]):
    """A position is the number of a line, so that a start after a crash goes on with the next one."""

    @override
    def source(self, context: Context[Options, int]) -> Iterator[tuple[int, Any]]:
        done = -1 if context.position is None else context.position
        try:
            with (context.config_dir / context.options.path).open() as file:
                for number, line in enumerate(file):
                    if context.stopping.is_set():
                        return
                    if number > done:
                        yield number, {"line": line.rstrip("\\n")}
        except OSError as error:
            raise OperatorError(f"cannot read {context.options.path}: {error.strerror}") from error
'''

MAP = '''"""@NAME@: a stage for zpipe that makes the text of a field upper case."""

from dataclasses import dataclass
from typing import Any

from zpipe import Context, Map, Message, Reject, override


@dataclass
class Options:
    """field: the one that has the text."""

    field: str = "text"


class Plugin(Map[Options]):
    @override
    def process(self, message: Message, context: Context[Options]) -> Any:
        field = context.options.field
        if not isinstance(message.payload.get(field), str):
            raise Reject(f"it has no text in {field!r}")
        return {**message.payload, field: message.payload[field].upper()}
'''

BATCH = '''"""@NAME@: a stage for zpipe that says of each number how it compares with the largest of its batch."""

from dataclasses import dataclass
from typing import Any

from zpipe import BatchMap, Context, Message, Reject, override


@dataclass
class Options:
    """field: the one that has the number."""

    field: str = "n"


class Plugin(BatchMap[Options]):
    """An entry for each message. One that cannot be worked on is a Reject in its place, and holds up no other."""

    @override
    def process_batch(self, messages: list[Message], context: Context[Options]) -> list[Any]:
        numbers = [message.payload.get(context.options.field) for message in messages]
        largest = max((n for n in numbers if isinstance(n, int)), default=0)
        return [
            {"n": n, "of": largest} if isinstance(n, int) else Reject(f"it has no number in {context.options.field!r}")
            for n in numbers
        ]
'''

SINK = '''"""@NAME@: a sink for zpipe that stores each message once, in a table of SQLite."""

import json
import sqlite3
from dataclasses import dataclass
from threading import Lock

from zpipe import Context, Message, Sink, override


@dataclass
class Options:
    """path: the database, relative to the config."""

    path: str


class Plugin(Sink[Options]):
    """A message may come twice, after a crash for example, with the same id: so the id is the key."""

    @override
    def open(self, context: Context[Options]) -> None:
        self._lock = Lock()
        self._database = sqlite3.connect(context.config_dir / context.options.path, check_same_thread=False)
        self._database.execute("CREATE TABLE IF NOT EXISTS messages (id TEXT PRIMARY KEY, payload TEXT)")

    @override
    def close(self, context: Context[Options]) -> None:
        self._database.close()

    @override
    def process_batch(self, messages: list[Message], context: Context[Options]) -> None:
        rows = [(message.id, json.dumps(message.payload)) for message in messages]
        with self._lock, self._database:
            self._database.executemany("INSERT OR REPLACE INTO messages VALUES (?, ?)", rows)
'''

ASYNC = '''"""@NAME@: a stage for zpipe that waits for a slow service, for many messages at once."""

import asyncio
from dataclasses import dataclass
from typing import Any

from zpipe import Context, Map, Message, Retry, override


@dataclass
class Options:
    """wait: seconds that the service takes."""

    wait: float = 0.1


class Plugin(Map[Options]):
    """`workers.count` in the config is how many calls are under way at once."""

    @override
    async def process(self, message: Message, context: Context[Options]) -> Any:
        await asyncio.sleep(context.options.wait)  # in the place of an async client
        if message.payload.get("busy") and message.attempt == 1:
            raise Retry(5.0, "the service is busy")
        return {**message.payload, "answer": 42}
'''

EXEC = '''"""@NAME@: a program that zpipe runs as a stage. It knows nothing of zpipe, and could be written in any language.

It is given the name of a field, reads a line of JSON for each message, {"id", "payload"}, and writes one with the same id. What
else it may answer is in docs/exec.md of zpipe.
"""

import json
import sys

FIELD = sys.argv[1]


def answer(message):
    text = message["payload"].get(FIELD)
    if not isinstance(text, str):
        return {"id": message["id"], "reject": f"it has no text in {FIELD!r}"}
    return {"id": message["id"], "payload": {FIELD: text[::-1]}}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
'''

EXEC_PLUGIN = '''"""@NAME@: a stage for zpipe that is a program, which comes with this package. Its hooks are those of `exec`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from zpipe_plugins.exec import plugin as exec_plugin

PROGRAM = Path(__file__).with_name("program.py")


@dataclass
class Options(exec_plugin.Options):
    """Those of `exec`, such as `timeout`, and the program's own, which it is given as arguments."""

    command: Annotated[list[str], "what is run; left out: the program of this package"] = field(
        default_factory=lambda: [sys.executable, str(PROGRAM)]
    )
    text: Annotated[str, "the field that has the text"] = "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.command = [*self.command, self.text]


class Plugin(exec_plugin.Exec[Options]):
    pass
'''

TESTS = {
    "source": """
from zpipe.testing import check_plugin, read


def test_it_goes_on_after_its_position(tmp_path):
    (tmp_path / "in.txt").write_text("a\\nb\\nc\\n")
    found = read(PLUGIN, {"path": "in.txt"}, folder=tmp_path)
    assert [message.payload["line"] for message in found] == ["a", "b", "c"]
    assert read(PLUGIN, {"path": "in.txt"}, position=1, folder=tmp_path)[0].payload == {"line": "c"}


def test_the_rules_of_zpipe(tmp_path):
    (tmp_path / "in.txt").write_text("a\\nb\\nc\\n")
    check_plugin(PLUGIN, {"path": "in.txt"}, folder=tmp_path)
""",
    "map": """
from zpipe.testing import check_plugin, stage


def test_text_is_made_upper_case():
    with stage(PLUGIN) as s:
        s.send_many([{"text": "hello"}, {"text": 5}])
        assert s.out == [{"text": "HELLO"}]
        assert s.dead[0].reason == "it has no text in 'text'"


def test_the_rules_of_zpipe():
    check_plugin(PLUGIN, payloads=[{"text": "a"}, {"text": "b"}])
""",
    "batch": """
from zpipe.testing import check_plugin, stage


def test_numbers_are_compared_with_the_largest_of_their_batch():
    with stage(PLUGIN, batch=3) as s:
        s.send_many([{"n": 1}, {"n": 5}, {}, {"n": 2}])
        assert s.out == [{"n": 1, "of": 5}, {"n": 5, "of": 5}]
        assert s.dead[0].reason == "it has no number in 'n'"
        s.advance("1s")
        assert s.out[2] == {"n": 2, "of": 2}


def test_the_rules_of_zpipe():
    check_plugin(PLUGIN, payloads=[{"n": 1}, {"n": 2}])
""",
    "sink": """
import sqlite3

from zpipe.testing import check_plugin, stage


def test_each_message_is_stored_once(tmp_path):
    with stage(PLUGIN, {"path": "out.db"}, batch=2, last=True, folder=tmp_path) as s:
        s.send_many([{"n": 1}, {"n": 2}])
        s.kill()
        s.send_many([{"n": 3}, {"n": 4}])
    database = sqlite3.connect(tmp_path / "out.db")
    assert database.execute("SELECT count(*) FROM messages").fetchone() == (4,)
    database.close()


def test_the_rules_of_zpipe(tmp_path):
    check_plugin(PLUGIN, {"path": "out.db"}, [{"n": 1}], last=True, folder=tmp_path)
""",
    "async": """
from zpipe.testing import check_plugin, stage


def test_a_busy_service_is_asked_again():
    with stage(PLUGIN, {"wait": 3600}, workers=10) as s:
        s.send({"n": 1})
        busy = s.send({"n": 2, "busy": True})
        assert s.out == [{"n": 1, "answer": 42}]
        s.advance("10s")
        assert s.out[1]["n"] == 2 and s.attempts[busy] == 2


def test_the_rules_of_zpipe():
    check_plugin(PLUGIN, payloads=[{"n": 1}, {"n": 2}])
""",
    "exec": """
from zpipe.testing import stage


def test_text_is_turned_round():
    with stage("exec", {"command": ["python3", "@MODULE@.py", "text"]}, folder=HERE) as s:
        s.send_many([{"text": "stressed"}, {"text": 5}])
        s.drain()
        assert s.out == [{"text": "desserts"}]
        assert s.dead[0].reason == "it has no text in 'text'"
""",
    "exec package": """
from zpipe.testing import check_plugin, stage


def test_text_is_turned_round():
    with stage(PLUGIN, {"text": "word"}) as s:
        s.send_many([{"word": "stressed"}, {"word": 5}])
        s.drain()
        assert s.out == [{"word": "desserts"}]
        assert s.dead[0].reason == "it has no text in 'word'"


def test_the_rules_of_zpipe():
    check_plugin(PLUGIN, payloads=[{"text": "a"}, {"text": "b"}])
""",
}

IMPORTED = '''"""Tests of @NAME@, in process and on a virtual clock: docs/testing.md of zpipe."""

from @MODULE@ import Plugin as PLUGIN
'''
BY_PATH = '''"""Tests of @NAME@, in process and on a virtual clock: docs/testing.md of zpipe."""

from pathlib import Path

PLUGIN = Path(__file__).with_name("@MODULE@.py")
'''
IN_PLACE = '''"""Tests of @NAME@, in process and on a virtual clock: docs/testing.md of zpipe."""

from pathlib import Path

HERE = Path(__file__).parent
'''

_READ = """
[stages.read]
plugin = "generate"
options = { count = 5 }

[stages.@MODULE@]
input = "read"
"""


def _read_text(text: str) -> str:
    """Messages that have a text."""
    return _READ.replace("count = 5", f'count = 5, fields = {{ text = "{text}" }}')


_OUT = """
[stages.out]
input = "@MODULE@"
plugin = "ndjson"
options = { path = "-" }
"""
CONFIGS = {
    "source": """
[stages.@MODULE@]
plugin = "@PLUGIN@"
options = { path = "@MODULE@.toml" }
"""
    + _OUT,
    "map": _read_text("hello")
    + """plugin = "@PLUGIN@"
options = { field = "text" }
"""
    + _OUT,
    "batch": _READ
    + """plugin = "@PLUGIN@"
batch = { messages = 5, timeout = "1s" }
options = { field = "id" }
"""
    + _OUT,
    "sink": _READ
    + """plugin = "@PLUGIN@"
batch = { messages = 100, timeout = "1s" }
options = { path = "out.db" }
""",
    "async": _READ
    + """plugin = "@PLUGIN@"
workers = { count = 100, timeout = "10s" }
options = { wait = 0.1 }
"""
    + _OUT,
    "exec": _read_text("stressed")
    + """plugin = "exec"
options = { command = ["python3", "@MODULE@.py", "text"] }
"""
    + _OUT,
    "exec package": _read_text("stressed")
    + """plugin = "@PLUGIN@"
options = { text = "text" }
"""
    + _OUT,
}
CONFIG_HEAD = """# zpipe run @MODULE@.toml
[pipeline]
name = "@NAME@"
"""

PYPROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "@NAME@"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["@ZPIPE@"]

[project.entry-points."zpipe.plugins"]
@NAME@ = "@MODULE@:Plugin"

[tool.hatch.build.targets.wheel]
packages = ["@MODULE@"]

[tool.pytest.ini_options]
pythonpath = ["."]
"""

README = """# @NAME@

A plugin for zpipe, which is installed as `@ZPIPE@`.

    pip install -e .            # configs can now say plugin = "@NAME@"
    python -m pytest            # its tests, on a virtual clock
    zpipe plugins               # lists it, with its options
    zpipe run @MODULE@.toml

| file | |
|---|---|
| `@MODULE@/__init__.py` | the plugin: its options, and its hooks |
@PROGRAM@| `tests/test_@MODULE@.py` | its tests |
| `@MODULE@.toml` | a pipeline that runs it |
"""

PROGRAM_ROW = "| `@MODULE@/program.py` | the program; any other that reads and writes lines would do |\n"
