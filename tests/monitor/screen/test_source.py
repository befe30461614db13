"""What a screen says while nothing was heard of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zpipe.config import load
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.screen.source import LivePipeline
from zpipe.monitor.snapshot_feed import now_s

CONFIG = """
[pipeline]
name = "quiet"
[stages.make]
plugin = "generate"
[stages.sink]
input = "make"
plugin = "discard"
"""


class Silence:
    """A feed by which nothing comes."""

    refused: dict[Any, str] = {}  # noqa: RUF012

    def poll(self, timeout_s: float) -> list[dict[str, Any]]:
        return []


def said(tmp_path: Path, *listening_since: float) -> str:
    (tmp_path / "p.toml").write_text(CONFIG)
    config = load(tmp_path / "p.toml", only="")
    model = PipelineModel(config, *listening_since)
    source = LivePipeline(Silence(), model, config, 1.0, lambda: "runtime folder /r", lambda snapshot, at: None)
    source.turn()
    return source.waits


def test_it_listens_before_it_says_that_nothing_runs(tmp_path: Path) -> None:
    assert said(tmp_path, now_s()) == "Listening for pipeline 'quiet' (runtime folder /r)"
    assert said(tmp_path) == "Waiting for pipeline 'quiet' to start: no instance is heard of (runtime folder /r)"
