"""The image, and containers of both compose files, by podman: they run, are healthy, go on where they were, and end in order."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from podman import CONFIG, FILES, IMAGE, UID, Composition, output, run, wait_until

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("image")]

MakeComposition = Callable[[str], Composition]
READ_METRICS = "import urllib.request; print(urllib.request.urlopen('http://localhost:9464/metrics').read().decode())"
HOSTS = ("read-1", "square-1", "square-2", "store-1", "monitor")


def rows(database: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT id, square FROM squares ORDER BY id").fetchall()


def assert_whole(stored: list[tuple[int, int]]) -> None:
    """Every number up to the last, once."""
    assert stored == [(number, number**2) for number in range(len(stored))]


def test_the_image_names_what_it_is_made_of() -> None:
    assert output("podman", "run", "--rm", "--network=none", IMAGE, "--version").startswith("zpipe ")
    assert "(commit tested, " in output("podman", "run", "--rm", "--network=none", IMAGE, "--version")


def test_a_pipeline_in_one_container(make: MakeComposition) -> None:
    composition = make("pipeline")
    composition.up()
    wait_until(lambda: composition.is_healthy("numbers"), "the container is healthy")
    what = "id -u; test -e /run/user || echo none; touch /etc/zpipe/x /x 2>&1; df --output=size -B1M /dev/shm | tail -1"
    uid, user, *refused, shm = composition.execute("numbers", "sh", "-c", f"{what}; true").split("\n")[:-1]
    assert (uid, user) == (str(UID), "none")
    assert len(refused) == 2 and all("Read-only file system" in line or "Permission denied" in line for line in refused)
    assert int(shm) <= 64
    composition.execute("numbers", "sh", "-c", "sleep 0.01 & true")
    states = "cut -d' ' -f3 /proc/[0-9]*/stat 2>/dev/null; true"
    wait_until(lambda: "Z" not in composition.execute("numbers", "sh", "-c", states), "the orphan has been reaped")
    assert composition.stop("numbers") == 0
    assert "the ledger balances" in composition.logs("numbers")
    database = composition.volume("state") / "numbers.db"
    before = rows(database)
    assert before
    assert_whole(before)
    output("podman", "start", composition.container("numbers"))
    wait_until(lambda: composition.is_healthy("numbers"), "it is healthy again")
    wait_until(lambda: len(rows(database)) > len(before), "it goes on from the volume")
    assert composition.stop("numbers") == 0
    assert_whole(rows(database))


def test_a_container_for_each_instance(make: MakeComposition) -> None:
    composition = make("stages")
    composition.make_keys(*HOSTS)
    composition.up()
    wait_until(lambda: composition.is_healthy("monitor"), "the pipeline is healthy")
    database = composition.volume("store-1") / "numbers.db"

    # One of two leaves, and comes back; then a stage that has no other is killed.
    assert composition.stop("square-1") == 0
    before = len(rows(database))
    wait_until(lambda: len(rows(database)) > before, "the other one goes on")
    output("podman", "start", composition.container("square-1"))
    wait_until(lambda: composition.is_healthy("monitor"), "the pipeline is healthy again")
    output("podman", "kill", composition.container("store-1"))
    output("podman", "wait", composition.container("store-1"))
    output("podman", "start", composition.container("store-1"))
    wait_until(lambda: composition.is_healthy("monitor"), "the pipeline is healthy once more")

    assert "zpipe_instances{" in composition.execute("monitor", "python3", "-c", READ_METRICS)
    assert "the ledger balances" in composition.execute("monitor", "zpipe", "drain", CONFIG)
    for host in HOSTS[:-1]:
        assert composition.exit_code(host) == 0, composition.logs(host)
    assert_whole(rows(database))
    for host in HOSTS[:-1]:
        assert "Traceback" not in composition.logs(host)


def test_the_pod_of_the_manifest(make: MakeComposition, tmp_path: Path) -> None:
    """`podman kube play` has no StatefulSet: this is what its template makes, with the ConfigMap and the claim it names."""
    configs = {name: (FILES / "pipeline" / name).read_text() for name in ("pipeline.toml", "squares.py")}
    [stateful] = (
        one
        for one in yaml.safe_load_all((FILES / "pipeline/kubernetes.yaml").read_text())
        if one["kind"] == "StatefulSet"
    )
    template = stateful["spec"]["template"]
    template["spec"]["volumes"].append({"name": "state", "persistentVolumeClaim": {"claimName": "numbers-state"}})
    documents = (
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "numbers"}, "data": configs},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "numbers", **template["metadata"]},
            "spec": template["spec"],
        },
    )
    played = tmp_path / "pod.yaml"
    played.write_text(yaml.safe_dump_all(documents))
    output("podman", "kube", "play", "--network=none", str(played))
    try:
        wait_until(
            lambda: run("podman", "exec", "numbers-zpipe", "zpipe", "monitor", CONFIG, "--check").returncode == 0,
            "it is well",
        )
        wait_until(
            lambda: 'state="RUNNING"' in run("podman", "exec", "numbers-metrics", "python3", "-c", READ_METRICS).stdout,
            "its metrics are served",
        )
        output("podman", "stop", "numbers-zpipe")
        assert output("podman", "wait", "numbers-zpipe").strip() == "0"
    finally:
        run("podman", "kube", "down", "--force", str(played))
