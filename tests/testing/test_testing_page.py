"""docs/testing.md says what is so: its tests are run by pytest, and pass."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import zpipe.testing
from zpipe.testing import PipelineRun, StageRun

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    for name, body in FILES.items():
        (tmp_path / name).write_text(body)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{PAGE.count('def test_')} passed" in done.stdout


def test_the_retry_and_reject_test_is_short() -> None:
    body = FILES["test_flaky.py"].split("def test_a_retry_and_a_rejection", 1)[1]
    assert len(body.strip().splitlines()) <= 8


def test_everything_a_test_can_ask_is_on_the_page() -> None:
    for letter, kind in (("s", StageRun), ("p", PipelineRun)):
        for name in (name for name in vars(kind) if not name.startswith("_")):
            assert f"`{letter}.{name}" in PAGE or f"{letter}.{name}(" in PAGE or f"{letter}.{name}[" in PAGE, name
    for name in ("stage", "read", "pipeline", "check_plugin", "make_context", "load_fixture"):
        assert name in PAGE and name in zpipe.testing.__all__
