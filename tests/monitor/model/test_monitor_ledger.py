from __future__ import annotations

import json
from typing import Any

import pytest
from monitor_samples import CHAIN, config, link, snapshot

from zpipe.monitor.model.run_ledger import RunLedger

STAGE_KEYS = {
    "received",
    "completed",
    "filtered",
    "dead",
    "returned",
    "in_process",
    "queued",
    "produced",
    "redelivered",
    "duplicates",
    "restarts",
}


def stopped(stage: str, links: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    return snapshot(stage, links, **({"state": "STOPPED"} | more))


def balanced_ledger() -> RunLedger:
    ledger = RunLedger(config(CHAIN))
    ledger.final(stopped("read", [link("map", 100)], received=100, finished=100))
    ledger.final(stopped("map", [link("sink", 95)], received=100, filtered=4, dead=1))
    ledger.final(stopped("sink", received=95))
    return ledger


def test_a_run_that_ended_balances_and_has_exactly_the_fixed_keys() -> None:
    ledger = balanced_ledger()
    assert ledger.problems() == []
    assert ledger.balanced
    value = ledger.as_json(1.23456)
    assert json.loads(json.dumps(value)) == value
    assert set(value) == {"pipeline", "balanced", "seconds", "stages", "links"}
    assert (value["pipeline"], value["balanced"], value["seconds"]) == ("p", True, 1.235)
    assert list(value["stages"]) == ["read", "map", "sink"]
    assert all(set(row) == STAGE_KEYS for row in value["stages"].values())
    assert value["links"] == [
        {"from": "read", "to": "map", "sent": 100, "acked": 100, "in_flight": 0, "unsent": 0},
        {"from": "map", "to": "sink", "sent": 95, "acked": 95, "in_flight": 0, "unsent": 0},
    ]


def test_what_a_disk_has_done_to_stored_messages_is_a_remark() -> None:
    ledger = balanced_ledger()
    buffer = {"stored": 3, "unreadable": 3, "lost": 2, "trouble": "cannot read 3 messages"}
    row = link("map", 105, unsent=3, buffer=buffer) | {"acked": 100}
    ledger.final(stopped("read", [row], received=100, finished=100))
    assert ledger.balanced
    assert ledger.remarks(ledger.as_json(1.0)) == [
        "stored: 3 messages from read to map are in the disk buffer, for the next run",
        "read.1: 2 messages to map were damaged on its disk, and are lost",
        "read.1: cannot read 3 messages",
    ]
    assert not balanced_ledger().remarks(balanced_ledger().as_json(1.0))


def test_instances_of_a_stage_are_added_up() -> None:
    ledger = RunLedger(config(CHAIN, {"map": 2}))
    ledger.final(stopped("map", [link("sink", 60, redelivered=5)], instance=1, received=60, duplicates=2))
    ledger.final(stopped("map", [link("sink", 40)], instance=2, received=40))
    row = ledger.as_json(1)["stages"]["map"]
    assert (row["received"], row["produced"], row["redelivered"], row["duplicates"]) == (100, 100, 5, 2)


def test_what_a_killed_incarnation_held_is_returned_and_only_what_was_acked_was_sent() -> None:
    ledger = balanced_ledger()
    ledger.restarts["map"] += 1
    held = snapshot("map", [link("sink", 30, in_flight=7, unsent=3)], received=50, queued=12, in_process=8)
    ledger.killed(held | {"incarnation": "dead"})
    value = ledger.as_json(1)
    row = value["stages"]["map"]
    assert value["balanced"]
    assert value["killed"] == ["map.1:dead"]
    assert row["restarts"] == 1
    assert (row["received"], row["returned"], row["in_process"], row["queued"]) == (150, 20, 0, 0)
    assert row["received"] == sum(row[k] for k in ("completed", "filtered", "dead", "returned", "in_process", "queued"))
    assert row["produced"] == 95 + 20
    assert value["links"][1] == {"from": "map", "to": "sink", "sent": 115, "acked": 115, "in_flight": 0, "unsent": 0}


def test_what_an_instance_gave_up_as_it_left_comes_again_from_those_above_it() -> None:
    ledger = balanced_ledger()
    held = stopped("map", [link("sink", 30, in_flight=7, unsent=3)], received=50, incarnation="left")
    ledger.final(held | {"abandoned": True})
    value = ledger.as_json(1)
    assert value["balanced"]
    assert "killed" not in value
    assert value["stages"]["map"]["produced"] == 95 + 20
    assert value["links"][1] == {"from": "map", "to": "sink", "sent": 115, "acked": 115, "in_flight": 0, "unsent": 0}
    ledger.final(held)
    assert ledger.problems() == ["map.1 stopped, but holds 7 in flight to sink, 3 unsent to sink"]


def test_a_head_that_gave_up_messages_does_not_balance() -> None:
    ledger = balanced_ledger()
    ledger.final(stopped("read", [link("map", 100, unsent=5)], received=100, finished=95, abandoned=True))
    assert ledger.problems() == ["read.1 read 100 messages, of which 95 are finished"]


def test_what_no_stage_reads_has_a_key_where_there_is_any() -> None:
    ledger = balanced_ledger()
    ledger.killed(snapshot("map", incarnation="dead", unrouted=2))
    ledger.final(stopped("map", [link("sink", 95)], received=100, filtered=4, dead=1, unrouted=5))
    stages = ledger.as_json(1)["stages"]
    assert ledger.balanced
    assert (stages["map"]["unrouted"], stages["map"]["produced"]) == (7, 95)
    assert "unrouted" not in stages["sink"]


def test_an_incarnation_counts_once() -> None:
    ledger = balanced_ledger()
    ledger.killed(stopped("sink", received=95))  # killed after it had said that it stopped
    assert ledger.balanced
    assert "killed" not in ledger.as_json(1)
    ledger.killed(snapshot("map", received=5, incarnation="i0"))
    ledger.final(stopped("map", received=5, incarnation="i0"))  # it had come further than was known
    assert "killed" not in ledger.as_json(1)
    assert ledger.as_json(1)["stages"]["map"]["received"] == 105


def test_two_links_between_the_same_stages_are_told_apart() -> None:
    ledger = RunLedger(config({"read": [], "sink": ["read.good", "read.bad"]}))
    links = [link("sink", 3, outlet="good"), link("sink", 4, outlet="bad")]
    ledger.final(stopped("read", links, received=7, finished=7))
    ledger.final(stopped("sink", received=7))
    rows = ledger.as_json(1)["links"]
    assert [(row["outlet"], row["sent"]) for row in rows] == [("good", 3), ("bad", 4)]
    assert ledger.balanced


@pytest.mark.parametrize(
    ("final", "problem"),
    [
        (None, "map.1 gave no final account"),
        (
            snapshot("map", [link("sink", 9, 5, 4)], received=9, queued=2, in_process=1, waiting_for=["read.1"]),
            "map.1 is RUNNING, holds 2 queued, 1 in process, 5 in flight to sink, 4 unsent to sink, waits for read.1",
        ),
        (snapshot("map", state="FLUSHED"), "map.1 is FLUSHED, holds nothing"),
        (stopped("map", received=1, queued=1), "map.1 stopped, but holds 1 queued"),
        (stopped("map", received=3, completed=1), "map.1: received 3 is not completed 1"),
        (stopped("map", received=9, finished=8), "map.1 read 9 messages, of which 8 are finished"),
    ],
)
def test_who_holds_what_is_said(final: dict[str, Any] | None, problem: str) -> None:
    ledger = RunLedger(config(CHAIN))
    ledger.final(stopped("read", [link("map")], finished=0))
    ledger.final(stopped("sink"))
    if final is not None:
        ledger.final(final)
    assert not ledger.balanced
    assert len(ledger.problems()) == 1
    assert ledger.problems()[0].startswith(problem)
    value = ledger.as_json(1)
    assert value["problems"] == ledger.problems()
    assert not value["balanced"]


def test_an_instance_killed_and_not_started_again_is_missing() -> None:
    ledger = balanced_ledger()
    ledger = RunLedger(config(CHAIN))
    ledger.final(stopped("read", [link("map")], finished=0))
    ledger.final(stopped("sink"))
    ledger.killed(snapshot("map"))
    assert ledger.problems() == ["map.1 gave no final account"]
