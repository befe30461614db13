"""What a reload takes over, and what it says needs a restart."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from zpipe.config import load
from zpipe.core.policy import StagePolicy
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import Identity
from zpipe.daemon.reload import reload

CONFIG = """
[pipeline]
name = "p"
[stages.a]
plugin = "generate"
[stages.b]
input = "a"
plugin = "discard"
link = { kind = "jetstream", servers = ["nats://127.0.0.1:4222"] }
[stages.c]
input = "b"
plugin = "discard"
[stages.d]
input = "c"
plugin = "discard"
[security.nats]
username = "me"
password = "${NATS_PASSWORD:-x}"
"""


def needs_restart(path: Path, stage: str, text: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the reload of that stage says after the file has become that text."""
    path.write_text(CONFIG)
    old = load(path, env={}, only=stage)
    path.write_text(text)
    shell = Stage(Identity("p", stage, 1, "x"), [], [], StagePolicy(), 0.0, os.urandom)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        reload(old, {}, shell, logging.getLogger("test"))
    [said] = caplog.messages
    return said.partition("needs_restart=")[2].strip('"').split()


@pytest.mark.parametrize(
    ("stage", "before", "then", "needed"),
    [
        ("a", "", "", []),
        ("a", 'username = "me"', 'username = "you"', ["security.nats"]),
        ("b", 'username = "me"', 'username = "you"', ["security.nats"]),
        ("b", "NATS_PASSWORD", "OTHER_PASSWORD", ["security.nats"]),
        ("c", 'username = "me"', 'username = "you"', []),
        ("a", "127.0.0.1:4222", "127.0.0.1:4223", ["stages.b.link"]),
        ("b", "127.0.0.1:4222", "127.0.0.1:4223", ["stages.b.link"]),
        ("c", "127.0.0.1:4222", "127.0.0.1:4223", []),
        ("b", 'link = { kind = "jetstream", servers = ["nats://127.0.0.1:4222"] }', "", ["stages.b.link"]),
    ],
)
def test_a_change_of_what_links_use_needs_a_restart_of_both_ends_and_of_nobody_else(
    stage: str, before: str, then: str, needed: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert needs_restart(tmp_path / "p.toml", stage, CONFIG.replace(before, then, 1), caplog) == needed
