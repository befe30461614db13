"""The stages of examples/c: they build without a warning, keep the protocol under the sanitizers, and `zpipe run` starts them.

Every case of their level, and a pipeline of Python, Node and C, are in tests/services.
"""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2e_types import MakePipeline

from zpipe.conform import report
from zpipe.conform.verdicts import Kind

EXAMPLES = Path(__file__).parents[2] / "examples" / "c"
SANITIZED = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover"
QUICK: dict[Kind, list[int]] = {"map": [8, 10, 12, 13, 20, 21, 23, 27, 32], "sink": [8, 10, 11, 12, 19]}
"""Without those that wait for a timeout."""

CONFIG = """
[pipeline]
name = "c"

[stages.read]
plugin = "generate"
options = {{ count = 2000 }}

[stages.pass]
input = "read"
command = ["{folder}/map"]

[stages.store]
input = "pass"
command = ["{folder}/sink"]
options = {{ path = "out.txt" }}
"""

pytestmark = pytest.mark.needs("make", "gcc", "zmq.h", "cbor.h")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("c")
    command = ["make", "-j2", "-C", str(EXAMPLES), f"OUT={folder}", f"CFLAGS={SANITIZED}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_they_keep_the_quick_cases_of_level_1(built: Path) -> None:
    def kept(kind: Kind) -> list[report.Result]:
        return report.run([str(built / kind)], kind, report.chosen(kind, 1, QUICK[kind]), jobs=len(QUICK[kind]))

    with ThreadPoolExecutor() as pool:
        results = [one for found in pool.map(kept, QUICK) for one in found]
    assert [one for one in results if one.outcome != "kept"] == []


def test_a_run_starts_them(make: MakePipeline, built: Path) -> None:
    pipeline = make(CONFIG.format(folder=built))
    ledger = pipeline.run().ledger()
    assert [ledger["stages"][name]["received"] for name in ("pass", "store")] == [2000, 2000]
    stored = (pipeline.folder / "out.txt").read_text().split()
    assert stored == [f"read:{n}" for n in range(2000)]
