"""`zpipe run` beside what is not its own: refused before it starts anything, and it orders nobody but its instances."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from e2e_types import MakePipeline
from pipeline import Command, Pipeline, wait_until
from ports import free_ports

CONFIG = """
[pipeline]
name = "p"

[telemetry]
interval = "100ms"

[stages.read]
plugin = "generate"
options = {{ rate = 500 }}
{read}

[stages.store]
input = "read"
plugin = "sqlite"
batch = {{ messages = 20, timeout = "50ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
{store}
"""
IPC = CONFIG.format(read="", store="")
SOON_S = 60.0


def production(pipeline: Pipeline) -> dict[str, Command]:
    """The pipeline as `zpipe stage` processes that belong to no run, under way."""
    stages = {stage: pipeline.stage(stage) for stage in ("read", "store")}
    wait_until(lambda: pipeline.count() > 0, "something is stored", SOON_S)
    return stages


def assert_untouched(pipeline: Pipeline, stages: dict[str, Command]) -> None:
    stored = pipeline.count()
    wait_until(lambda: pipeline.count() > stored + 200, "it goes on", SOON_S)
    for name, stage in stages.items():
        assert stage.running, (name, stage.stderr)
        assert "event=leaving" not in stage.stderr


def test_a_run_beside_instances_that_run_is_refused_with_their_owner(make: MakePipeline) -> None:
    pipeline = make(IPC)
    stages = production(pipeline)
    run = pipeline.run()
    assert run.wait(SOON_S) == 1
    assert "pipeline 'p' is running already" in run.stderr
    assert f"read.1 (pid {stages['read'].pid}, user " in run.stderr
    assert f"`zpipe drain {pipeline.path}`" in run.stderr
    assert len(run.stderr.splitlines()) == 1, run.stderr
    assert run.stdout == "", "no ledger of a run that never was"
    assert_untouched(pipeline, stages)


def test_a_drain_of_a_run_leaves_instances_alone_that_only_share_its_addresses(make: MakePipeline) -> None:
    """Folders of another user, so that no lock is seen, and the same tcp addresses: the run hears them, and asks nothing."""
    ports = [f'listen = ["tcp://127.0.0.1:{port}"]' for port in free_ports(2)]
    pipeline = make(CONFIG.format(read=ports[0], store=ports[1]) + "\n[security]\ninsecure = true\n")
    stages = production(pipeline)
    (pipeline.home / "other").mkdir()
    others = {"ZPIPE_RUNTIME_DIR": str(pipeline.home / "o"), "ZPIPE_STATE_DIR": str(pipeline.home / "other")}
    run = Command(["run", str(pipeline.path), "--json"], pipeline.home, pipeline.env | others)
    try:
        wait_until(lambda: "event=stage.died" in run.stderr, "its instances cannot bind")
        run.interrupt()
        assert run.wait() == 1, run.stderr
    finally:
        run.end()
    assert "Address already in use" in run.stderr
    assert_untouched(pipeline, stages)


@pytest.mark.needs("root")
@pytest.mark.parametrize("kind", ["r", "s"])
def test_a_folder_of_another_user_is_refused_before_anything_starts(make: MakePipeline, kind: str) -> None:
    pipeline = make(IPC)
    theirs = pipeline.home / kind / "p.store.1"
    theirs.mkdir(mode=0o700, parents=True)
    os.chown(theirs, 65534, 65534)
    run = pipeline.run()
    assert run.wait(SOON_S) == 1
    assert run.stderr.startswith(
        f"zpipe: {theirs} belongs to user nobody, not to root: run this as nobody, or set $ZPIPE"
    )
    assert len(run.stderr.splitlines()) == 1, run.stderr
    assert [entry.name for root in "rs" for entry in entries(pipeline.home / root)] == ["p.store.1"], "nothing was made"


def entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.exists() else []


def test_a_run_does_not_start_again_what_a_service_manager_started(make: MakePipeline) -> None:
    """It is a neighbour as any other, but belongs to its manager, which starts it again itself."""
    pipeline = make(IPC)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > 100 or not run.running, "the run works", SOON_S)
    pipeline.env["NOTIFY_SOCKET"] = str(pipeline.home / "notify")
    managed = pipeline.stage("store", 2)
    with pipeline.watch() as watch:
        wait_until(
            lambda: watch.poll(0.0) and watch.snapshots.get(("store", 2), {}).get("completed"),
            "it has its share",
            SOON_S,
        )
        assert watch.snapshots["store", 2]["run"] == ""
        assert watch.snapshots["store", 1]["run"] != ""
    managed.end()
    stored = pipeline.count()
    wait_until(lambda: pipeline.count() > stored + 1500, "three seconds pass, in which a run looks three times", SOON_S)
    run.interrupt()
    ledger = run.ledger(SOON_S)
    assert "stage.adopted" not in run.stderr
    store, link = ledger["stages"]["store"], ledger["links"][0]
    assert store["unknown"] > 0
    assert store["completed"] + store["unknown"] == link["acked"] == pipeline.count()
