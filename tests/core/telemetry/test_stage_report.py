"""What a snapshot measures, however often one is asked for."""

from __future__ import annotations

import pytest

from zpipe.core import events
from zpipe.core.actions import Publish
from zpipe.core.intervals import following
from zpipe.core.policy import StagePolicy
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.wire import frames, section
from zpipe.core.work.task import Chunk
from zpipe.testing import seeded_bytes


def test_a_snapshot_that_is_asked_for_between_two_takes_nothing_from_the_next() -> None:
    stage = Stage(
        Identity("p", "a", 1, "a1"), [], [("", "b")], StagePolicy(interval_s=1.0), 0.0, seeded_bytes("random")
    )
    stage.handle(events.Opened(), 0.0)
    for tenth in range(1, 21):
        now = tenth / 10
        body = section.encode(["x"] * 10, [0.0] * 10, [None] * 10, None)
        stage.handle(events.SourceYielded([Chunk("", 10, body)], tenth, 10, []), 0.0)
        stage.turn(now)
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
    stage = Stage(Identity("p", "a", 1, "a1"), [], [("", "b")], StagePolicy(), 0.0, seeded_bytes("random"))
    stage.handle(events.Opened(), 0.0)
    body = section.encode(["x"], [0.0], [None], None)
    stage.handle(events.SourceYielded([Chunk("", 1, body)], 1, 1, []), 0.0)
    for now in (0.0, 1.0, 30.0):
        stage.turn(now)
    [link] = stage.snapshot(30.0)["links"]
    assert link["oldest_s"] == 30.0


@pytest.mark.parametrize("interval_s", [0.1, 0.2, 0.3, 1.0, 5.0])
def test_snapshots_are_taken_at_multiples_of_the_interval_whenever_the_instance_began(interval_s: float) -> None:
    for began in (0.0, 1234.5678, 86400.1):
        now = began
        for turn in range(1, 200):
            due = following(now, interval_s)
            assert 0.0 < due - now <= 1.001 * interval_s
            assert due == pytest.approx(round(due / interval_s) * interval_s)
            # At its time, or late by less than an interval: none is left out, none comes twice.
            now = due + (turn % 4) * 0.2 * interval_s
            assert following(now, interval_s) == pytest.approx(due + interval_s)


def test_two_instances_of_a_machine_take_their_snapshots_at_the_same_instants() -> None:
    taken: list[list[float]] = []
    for began in (100.3, 100.9):
        stage = Stage(
            Identity("p", "a", 1, "a1"), [], [("", "b")], StagePolicy(interval_s=1.0), began, seeded_bytes("random")
        )
        stage.handle(events.Opened(), 0.0)
        stage.turn(began)
        taken.append([])
        for hundredth in range(int(began * 100), 10600):
            actions = stage.turn(hundredth / 100)
            taken[-1] += [
                hundredth / 100 for one in actions if isinstance(one, Publish) and one.topic == frames.SNAPSHOT_TOPIC
            ]
    assert taken == [[101.0, 102.0, 103.0, 104.0, 105.0]] * 2
