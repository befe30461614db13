"""Commands of a user who may not look into a pipeline's folders: one line with the cure, exit code 1 (5: nothing runs)."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from e2e_types import MakePipeline
from pipeline import DEADLINE_S, Pipeline

NOBODY = 65534
POWERLESS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
"""Root without what lets it into everybody's folders: what any other user is, but one who may run this interpreter."""
CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = { count = 10 }

[stages.drop]
input = "read"
plugin = "discard"
"""

pytestmark = pytest.mark.needs("root", "setpriv")


@pytest.fixture
def pipeline(make: MakePipeline) -> Pipeline:
    """It has run, and its folders belong to somebody else."""
    pipeline = make(CONFIG)
    pipeline.run().ledger()
    for root in "rs":
        for path in (pipeline.home / root).rglob("*"):
            os.chown(path, NOBODY, NOBODY)
    return pipeline


COMMANDS = [
    ("dead", "list"),
    ("dead", "show", "drop.1/1"),
    ("dead", "drop", "--all", "--yes"),
    ("drain",),
    ("drain", "drop.1"),
    ("pause", "drop"),
    ("tap", "drop", "--timeout", "0.5"),
    ("monitor", "--once", "--timeout", "0.5"),
    ("monitor", "--check", "--timeout", "0.5"),
    ("run",),
    ("stage", "drop"),
]


@pytest.mark.parametrize("hidden", [False, True], ids=["instance", "root"])
def test_no_permission_is_one_line_with_the_cure(pipeline: Pipeline, hidden: bool) -> None:
    """Where an instance's folder cannot be looked into, and where the one of all instances cannot."""
    for root in "rs" * hidden:
        os.chown(pipeline.home / root, NOBODY, NOBODY)
    for command in COMMANDS:
        words = 2 if command[0] == "dead" else 1
        arguments = [*command[:words], str(pipeline.path), *command[words:]]
        done = subprocess.run(
            [*POWERLESS, sys.executable, "-m", "zpipe", *arguments],
            env=pipeline.env,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert (done.returncode, done.stdout) == (1, ""), (command, done.stderr)
        assert len(done.stderr.splitlines()) == 1, (command, done.stderr)
        assert "nobody" in done.stderr, (command, done.stderr)
        assert re.search(r"belongs to .*: run (this|it) as nobody", done.stderr), (command, done.stderr)
