"""plugins/README.md says what is so: its snippets run, its tables are those of the code."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import inspect
import os
import re
import sqlite3
import subprocess
import sys
import threading
import tomllib
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from zpipe import DROP, Message, Throttled, plugin_loading
from zpipe.config import load
from zpipe.errors import DISTRIBUTION
from zpipe.hookspecs import Hooks
from zpipe.messages import BadRecord
from zpipe.testing import stage

README = (Path(__file__).parents[2] / "plugins" / "README.md").read_text(encoding="utf-8")
SNIPPETS: dict[str, str] = {
    name: body
    for _, name, body in re.findall(r"^```(python|toml|sh)\n# (\S+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
}
PYTHON = [name.removesuffix(".py") for name in SNIPPETS if name.endswith(".py")]


@pytest.fixture
def snippets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, body in SNIPPETS.items():
        (tmp_path / name).write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    for name in PYTHON:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in PYTHON:
        sys.modules.pop(name, None)


def test_every_snippet_has_a_name() -> None:
    assert len(re.findall(r"^```\w", README, re.MULTILINE)) == len(SNIPPETS)


@pytest.mark.parametrize("name", [name for name in PYTHON if not name.startswith(("test_", "lines"))])
def test_plugin_snippets_are_plugins(snippets: Any, name: str, tmp_path: Path) -> None:
    assert plugin_loading.load(f"./{name}.py", tmp_path).hooks


def follow(script: str, folder: Path, **env: str) -> str:
    """Runs it word for word, in an empty folder. What it printed."""
    folder.mkdir()
    given = {
        "cwd": folder,
        "env": os.environ | env,
        "capture_output": True,
        "text": True,
        "check": False,
        "timeout": 110,
    }
    done = subprocess.run(["sh", "-e", "-c", script], **given)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def test_the_tutorial_after_its_installation(home: Path) -> None:
    install, new, rest = SNIPPETS["tutorial.sh"].partition("zpipe new")
    assert install.splitlines() == [
        "python -m venv .venv",
        ". .venv/bin/activate",
        f"pip install {DISTRIBUTION} pytest",
    ]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    printed = follow(new + rest, home / "t", PATH=path)
    assert "2 passed" in printed and printed.count('"text":"HELLO"}') == 5


@pytest.mark.stress
def test_the_tutorial_from_an_empty_folder_takes_less_than_a_minute_of_processor_time(home: Path) -> None:
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", home / "w", Path(__file__).parents[2]]
    subprocess.run(wheel, check=True, timeout=120)
    [built] = (home / "w").glob("*.whl")
    (home / "constraint").write_text(f"{DISTRIBUTION} @ {built.as_uri()}\n")
    before = os.times()
    printed = follow(SNIPPETS["tutorial.sh"], home / "t", PIP_CONSTRAINT=str(home / "constraint"))
    assert "2 passed" in printed and printed.count('"text":"HELLO"}') == 5
    after = os.times()
    used_s = after.children_user + after.children_system - before.children_user - before.children_system
    assert used_s < 60, "what it takes on a machine that does nothing else"


def test_the_readmes_own_tests_pass(snippets: Any) -> None:
    tests = [test for name, test in vars(snippets("test_plugins")).items() if name.startswith("test_")]
    assert len(tests) == 4
    for test in tests:
        test()


def test_a_fixture_is_replayed(snippets: Any, tmp_path: Path) -> None:
    [line] = re.findall(r"by hand: `(\{.*?\})`", README)
    (tmp_path / "shout.ndjson").write_text(f"{line}\n")
    snippets("test_replay").test_replay(tmp_path / "shout.ndjson")


def test_lines_and_outlets(snippets: Any) -> None:
    assert snippets("lines").text({"text": "x"}) == "x"
    assert snippets("words").zpipe_outlets() == ("numbers",)


def test_limits(snippets: Any, make_context: Any) -> None:
    limits = snippets("limits")
    with pytest.raises(ValueError, match="allowed is any number above 0"):
        limits.Options("n", at_most=0)
    context = make_context(limits.Options("n"))
    assert limits.zpipe_process(Message({"n": 100.5}), context) is DROP
    assert limits.zpipe_process(Message({"n": 1}), context) == {"n": 1}
    assert limits.zpipe_options() is limits.Options


def test_account(snippets: Any, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text("hunter2\n")
    options = load(tmp_path / "account.toml").stages["ask"].options
    assert (options.token.reveal(), options.servers[1].timeout, options.most) == ("hunter2", 5.0, 65536)
    with stage("./account.py", options, folder=tmp_path) as run:
        run.send_many([{"text": "hello"}, {"text": "x" * 65537}])
        assert run.out == [{"text": "hello", "asked": ["a.example", "b.example"], "with": 1}]


def test_squares(snippets: Any, make_context: Any) -> None:
    squares = snippets("squares")
    context = make_context(squares.Options(15), position=11)
    assert squares.zpipe_total(context) == 3
    found = list(squares.zpipe_source(context))
    assert found[0] == (12, {"n": 12, "square": 144})
    assert isinstance(found[1][1], BadRecord)
    context.stopping.set()
    assert list(squares.zpipe_source(context)) == []


def test_counted_stores_each_once(snippets: Any, make_context: Any, tmp_path: Path) -> None:
    counted = snippets("counted")
    context = make_context(counted.Options("c.db"))
    counted.zpipe_open(context)
    for _ in range(2):
        counted.zpipe_process_batch([Message(1, id="a"), Message(2, id="b")], context)
    counted.zpipe_close(context)
    with closing(sqlite3.connect(tmp_path / "c.db")) as connection:
        assert connection.execute("SELECT * FROM seen").fetchall() == [("a", "1"), ("b", "2")]


def test_patient(snippets: Any) -> None:
    assert asyncio.run(snippets("patient").zpipe_process(Message({"a": 1}))) == {"a": 1}


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(b"body")

    def log_message(self, *_: Any) -> None:
        pass


def test_lookup(snippets: Any) -> None:
    lookup = snippets("lookup")
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            assert lookup.zpipe_process(Message({"url": f"{url}/200"}))["body"] == b"body"
            assert lookup.zpipe_process(Message({"url": f"{url}/404"})) is DROP
            with pytest.raises(Throttled) as caught:
                lookup.zpipe_process(Message({"url": f"{url}/429"}))
            assert caught.value.retry_after == 7
            with pytest.raises(Exception, match="500"):
                lookup.zpipe_process(Message({"url": f"{url}/500"}))
        finally:
            server.shutdown()
            thread.join()


def test_configs_name_what_is_there() -> None:
    configs = [tomllib.loads(body) for name, body in SNIPPETS.items() if name in ("shout.toml", "words.toml")]
    assert len(configs) == 2
    for config in configs:
        for keys in config["stages"].values():
            assert keys["plugin"] in first_party() or keys["plugin"].removeprefix("./") in SNIPPETS
            assert keys.get("input", "read").partition(".")[0] in config["stages"]
    assert tomllib.loads(SNIPPETS["pyproject.toml"])["project"]["entry-points"]["zpipe.plugins"]


# Tables


def rows(title: str) -> list[list[str]]:
    """The cells of the first table under a heading, without their backquotes."""
    section = README.split(f"\n## {title}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None
    lines = table[0].splitlines()[2:]
    return [
        [cell.strip().strip("`").replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
    ]


def first_party() -> set[str]:
    points = importlib.metadata.entry_points(group="zpipe.plugins")
    folder = Path(__file__).parents[2] / "plugins" / "zpipe_plugins"
    found = {point.name for point in points if point.module.startswith("zpipe_plugins.")}
    return found or {path.stem for path in folder.glob("*.py") if "@hookimpl" in path.read_text(encoding="utf-8")}


def test_table_of_hooks() -> None:
    specs = {name: spec for name, spec in vars(Hooks).items() if hasattr(spec, "zpipe_spec")}
    expected = [
        f"{name}({', '.join(p for p in inspect.signature(spec).parameters if p != 'self')})"
        for name, spec in specs.items()
    ]
    assert sorted(row[0] for row in rows("All hooks")) == sorted(expected)


@pytest.mark.parametrize("name", Message.__slots__)
def test_every_field_of_a_message_is_named(name: str) -> None:
    assert re.search(rf"`(message\.)?{name}\b", README)
