"""Dead letters that leave by an outlet of their own, and what stops a stage that makes too many of them."""

from __future__ import annotations

from dead_letters import BAD, CONFIG, PICKY, replayed, stored
from e2e_types import MakePipeline
from pipeline import wait_until


def test_dead_letters_go_to_the_stage_that_reads_them(make: MakePipeline) -> None:
    text = CONFIG.replace(
        "[telemetry]",
        '[stages.bad]\ninput = ["work.dead", "read.dead"]\nplugin = "ndjson"\noptions = { path = "bad.ndjson" }\n\n[telemetry]',
    )
    pipeline = make(text, work=BAD)
    ledger = pipeline.run().ledger()
    assert ledger["stages"]["work"]["dead"] == ledger["stages"]["bad"]["received"] == 10
    assert pipeline.letters("work") == []
    bad = list(range(7, 1000, 100))
    lines = sorted(pipeline.lines("bad.ndjson"), key=lambda line: line["payload"]["id"])
    assert [(line["id"], line["stage"], line["payload"]) for line in lines] == [
        (f"read:{n}", "work", {"id": n}) for n in bad
    ]
    assert {(line["attempts"], line["deaths"], len(line["history"])) for line in lines} == {(2, 0, 2)}
    assert lines[0]["reason"] == "ValueError: cannot work on 7" and "in work" in lines[0]["traceback"]
    assert stored(pipeline) == [n for n in range(1000) if n not in bad]


def test_a_full_store_stops_the_stage_until_there_is_room(make: MakePipeline) -> None:
    text = CONFIG.replace(
        "[stages.store]", "[stages.work.dead]\nmessages = 3\n[stages.work.queue]\nmessages = 50\n\n[stages.store]"
    )
    pipeline = make(text, work=PICKY)
    run = pipeline.run()
    wait_until(lambda: "dead letters at their limit of 3" in run.stderr, "it says that it is held")
    with pipeline.watch() as watch:

        def held() -> bool:
            watch.poll(0.1)
            return "limit of 3" in watch.snapshots.get(("work", 1), {}).get("stopped_by", "")

        wait_until(held, "the snapshot says it")
    wait_until(lambda: len(pipeline.letters("work")) >= 3, "they are on the disk")
    assert len(pipeline.letters("work")) <= 5, "what was in process ends, and nothing more begins"
    (pipeline.folder / "mended").touch()
    assert replayed(pipeline, "--all")["left"] == 0
    run.ledger()
    assert "stage.resumed" in run.stderr
    assert stored(pipeline) == list(range(1000)) and pipeline.letters("work") == []


def test_a_storm_stops_the_stage_until_it_is_resumed(make: MakePipeline) -> None:
    always = PICKY.replace('payload["id"] % 100 == 7 and ', "")
    pipeline = make(CONFIG.replace("attempts = 2", "attempts = 1"), work=always)
    run = pipeline.run()
    wait_until(lambda: "circuit breaker" in run.stderr, "it says that it is held")
    shown = pipeline.zpipe("monitor", str(pipeline.path), "--once")
    assert shown.wait() == 0 and "zpipe resume has it go on" in " ".join(shown.stdout.split())
    (pipeline.folder / "mended").touch()
    resumed = pipeline.zpipe("resume", str(pipeline.path), "work")
    assert resumed.wait() == 0
    lost = run.ledger()["stages"]["work"]["dead"]
    assert 100 <= lost < 1000, "it did not empty the source into the dead letters"
    assert replayed(pipeline, "--all")["replayed"] == lost
    assert stored(pipeline) == list(range(1000))
