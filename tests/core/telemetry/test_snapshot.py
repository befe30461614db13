"""What is taken in of a snapshot that another process has published."""

from __future__ import annotations

import json
from typing import Any

import pytest

from zpipe.core.policy import StagePolicy
from zpipe.core.stage import Stage
from zpipe.core.telemetry.snapshot import taken_in
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.wire import cbor
from zpipe.testing import seeded_bytes


@pytest.fixture
def body() -> dict[str, Any]:
    stage = Stage(Identity("p", "a", 1, "a1"), [("up", "")], [("", "b")], StagePolicy(), 0.0, seeded_bytes("random"))
    published: dict[str, Any] = cbor.read(cbor.write(stage.snapshot(1.0)))
    return published


LINK = {"outlet": "", "to": "c", "produced": 0, "acked": 0, "in_flight": 0, "unsent": 0}


def test_rows_of_a_stream_are_taken_in(body: dict[str, Any]) -> None:
    session = {"from": "x", "outlet": "", "incarnation": "i", "stream": {"parcels": 1}, "trouble": ""}
    more = {"links": [{**LINK, "jetstream": {"connected": True, "trouble": ""}}], "sessions": [session]}
    assert taken_in(body | more) == body | more


def test_what_zpipe_publishes_is_taken_in_as_it_is(body: dict[str, Any]) -> None:
    assert taken_in(body) == body


@pytest.mark.parametrize(
    "odd",
    [
        {"mine": b"bytes"},
        {"mine": [1, {"deep": [b"bytes"]}]},
        {"mine": {b"key": 1}},
        {b"mine": 1},
        {"mine": float("nan")},
        {"restarts": {b"SIGKILL": 1}},
        {"latency_histogram": {b"in_stage": {"messages": 0, "sum_s": 0.0, "buckets": []}}},
        {"rate_in": float("inf")},
        {"budget": {b"working": 1.0}},
    ],
)
def test_a_key_that_json_cannot_hold_is_passed_over(body: dict[str, Any], odd: dict[Any, Any]) -> None:
    taken = taken_in(body | odd)
    assert taken == {key: value for key, value in body.items() if key not in odd}
    json.dumps(taken, allow_nan=False)


def test_other_keys_of_other_programs_stay(body: dict[str, Any]) -> None:
    more = {"mine": {"text": "x", "list": [1, 2.5, None, True], "large": (1 << 64) - 1}}
    assert taken_in(body | more) == body | more


@pytest.mark.parametrize(
    "odd",
    [
        {"received": b"1"},
        {"received": 10**400},
        {"rate_in": 10**400},
        {"rate_in": 1 << 64},
        {"stage": None},
        {"links": [b"link"]},
        {"links": [{**LINK, "jetstream": []}]},
        {"links": [{**LINK, "jetstream": {"trouble": 3}}]},
        {"sessions": [{"from": "x", "outlet": "", "incarnation": "i", "stream": [1]}]},
        {"sessions": [{"from": "x", "outlet": "", "incarnation": "i", "stream": {"parcels": "many"}}]},
        {"restarts": {"SIGKILL": "often"}},
        {"plugin_counters": {"rows": "many"}},
        {"plugin_gauges": [1]},
        {"plugin_histograms": {"sizes": {"messages": 1, "sum_s": 1.0, "buckets": [[1.0]]}}},
        {"last_crash": {"ids": [1]}},
        {"last_crash": {"how": 1}},
        {"last_crash": {"at": "noon"}},
        {"latency_histogram": {"in_stage": {"messages": 1, "sum_s": 1.0, "buckets": [[1.0]]}}},
        {"latency_histogram": {"in_stage": {"messages": 1, "buckets": []}}},
        {"latency_histogram": {"in_stage": {"messages": "1", "sum_s": 1.0, "buckets": []}}},
        {"inputs": [{"dead": 1}]},
        {"held_by": 3},
        {"version": 3},
        {"waiting_for": [3]},
        {"dead_stored": "some"},
    ],
)
def test_one_that_makes_no_sense_is_none(body: dict[str, Any], odd: dict[str, Any]) -> None:
    assert taken_in(body | odd) is None
