"""Dead letters that are replayed: once the plugin is mended, while the pipeline runs, over a kill, changed before."""

from __future__ import annotations

from dead_letters import BAD, CONFIG, ENDLESS, GOOD, PICKY, dead, kept, replayed, stored
from e2e_types import MakePipeline
from pipeline import wait_until


def test_what_failed_is_stored_once_the_plugin_is_mended(make: MakePipeline) -> None:
    pipeline = make(CONFIG, work=BAD)
    pipeline.run().ledger()
    bad = list(range(7, 1000, 100))
    assert sorted(letter.id for letter in kept(pipeline)) == sorted(f"read:{n}" for n in bad)

    # Not mended yet: each is the same letter, with what is new.
    result = replayed(pipeline, "--all", code=1)
    assert (result["replayed"], result["again"], result["left"]) == (0, 10, 0)
    work = result["ledger"]["stages"]["work"]
    assert (work["received"], work["replayed"], work["dead"]) == (10, 10, 10) and result["ledger"]["balanced"]
    letters = kept(pipeline)
    assert {(letter.attempts, letter.replays) for letter in letters} == {(4, 1)} and len(letters) == 10
    assert letters[0].history[-1].startswith("replay 1, call 2: ValueError: cannot work on ")

    (pipeline.folder / "work.py").write_text(GOOD)
    result = replayed(pipeline, "--reason", "cannot work on", "--stage", "work")
    assert (result["replayed"], result["again"], result["left"]) == (10, 0, 0)
    row = result["ledger"]["stages"]
    assert (row["work"]["received"], row["work"]["completed"], row["store"]["completed"]) == (10, 10, 10)
    assert stored(pipeline) == list(range(1000)) and kept(pipeline) == []

    # The sources were not read, and their positions are as they were: a completed run starts over.
    assert pipeline.position("read") is not None
    assert pipeline.run().ledger()["stages"]["read"]["received"] == 1000


def test_replay_while_it_runs_and_a_letter_changed_before(make: MakePipeline) -> None:
    pipeline = make(ENDLESS, work=PICKY)
    run = pipeline.run()
    # They die in any order: their delays between calls are random.
    wait_until(lambda: {"read:7", "read:107"} <= {letter[0] for letter in pipeline.letters("work")}, "two letters")
    first, second = (next(letter for letter in kept(pipeline) if letter.id == f"read:{n}") for n in (7, 107))
    dead(pipeline, "edit", first.name, "--set", "id=1000000", "--set", 'note="mended by hand"')
    result = replayed(pipeline, first.name)
    assert (result["replayed"], result["again"]) == (1, 0)
    assert pipeline.query("SELECT note FROM t WHERE id = 1000000") == [("mended by hand",)]
    assert replayed(pipeline, second.name, code=1)["again"] == 1

    (pipeline.folder / "mended").touch()
    assert replayed(pipeline, second.name, "--rate", "1000/s")["replayed"] == 1
    assert replayed(pipeline, "--all")["left"] == 0
    assert kept(pipeline) == []
    run.interrupt()
    ledger = run.ledger()
    work = ledger["stages"]["work"]
    assert work["received"] == ledger["stages"]["read"]["received"] + work["replayed"]
    assert stored(pipeline)[:-1] == [n for n in range(ledger["stages"]["read"]["received"]) if n != 7]


def test_a_replay_that_is_killed_goes_on_at_the_next_start(make: MakePipeline) -> None:
    pipeline = make(CONFIG, work=BAD.replace("% 100 == 7", "% 5 == 2"))
    pipeline.run().ledger()
    assert len(pipeline.letters("work")) == 200
    (pipeline.folder / "work.py").write_text(GOOD)
    replay = pipeline.zpipe("dead", "replay", str(pipeline.path), "--all", "--rate", "20/s")
    wait_until(lambda: len(pipeline.letters("work")) < 200, "some are gone")
    pipeline.kill_all()
    left = pipeline.state("SELECT count(*) FROM dead_letters WHERE replay_rate IS NOT NULL", "work")[0][0]
    assert 0 < left < 200 and not replay.running
    assert len(pipeline.letters("work")) == left, "those that are not stored for sure are letters still"

    # One that is chosen now takes all along that were to be replayed.
    replayed(pipeline, "--all", "--rate", "10000/s")
    assert stored(pipeline) == list(range(1000)) and pipeline.letters("work") == []


def test_records_of_a_source_are_not_replayed(make: MakePipeline) -> None:
    text = CONFIG.replace(
        'plugin = "generate"\noptions = { count = 1000 }',
        'plugin = "files"\noptions = { paths = ["in.ndjson"], format = "ndjson" }',
    )
    pipeline = make(text, work=GOOD)
    (pipeline.folder / "in.ndjson").write_text('{"id": 0}\n{"id": 1\n{"id": 2}\n')
    pipeline.run().ledger()
    for wanted in ("read.1/1", "--all"):
        refused = dead(pipeline, "replay", wanted, code=2)
        assert "correct the source and run again with --fresh" in refused.stderr
    dead(pipeline, "drop", "--all")
    assert kept(pipeline) == []


def test_a_letter_that_kills_its_stage_is_a_letter_again_and_the_others_are_replayed(make: MakePipeline) -> None:
    pipeline = make(CONFIG, work=BAD)
    pipeline.run().ledger()
    deadly = 'import os\n\ndef work(payload):\n    if payload["id"] == 307:\n        os._exit(9)\n    return payload\n'
    (pipeline.folder / "work.py").write_text(deadly)
    result = replayed(pipeline, "--all", code=1)
    assert (result["replayed"], result["again"], result["left"]) == (9, 1, 0)
    (letter,) = kept(pipeline)
    assert (letter.id, letter.deaths, letter.replays) == ("read:307", 3, 1)
    assert letter.reason.startswith("its calls ended the process of a worker 3 times")
    assert stored(pipeline) == [n for n in range(1000) if n != 307]


TWO_INPUTS = """
[pipeline]
name = "p"

[stages.left]
plugin = "generate"
options = { count = 3 }

[stages.right]
plugin = "generate"
options = { count = 3 }

[stages.work]
input = ["left", "right"]
plugin = "./work.py"
retry = { attempts = 1 }

[stages.store]
input = "work"
plugin = "ndjson"
options = { path = "out" }
"""
SAYS_ITS_INPUT = """
from pathlib import Path
from zpipe import hookimpl

@hookimpl
def zpipe_process(message):
    if not Path(__file__).with_name("mended").exists():
        raise ValueError(f"by {message.source}")
    return {"id": message.id, "by": message.source}
"""


def test_a_replayed_letter_says_by_which_of_several_inputs_it_came(make: MakePipeline) -> None:
    pipeline = make(TWO_INPUTS, work=SAYS_ITS_INPUT)
    pipeline.run().ledger()
    assert {letter.source for letter in kept(pipeline)} == {"left", "right"}
    (pipeline.folder / "mended").touch()
    assert replayed(pipeline, "--all")["replayed"] == 6
    rows = pipeline.lines("out")
    assert len(rows) == 6 and all(row["id"].startswith(f"{row['by']}:") for row in rows)
