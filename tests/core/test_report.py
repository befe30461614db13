"""What a snapshot measures, however often one is asked for."""

from __future__ import annotations

from zpipe.core import section
from zpipe.core.intake import Self
from zpipe.core.policy import StagePolicy
from zpipe.core.stage import Stage
from zpipe.core.work import Chunk


def test_a_snapshot_that_is_asked_for_between_two_takes_nothing_from_the_next() -> None:
    stage = Stage(Self("p", "a", 1, "a1"), [], [("", "b")], StagePolicy(interval_s=1.0), 0.0)
    stage.opened()
    for tenth in range(1, 21):
        now = tenth / 10
        body = section.encode(["x"] * 10, [0.0] * 10, [None] * 10, None)
        stage.source_emitted([Chunk("", 10, body)], tenth, 10, [])
        stage.settle(now)
        if tenth in (10, 20):
            due = stage.snapshot(now)
            assert 90.0 <= due["rate_in"] <= 110.0
        elif tenth > 10:
            asked = stage.snapshot(now)
            assert asked["received"] == 10 * tenth
            assert {key: asked[key] for key in ("rate_in", "budget", "latency")} == {
                key: due[key] for key in ("rate_in", "budget", "latency")
            }
            if tenth == 14:
                break


def test_the_age_of_what_is_unsent_is_told() -> None:
    stage = Stage(Self("p", "a", 1, "a1"), [], [("", "b")], StagePolicy(), 0.0)
    stage.opened()
    body = section.encode(["x"], [0.0], [None], None)
    stage.source_emitted([Chunk("", 1, body)], 1, 1, [])
    for now in (0.0, 1.0, 30.0):
        stage.settle(now)
    [link] = stage.snapshot(30.0)["links"]
    assert link["oldest_s"] == 30.0
