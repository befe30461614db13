"""What `zpipe drain` refuses before it looks for anybody."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from zpipe.cli import group


@pytest.mark.parametrize("command", ["drain", "monitor"])
@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1", "soon"])
def test_a_timeout_is_a_finite_time(tmp_path: Path, command: str, seconds: str) -> None:
    result = CliRunner().invoke(group, [command, str(tmp_path / "p.toml"), "--timeout", seconds])
    assert result.exit_code == 2
    assert "Invalid value for '--timeout'" in result.output
