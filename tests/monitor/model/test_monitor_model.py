from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitor_samples import CHAIN, UNSENT_BOUND, budget, config, consumer, link, snapshot

from zpipe.core.telemetry.snapshot import taken_in
from zpipe.monitor.model.link import split
from zpipe.monitor.model.pipeline import CONNECT_S, SILENT_INTERVALS, PipelineModel
from zpipe.monitor.table.columns import width_of
from zpipe.monitor.table.pipeline_status import status


def links_of(value: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["from"], row["to"]): row for row in value["links"]}


# States


def test_nothing_heard_is_absent_and_has_the_whole_shape() -> None:
    value = PipelineModel(config(CHAIN)).as_json(5.0)
    assert set(value) == {"pipeline", "at", "stages", "links", "bottleneck", "clocks"}
    assert (value["pipeline"], value["at"], value["bottleneck"]) == ("p", 5.0, None)
    assert [stage["state"] for stage in value["stages"].values()] == ["ABSENT"] * 3
    assert value["stages"]["map"]["absent"] == [1]
    keys = {"from", "to", "outlet", "depth", "depth_bytes", "oldest_s", "rate", "full_in_s", "empty_in_s"}
    assert all(keys | {"credit", "in_flight", "unsent"} <= set(row) for row in value["links"])
    json.dumps(value, allow_nan=False)


def test_who_was_not_heard_yet_is_not_said_to_be_gone() -> None:
    began = 100.0
    patience_s = SILENT_INTERVALS * 1.0 + CONNECT_S
    model = PipelineModel(config(CHAIN, {"map": 2}), began)
    model.add(snapshot("read", [link("map", 4000, unsent=UNSENT_BOUND)], budget=budget(blocked=1.0)), began)
    model.add(snapshot("sink"), began)
    early = model.as_json(began + patience_s - 0.1)
    assert (early["stages"]["map"]["state"], early["bottleneck"]) == ("UNHEARD", None)
    assert (early["stages"]["map"]["unheard"], early["stages"]["map"]["absent"]) == ([1, 2], [])
    model.add(snapshot("read", [link("map", 4000, unsent=UNSENT_BOUND)], budget=budget(blocked=1.0)), 103.5)
    late = model.as_json(began + patience_s)
    assert (late["stages"]["map"]["state"], late["bottleneck"]["kind"]) == ("ABSENT", "down")
    assert (late["stages"]["map"]["unheard"], late["stages"]["map"]["absent"]) == ([], [1, 2])


def test_nothing_is_blamed_while_a_sibling_is_still_unheard() -> None:
    model = PipelineModel(config(CHAIN, {"map": 2}), 100.0)
    rows = [link("map", 4000, unsent=UNSENT_BOUND)]
    model.add(snapshot("read", rows, received=976, budget=budget(blocked=0.9), rate_out=1e4), 100.0)
    model.add(snapshot("map", received=976, budget=budget(working=0.97), rate_in=1e4, rate_out=1e4), 100.0)
    model.add(snapshot("sink"), 100.0)
    assert model.as_json(100.5)["bottleneck"] is None
    model.add(snapshot("map", instance=2, received=976, budget=budget(working=0.97), rate_out=1e4), 100.6)
    assert model.as_json(100.7)["bottleneck"]["stage"] == "map"


@pytest.mark.parametrize("at", [-1.0, 1e300, 1e12, float("nan"), float("inf")])
def test_a_snapshot_of_a_time_that_cannot_be_changes_nothing(at: float) -> None:
    def heard(*strange: float) -> dict[str, Any]:
        model = PipelineModel(config(CHAIN))
        for n in range(6):
            assert model.add(snapshot("read", [link("map", 10 * n)], received=10 * n, at=1000.0 + n), 1000.0 + n)
            for one in strange:
                assert not model.add(snapshot("read", [link("map", 999)], received=999, at=one), 1000.0 + n)
        return model.as_json(1006.0)

    assert heard(at) == heard()
    assert heard(at)["stages"]["read"]["rate_in"] == pytest.approx(10.0)


def test_a_stage_is_in_the_least_advanced_state_of_its_instances() -> None:
    model = PipelineModel(config(CHAIN, {"map": 3}))
    for instance, state in enumerate(("STOPPED", "FLUSHED", "DRAINING"), 1):
        model.add(snapshot("map", instance=instance, state=state))
    assert model.as_json(100.0)["stages"]["map"]["state"] == "DRAINING"
    model.add(snapshot("map", instance=2, state="FAILED"))
    assert model.as_json(100.0)["stages"]["map"]["state"] == "FAILED"


def test_an_instance_not_heard_for_three_intervals_is_silent_and_what_it_held_is_not_counted() -> None:
    model = PipelineModel(config(CHAIN, {"map": 2}))
    model.add(snapshot("map", received=7, queued=7, rate_in=5.0, at=100.0))
    model.add(snapshot("map", instance=2, received=4, queued=4, at=103.0))
    heard = model.as_json(103.0)
    assert heard["stages"]["map"]["depth"] == 11
    later = model.as_json(103.5)
    stage = later["stages"]["map"]
    assert (stage["state"], stage["silent"], stage["depth"], stage["rate_in"]) == ("SILENT", [1], 4, 0.0)
    assert len(stage["instances"]) == 2
    assert links_of(later)["read", "map"]["depth"] == 4


def test_one_that_stopped_is_not_silent() -> None:
    model = PipelineModel(config(CHAIN))
    for stage in CHAIN:
        model.add(snapshot(stage, state="STOPPED", at=0.0))
    assert model.as_json(1000.0)["stages"]["map"]["state"] == "STOPPED"
    assert model.over
    assert not model.missing


def test_a_new_incarnation_takes_the_place_of_the_old() -> None:
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("map", received=100, at=100.0))
    model.add(snapshot("map", received=3, at=101.0, incarnation="i2"))
    stage = model.as_json(101.0)["stages"]["map"]
    assert stage["received"] == 3
    assert stage["rate_in"] == 0.0


@pytest.mark.parametrize(
    "broken",
    [
        {"links": 3},
        {"links": [3]},
        {"links": [{"to": "sink"}]},
        {"links": [link("sink") | {"to": None}]},
        {"links": [link("sink", consumers=3)]},
        {"links": [link("sink", consumers=[{"credit": "much"}])]},
        {"state": "??"},
        {"state": ["RUNNING"]},
        {"queued": "many"},
        {"rate_in": float("nan")},
        {"at": float("inf")},
        {"total": "all"},
        {"budget": {"working": "hard"}},
        {"latency": {"in_stage": 3}},
        {"latency": 3},
        {"limit": 3},
        {"limit": {"limit": "few"}},
        {"sessions": 3},
        {"sessions": [{"queued": "many"}]},
    ],
)
def test_a_snapshot_that_makes_no_sense_is_passed_over(broken: dict[str, Any]) -> None:
    assert taken_in(snapshot("map")) is not None
    taken = taken_in(snapshot("map") | broken)
    assert taken is None or taken == {key: value for key, value in snapshot("map").items() if key not in broken}


def test_a_snapshot_of_a_stage_that_is_not_of_the_config_is_passed_over() -> None:
    model = PipelineModel(config(CHAIN))
    assert not model.add(snapshot("unknown"))
    assert not model.heard


def test_a_limit_of_calls_a_second_alone_is_sound() -> None:
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("map", limit={"limit": None, "under_way": 1, "reason": "fixed", "changed_s": 1.0}))
    assert model.as_json(100.0)["stages"]["map"]["limit"] is None
    assert model.heard


def test_a_snapshot_of_another_program_with_only_what_the_protocol_promises_is_enough() -> None:
    least = ("pipeline", "stage", "instance", "incarnation", "state", "received", "completed", "filtered", "dead")
    full = snapshot("map", received=4, queued=4)
    row = {"outlet": "", "to": "sink", "produced": 9, "acked": 2, "in_flight": 4, "unsent": 3}
    model = PipelineModel(config(CHAIN))
    model.add({key: full[key] for key in (*least, "returned", "in_process", "queued")} | {"links": [row]}, 7.0)
    value = model.as_json(7.0)
    assert value["stages"]["map"]["depth"] == 4
    row = links_of(value)["map", "sink"]
    assert (row["depth"], row["unsent"], row["under_way"]) == (7, 3, 4), "nobody says that the four have arrived"


# Links


def test_depth_is_unsent_at_the_producers_and_queued_at_the_consumers() -> None:
    model = PipelineModel(config(CHAIN, {"map": 2}))
    for instance in (1, 2):
        rows = [link("sink", 100, in_flight=30, unsent=20, unsent_bytes=200, consumers=[consumer(credit=6)])]
        model.add(snapshot("map", rows, instance=instance))
    model.add(snapshot("sink", received=9, queued=9, oldest_s=1.5))
    row = links_of(model.as_json(100.0))["map", "sink"]
    assert (row["depth"], row["depth_bytes"], row["unsent"], row["queued"]) == (49, 490, 40, 9)
    assert (row["in_flight"], row["credit"], row["oldest_s"]) == (60, 12, 1.5)


def test_the_columns_of_a_link_are_counted_from_both_ends() -> None:
    peer = consumer() | {"sent": 30, "in_flight": 28}
    session = {
        "from": "map",
        "outlet": "",
        "instance": 1,
        "incarnation": "i1",
        "received": 20,
        "queued": 5,
        "unacked": 15,
    }
    gone = {**session, "incarnation": "i0", "queued": 99}  # a session with a life of the producer that is over
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("sink", received=20, queued=5, sessions=[session], incarnation="x", at=100.0))
    model.add(snapshot("map", [link("sink", 40, in_flight=28, unsent=7, consumers=[peer])], at=100.1))
    row = links_of(model.as_json(100.1))["map", "sink"]
    assert [row[key] for key in ("unsent", "under_way", "queued", "depth")] == [7, 10, 5, 22]
    assert (row["in_flight"], row["unacked"], row["remainder"]) == (28, 15, 3)
    model.add(
        snapshot("sink", received=30, queued=5, sessions=[session | {"received": 31}, gone], incarnation="x", at=99.0)
    )
    row = links_of(model.as_json(100.1))["map", "sink"]
    assert row["under_way"] == 0  # the consumer's snapshot is the later one: nothing is negative
    assert row["queued"] == 104  # nobody alive answers for what it holds of the other


def test_the_queue_of_several_inputs_is_split_by_what_is_under_way_and_adds_up() -> None:
    model = PipelineModel(config({"a": [], "b": [], "sink": ["a", "b"]}))
    model.add(snapshot("a", [link("sink", 30, in_flight=30, consumers=[consumer(under_way=30)])]))
    model.add(snapshot("b", [link("sink", 10, in_flight=10, consumers=[consumer(under_way=10)])]))
    model.add(snapshot("sink", received=11, queued=11))
    rows = links_of(model.as_json(100.0))
    assert [rows[name, "sink"]["depth"] for name in ("a", "b")] == [8, 3]
    assert sum(rows[name, "sink"]["depth_bytes"] for name in ("a", "b")) == 110


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**6), min_size=1, max_size=8))
def test_parts_add_up(total: int, weights: list[int]) -> None:
    parts = split(total, weights)
    assert sum(parts) == total
    assert min(parts) >= 0


def test_rates_are_measured_between_snapshots_and_taken_from_the_first_until_then() -> None:
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("read", [link("map", 100)], received=100, at=100.0, rate_out=7.0))
    model.add(snapshot("map", [link("sink", 50)], received=100, at=100.0, rate_in=8.0, rate_out=6.0))
    first = model.as_json(100.0)
    assert first["stages"]["read"]["rate_out"] == 7.0
    assert links_of(first)["read", "map"]["rate"] == 8.0  # nothing else comes to map
    model.add(snapshot("read", [link("map", 140)], received=140, at=100.01))  # a change of state: too soon to measure
    assert links_of(model.as_json(100.1))["read", "map"]["rate"] == 8.0
    for n in (1, 2, 3):
        model.add(snapshot("read", [link("map", 100 + 40 * n, unsent=20)], received=100 + 40 * n, at=100.0 + 2 * n))
    value = model.as_json(106.0)
    assert links_of(value)["read", "map"]["rate"] == pytest.approx(20.0)
    assert value["stages"]["read"]["rate_out"] == pytest.approx(20.0)


# The bottleneck


def busy_chain(own: float, unsent: int, at: float = 100.0, produced: int = 1000) -> list[dict[str, Any]]:
    return [
        snapshot("read", [link("map", produced + unsent, unsent=unsent)], budget=budget(blocked=0.8), at=at),
        snapshot("map", [link("sink", 900)], budget=budget(working=own), rate_out=50.0, received=produced, at=at),
        snapshot("sink", budget=budget(working=0.1), rate_in=50.0, at=at),
    ]


def test_the_bottleneck_is_the_busiest_stage_with_a_full_input() -> None:
    model = PipelineModel(config(CHAIN))
    for one in busy_chain(0.98, UNSENT_BOUND):
        model.add(one)
    found = model.as_json(100.0)["bottleneck"]
    assert found["stage"] == "map"
    assert found["why"] == "map is the limit: 98% working, read blocked 80% of the time"
    assert found["instances_needed"] == 2


def test_instances_needed_match_what_the_source_gave_while_nothing_blocked_it() -> None:
    model = PipelineModel(config(CHAIN))
    for n in range(12):  # 200 a second until it is blocked, then as fast as map takes them, in bursts
        read = 200 * n if n < 4 else 800 + 50 * (n - 4) + 40 * (n % 2)
        shares = budget() if n < 4 else budget(blocked=0.9)
        unsent = 0 if n < 4 else UNSENT_BOUND
        model.add(snapshot("read", [link("map", read, unsent=unsent)], budget=shares, received=read, at=100.0 + n))
        model.add(snapshot("map", [link("sink", 50 * n)], budget=budget(working=1.0), received=50 * n, at=100.0 + n))
        model.add(snapshot("sink", budget=budget(working=0.02), received=50 * n, at=100.0 + n))
    found = model.as_json(111.0)["bottleneck"]
    assert (found["stage"], found["instances_needed"]) == ("map", 4)


def test_a_stage_that_passes_back_pressure_on_is_not_the_bottleneck() -> None:
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("read", [link("map", 4000, unsent=UNSENT_BOUND)], budget=budget(blocked=0.9)))
    model.add(snapshot("map", [link("sink", 4000, unsent=UNSENT_BOUND)], budget=budget(working=0.3, blocked=0.7)))
    model.add(snapshot("sink", budget=budget(working=0.2, limited=0.7), rate_in=3.0))
    found = model.as_json(100.0)["bottleneck"]
    assert found["stage"] == "sink"
    assert found["why"].startswith("sink is the limit: held back 70% of the time by its limit of calls")


def test_no_bottleneck_while_everything_keeps_up() -> None:
    model = PipelineModel(config(CHAIN))
    for one in busy_chain(0.98, 0):
        model.add(one | {"budget": budget(working=0.98)})
    assert model.as_json(100.0)["bottleneck"] is None


def test_a_stage_that_is_not_running_is_the_bottleneck() -> None:
    model = PipelineModel(config(CHAIN))
    for one in busy_chain(0.98, UNSENT_BOUND)[:1]:
        model.add(one)
    found = model.as_json(100.0)["bottleneck"]
    assert found == {
        "stage": "map",
        "kind": "down",
        "why": "map is not heard of and 2,048 messages wait for it",
        "advice": "start map, or see its log if it runs",
        "instances_needed": None,
        "brings": None,
    }


def test_a_program_that_is_not_heard_of_may_be_one_without_snapshots() -> None:
    plain = config(CHAIN)
    program = replace(plain.stages["map"], plugin="", command=("node", "map.js"))
    model = PipelineModel(replace(plain, stages={**plain.stages, "map": program}))
    model.add(busy_chain(0.98, UNSENT_BOUND)[0])
    found = model.as_json(100.0)["bottleneck"]
    assert found["why"] == "map is not heard of and 2,048 messages wait for it"
    seen = "start map, or see its log if it runs"
    assert found["advice"] == f"{seen} (a program that publishes no snapshots is never heard of)"


# Whatever comes


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    count = st.integers(0, 3000)
    at = 0.0
    for _ in range(draw(st.integers(1, 25))):
        at += draw(st.sampled_from([0.0, 0.001, 0.5, 1.0, 9.0]))
        stage = draw(st.sampled_from(["a", "b", "c"]))
        rows = []
        if stage != "c":
            unsent, in_flight = draw(count), draw(count)
            seen = consumer(credit=draw(count), under_way=draw(count))
            rows = [link("c", unsent + in_flight + draw(count), in_flight, unsent, consumers=[seen])]
        shares = {draw(st.sampled_from(["working", "blocked", "limited", "retrying"])): draw(st.floats(0, 1))}
        queued = draw(count)
        more = {"state": draw(st.sampled_from(["STARTING", "RUNNING", "FLUSHED", "STOPPED", "FAILED"]))}
        identity = {"instance": draw(st.integers(1, 3)), "incarnation": draw(st.sampled_from(["i1", "i2"]))}
        rates = {"rate_in": draw(st.floats(0, 1e6)), "budget": budget(**shares)}
        received = queued + draw(count)
        found.append(snapshot(stage, rows, at=at, queued=queued, received=received, **more, **identity, **rates))
    return found


@settings(max_examples=150)
@given(histories(), st.sampled_from([0.0, 2.0, 50.0]))
def test_whatever_comes_there_is_a_value_that_adds_up_and_can_be_shown(
    history: list[dict[str, Any]], later: float
) -> None:
    model = PipelineModel(config({"a": [], "b": ["a"], "c": ["a", "b"]}, {"b": 2}))
    for one in history:
        model.add(one)
        value = model.as_json(one["at"] + later)
        json.dumps(value, allow_nan=False)
        assert all(width_of(line) <= 80 for line in status(value, 80))
        rows = links_of(value)
        into_c = [rows["a", "c"], rows["b", "c"]]
        assert sum(row["queued"] for row in into_c) == value["stages"]["c"]["depth"]
        for row in rows.values():
            assert row["full_in_s"] is None or row["empty_in_s"] is None
            assert all(row[key] is None or row[key] >= 0 for key in ("rate", "full_in_s", "empty_in_s"))


def test_an_instance_that_others_are_in_session_with_is_awaited() -> None:
    model = PipelineModel(config(CHAIN, {"map": 2}))
    model.add(snapshot("read", [link("map", consumers=[consumer(1), consumer(3)])]))
    model.add(snapshot("map", [link("sink", consumers=[consumer()])]))
    model.add(snapshot("sink"))
    assert model.missing == ["map.2"]
    assert model.awaited == ["map.2", "map.3"]
    for instance in (2, 3):
        model.add(snapshot("map", [link("sink")], instance=instance))
    assert model.awaited == []


def test_a_link_says_as_of_when_it_is() -> None:
    model = PipelineModel(config(CHAIN))
    assert [row["at"] for row in model.as_json(100.0)["links"]] == [None, None]
    model.add(snapshot("read", [link("map")], at=100.0), 100.1)
    model.add(snapshot("map", [link("sink")], at=100.4), 100.5)
    assert [row["at"] for row in model.as_json(100.5)["links"]] == [100.0, 100.4]
