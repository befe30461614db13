"""What `zpipe drain` refuses before it looks for anybody."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from zpipe.cli import group
from zpipe.errors import ConfigError


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["drain"], "--timeout"),
        (["monitor"], "--timeout"),
        (["monitor", "--check"], "--max-age"),
        (["tap"], "--timeout"),
        (["dead", "list"], "--older"),
    ],
)
@pytest.mark.parametrize("given", ["5", "5s", "2m", "250ms"])
def test_a_time_is_written_as_in_a_config(command: list[str], option: str, given: str) -> None:
    target = ["read"] if command == ["tap"] else []
    result = CliRunner().invoke(group, [*command, "no-such-file.toml", *target, option, given])
    assert "Invalid value" not in result.output
    assert isinstance(result.exception, ConfigError), "the time was read, and the config after it"


@pytest.mark.parametrize("command", ["drain", "monitor"])
@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1", "soon"])
def test_a_timeout_is_a_finite_time(tmp_path: Path, command: str, seconds: str) -> None:
    result = CliRunner().invoke(group, [command, str(tmp_path / "p.toml"), "--timeout", seconds])
    assert result.exit_code == 2
    assert "Invalid value for '--timeout'" in result.output
