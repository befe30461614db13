"""What plugin authors are given: commits, where a message came from, a folder of their own, and words that people see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress

import pytest
from e2e_types import MakePipeline

HEAD = '[pipeline]\nname = "p"\n'
NDJSON = 'plugin = "ndjson"\noptions = {{ path = "{path}" }}\n'
COMMITS = """
from pathlib import Path

from zpipe import hookimpl


@hookimpl
def zpipe_open(context):
    context.scratch = open(context.config_dir / "committed", "w")


@hookimpl
def zpipe_source(context):
    yield from ((n, n) for n in range(1000))


@hookimpl
def zpipe_commit({arguments}):
    print({printed}, flush=True)
"""


@pytest.mark.parametrize(
    ("arguments", "printed", "last"),
    [
        ("position, context", "position, context.stage, file=context.scratch", "999 read"),
        ("position", 'position, file=open(Path(__file__).parent / "committed", "a")', "999"),
    ],
)
def test_a_commit_may_have_the_context(make: MakePipeline, arguments: str, printed: str, last: str) -> None:
    text = HEAD + '[stages.read]\nplugin = "./reads.py"\n[stages.out]\ninput = "read"\nplugin = "discard"\n'
    pipeline = make(text, reads=COMMITS.format(arguments=arguments, printed=printed))
    run = pipeline.run()
    assert run.ledger()["stages"]["read"]["completed"] == 1000
    assert "commit.failed" not in run.stderr
    assert (pipeline.folder / "committed").read_text().splitlines()[-1] == last


SORT = """
from zpipe import Message, hookimpl


@hookimpl
def zpipe_process(message):
    return Message({**message.payload, "by": [message.source]}, outlet="odd" if message.payload["id"] % 2 else "")
"""
JOIN = """
from zpipe import hookimpl


@hookimpl
def zpipe_process(message):
    return {"id": message.payload["id"], "by": [*message.payload.get("by", ["read"]), message.source]}
"""


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_message_says_by_which_input_it_came(make: MakePipeline, kind: str) -> None:
    text = HEAD + '[stages.read]\nplugin = "generate"\noptions = { count = 100 }\n'
    text += f'[stages.sort]\ninput = "read"\nplugin = "./sort.py"\nworkers = {{ kind = "{kind}" }}\n'
    text += '[stages.join]\ninput = ["sort", "sort.odd", "read"]\nplugin = "./join.py"\n'
    text += f'workers = {{ kind = "{kind}", count = 2 }}\n[stages.out]\ninput = "join"\n' + NDJSON.format(path="out")
    pipeline = make(text, sort=SORT, join=JOIN)
    pipeline.run().ledger()
    lines = pipeline.lines("out")
    assert len(lines) == 200
    for line in lines:
        assert line["by"] in (["read", "sort.odd" if line["id"] % 2 else "sort"], ["read", "read"])
    assert sum(line["by"] == ["read", "read"] for line in lines) == 100


COUNTS = """
from zpipe import hookimpl


@hookimpl
def zpipe_process(message, context):
    context.log.info("handling %s", message.payload["id"])
    with open(context.state_dir / "seen", "a") as seen:
        seen.write("x")
    return {"seen": (context.state_dir / "seen").stat().st_size}
"""


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_fresh_start_empties_the_plugins_folder(make: MakePipeline, kind: str) -> None:
    text = HEAD + '[stages.read]\nplugin = "generate"\noptions = { count = 10 }\n'
    text += f'[stages.count]\ninput = "read"\nplugin = "./counts.py"\nworkers = {{ kind = "{kind}" }}\n'
    text += '[stages.out]\ninput = "count"\n' + NDJSON.format(path="out")
    pipeline = make(text, counts=COUNTS)

    def most(*options: str) -> int:
        pipeline.run(*options).ledger()
        return int(pipeline.lines("out")[-1]["seen"])

    assert (most(), most()) == (10, 20), "what a plugin keeps outlives a run"
    assert most("--fresh") == 10


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_what_a_plugin_logs_is_shown_at_its_level(make: MakePipeline, kind: str) -> None:
    text = HEAD + '[stages.read]\nplugin = "generate"\noptions = { count = 3 }\n'
    text += f'[stages.count]\ninput = "read"\nplugin = "./counts.py"\nworkers = {{ kind = "{kind}" }}\n'
    text += '[stages.out]\ninput = "count"\nplugin = "discard"\n'
    pipeline = make(text, counts=COUNTS)
    run = pipeline.run("--log-level", "info")
    run.ledger()
    lines = [line for line in run.stderr.splitlines() if "handling" in line]
    assert [line.split(" ", 1)[1] for line in lines] == [f"info count.1 handling {n}" for n in range(3)], lines
    quiet = pipeline.run()
    quiet.ledger()
    assert "handling" not in quiet.stderr


FAILS = """
from zpipe import hookimpl


@hookimpl
def zpipe_process(message):
    return deeper(message.payload["id"])


def deeper(n):
    return {}[f"key {n}"]
"""


def test_in_a_terminal_an_exception_has_its_traceback_on_lines_of_its_own_once(make: MakePipeline) -> None:
    text = HEAD + '[stages.read]\nplugin = "generate"\noptions = { count = 50 }\n'
    text += '[stages.work]\ninput = "read"\nplugin = "./fails.py"\nretry = { attempts = 1 }\ndead = { storm = 1.0 }\n'
    text += '[stages.out]\ninput = "work"\nplugin = "discard"\n'
    pipeline = make(text, fails=FAILS)
    screen, terminal = os.openpty()
    command = [sys.executable, "-m", "zpipe", "run", str(pipeline.path), "--quiet", "--json"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=terminal, env=pipeline.env
    ) as run:
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # the other end is closed
            while part := os.read(screen, 65536):
                shown += part
        os.close(screen)
        out, _ = run.communicate(timeout=60)
    assert run.returncode == 0 and json.loads(out)["stages"]["work"]["dead"] == 50
    lines = shown.decode().splitlines()
    assert lines.count("    Traceback (most recent call last):") == 1, shown.decode()
    assert any(line.startswith("      File ") and "fails.py" in line and "in deeper" in line for line in lines)
    assert sum("event=message.dead " in line for line in lines) == 1
    folded = [line for line in lines if "event=message.dead_repeated" in line]
    assert sum(int(line.split("messages=×")[1].split()[0]) for line in folded) == 49
    assert all(" at=fails.py:11 " in line for line in folded)
    plain = pipeline.run("--fresh")
    plain.ledger()
    assert plain.stderr.count("event=message.dead ") == 50 and "Traceback" not in plain.stderr
