"""`zpipe` as PID 1 of a container, as docs/containers.md has it: it runs with little, ends in order, and leaves no zombies."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from container import Container
from pipeline import wait_until

CONFIG = """
[pipeline]
name = "boxed"

[telemetry]
interval = "200ms"

[stages.read]
plugin = "generate"
options = { rate = 200 }

[stages.work]
input = "read"
plugin = "python"
workers = { count = 2, kind = "process" }
options = { function = "work.py:work" }

[stages.store]
input = "work"
plugin = "ndjson"
options = { path = "/var/lib/zpipe/out.ndjson" }
"""
WORK = """
def work(payload):
    return payload
"""
LEAVES_ORPHANS = """
import subprocess

def work(payload):
    # sh ends at once, and nobody of this container is the parent of its child any more
    pid = subprocess.run(["sh", "-c", "sleep 0.01 >&- & echo $!"], capture_output=True, text=True, check=True).stdout
    return {"pid": int(pid)}
"""
PATH = "/etc/zpipe/boxed.toml"

pytestmark = pytest.mark.needs("containers")

MakeContainer = Callable[..., Container]


@pytest.fixture
def make(home: Path) -> Iterator[MakeContainer]:
    """make(arguments of zpipe…, work=source of work.py): a container with the pipeline's config."""
    made: list[Container] = []

    def make_one(*arguments: str, work: str = WORK, **options: object) -> Container:
        configs = home / "configs"
        configs.mkdir(exist_ok=True)
        (configs / "boxed.toml").write_text(CONFIG)
        (configs / "work.py").write_text(work)
        made.append(Container(home, configs, *arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make_one
    for container in made:
        container.end()


def check(container: Container) -> int:
    """The exit code of the HEALTHCHECK."""
    return container.zpipe("monitor", PATH, "--check", "--timeout", "2").returncode


def wait_healthy(container: Container) -> None:
    wait_until(lambda: check(container) == 0, "the health check is passed")


def drained(container: Container) -> dict[str, dict[str, int]]:
    container.send(signal.SIGTERM)
    assert container.wait() == 0, container.stderr
    ledger = json.loads(container.stdout.splitlines()[-1])
    assert ledger["balanced"], ledger
    return ledger["stages"]  # type: ignore[no-any-return]


def test_a_pipeline_runs_with_little_and_drains_on_sigterm(make: MakeContainer) -> None:
    container = make("run", PATH, "--json")
    wait_healthy(container)
    little = (
        "id -u; test -e /run/user || echo none; touch /etc/zpipe/x /x 2>&1; df --output=size -B1M /dev/shm | tail -1"
    )
    uid, user, *refused, shm = container.execute("sh", "-c", little).stdout.split("\n")[:-1]
    assert (uid, user, shm.strip()) == ("10001", "none", "64")
    assert [line.rpartition(": ")[2] for line in refused] == ["Read-only file system"] * 2
    stages = drained(container)
    out = (container.volume / "out.ndjson").read_text().splitlines()
    assert stages["read"]["received"] == len(out) > 0


def test_the_next_container_goes_on_from_the_volume(make: MakeContainer) -> None:
    first = make("run", PATH, "--json")
    wait_healthy(first)
    before = drained(first)["read"]["received"]
    second = make("run", PATH, "--json")
    wait_healthy(second)
    after = drained(second)["read"]["received"]
    numbers = [json.loads(line)["id"] for line in (second.volume / "out.ndjson").read_text().splitlines()]
    assert sorted(numbers) == list(range(numbers[0], numbers[0] + before + after))


def test_volumes_that_kubernetes_lets_everyone_write_to(make: MakeContainer) -> None:
    """An emptyDir has mode 0777; with an fsGroup the kubelet gives the group rights below a volume at each start of a pod."""
    first = make("run", PATH, "--json", tmp_mode="777", volume_mode=0o2777)
    wait_healthy(first)
    drained(first)
    for path in (first.volume / "state").rglob("*"):
        path.chmod(path.stat().st_mode | (0o2070 if path.is_dir() else 0o060))
    second = make("run", PATH, "--json", tmp_mode="777")
    wait_healthy(second)
    drained(second)


def test_orphans_of_a_plugin_are_reaped(make: MakeContainer) -> None:
    container = make("run", PATH, "--json", work=LEAVES_ORPHANS)
    out = container.volume / "out.ndjson"
    wait_until(lambda: out.exists() and len(out.read_text().splitlines()) >= 20, "20 orphans were left")
    orphans = {json.loads(line)["pid"] for line in out.read_text().rpartition("\n")[0].splitlines()}
    wait_until(lambda: not orphans & container.processes().keys(), "no orphan is there any more, not even as a zombie")
    drained(container)


def test_the_health_check_finds_a_stage_that_hangs(make: MakeContainer) -> None:
    container = make("run", PATH, "--json")
    wait_healthy(container)
    find = "grep -lz store /proc/[0-9]*/cmdline | head -1 | cut -d/ -f3"
    pid = container.execute("sh", "-c", find).stdout.strip()
    container.execute("sh", "-c", f"kill -STOP {pid}")
    assert check(container) == 1
    container.execute("sh", "-c", f"kill -CONT {pid}")
    wait_healthy(container)
    drained(container)


def test_a_stage_leaves_on_sigterm(make: MakeContainer) -> None:
    container = make("stage", PATH, "store", "--log-level", "info")
    wait_until(lambda: "event=ready" in container.stderr, "it is ready")
    container.send(signal.SIGTERM)
    assert container.wait() == 0, container.stderr


def test_a_command_that_has_no_handler_ends_on_sigterm(make: MakeContainer) -> None:
    """The kernel drops signals of a PID 1 that has none."""
    container = make("monitor", PATH, "--once", "--timeout", "1h")
    wait_until(lambda: container.children, "PID 1 has started its child")
    container.send(signal.SIGTERM)
    assert container.wait() == 128 + signal.SIGTERM


def test_a_killed_command_is_told_by_the_exit_code(make: MakeContainer) -> None:
    container = make("stage", PATH, "store", "--log-level", "info")
    wait_until(lambda: "event=ready" in container.stderr, "it is ready")
    container.execute("sh", "-c", "kill -KILL $(cat /tmp/zpipe-10001/boxed.store.1/lock | head -1)")
    assert container.wait() == 128 + signal.SIGKILL
