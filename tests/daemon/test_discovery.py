"""When an upstream instance is looked for, and that it is connected to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from zpipe.config import PipelineConfig, load
from zpipe.core import events
from zpipe.core.policy import StagePolicy
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import Identity
from zpipe.daemon.discovery import Discovery
from zpipe.runtime import environment
from zpipe.runtime.places import Places
from zpipe.testing.node import seeded_bytes
from zpipe.transport.sockets import Sockets

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"

[stages.drop]
input = "read"
plugin = "discard"
"""


@pytest.fixture
def config(home: Path) -> PipelineConfig:
    """Nothing of it runs yet."""
    path = home / "p.toml"
    path.write_text(CONFIG)
    return load(path)


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with closing(Sockets()) as made:
        yield made


def connected(sockets: Sockets) -> tuple[str, int]:
    """The first upstream instance that is connected to."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for arrival in sockets.poll(0.1):
            if arrival.what == "up":
                return arrival.key  # type: ignore[no-any-return]
    raise AssertionError("nobody is connected")


class Watches:
    """`folders` that were watched;  ends: they are at their end when the descriptor that was given for each is closed."""

    def __init__(self) -> None:
        self.folders: list[Path] = []
        self.ends: list[int] = []

    def __call__(self, folder: Path) -> int:
        if not folder.exists():
            return -1
        end, given = os.pipe2(os.O_NONBLOCK)
        self.folders.append(folder)
        self.ends.append(end)
        return given


@pytest.fixture
def watches() -> Watches:
    return Watches()


@pytest.fixture
def discovery(config: PipelineConfig, sockets: Sockets, watches: Watches) -> Discovery:
    stage = Stage(Identity("p", "drop", 1, "d1"), [("read", "")], [], StagePolicy(), 0.0, seeded_bytes("drop"))
    return Discovery(config, Places(config, os.environ), stage, sockets, watches)


def bind(config: PipelineConfig, instance: int) -> closing[Sockets]:
    places, made = Places(config, os.environ), Sockets()
    addresses = places.addresses("read", instance)
    made.bind(places.inbox("read", instance, "r2"), addresses.feedback, addresses.control, 10)
    return closing(made)


def test_instance_beside_those_of_the_config_is_found_as_soon_as_the_folder_has_changed(
    config: PipelineConfig, sockets: Sockets, discovery: Discovery
) -> None:
    assert discovery.turn(100.25) == 101.0
    Places(config, os.environ).runtime("read", 2).mkdir(parents=True)
    with bind(config, 2):
        assert discovery.turn(100.5) == 101.0
        discovery.look_soon()
        assert discovery.turn(100.5) == 101.0
        assert connected(sockets) == ("read", 2)


def test_an_instance_is_connected_to_when_it_has_bound_its_sockets(
    config: PipelineConfig, sockets: Sockets, discovery: Discovery, watches: Watches
) -> None:
    folder = Places(config, os.environ).runtime("read", 1)
    discovery.turn(100.25)
    assert watches.folders == []
    folder.mkdir(parents=True)
    for now in (100.3, 100.4):
        discovery.look_soon()
        discovery.turn(now)
    assert watches.folders == [folder], "once"
    with pytest.raises(KeyError):
        sockets.tell(("read", 1), b"")
    with bind(config, 1):
        discovery.look_soon()
        discovery.turn(100.5)
        assert connected(sockets) == ("read", 1)
    assert os.read(watches.ends[0], 1) == b""


def test_an_instance_that_binds_its_sockets_unseen_is_connected_to_within_a_second(
    config: PipelineConfig, sockets: Sockets, discovery: Discovery
) -> None:
    discovery.turn(100.25)
    discovery.turn(101.0)
    Places(config, os.environ).runtime("read", 1).mkdir(parents=True)
    with bind(config, 1):
        assert connected(sockets) == ("read", 1)


def test_who_has_left_in_this_run_is_not_waited_for_until_it_comes_back(
    config: PipelineConfig, sockets: Sockets, watches: Watches, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {**os.environ, environment.RUN: "abc"}
    places = Places(config, env)
    stage = Stage(Identity("p", "drop", 1, "d1"), [("read", "")], [], StagePolicy(), 0.0, seeded_bytes("drop"))
    waited_for, handle = list[tuple[str, int]](), stage.handle

    def note(event: events.Event, now: float) -> bool:
        if isinstance(event, events.UpstreamLeft):
            waited_for.append(event.peer)
        return handle(event, now)

    monkeypatch.setattr(stage, "handle", note)
    discovery = Discovery(config, places, stage, sockets, watches)
    places.state("read", 1).mkdir(parents=True)
    for now, mark in enumerate(["", "another run", "abc", "abc", "", "abc"], 100):
        (places.state("read", 1) / "stopped.json").unlink(missing_ok=True)
        if mark:
            Places(config, {**env, environment.RUN: mark}).mark("read", 1, ended=False, snapshot={})
        discovery.turn(float(now))
        assert waited_for == [("read", 1)] * [0, 0, 1, 1, 1, 2][now - 100]
    assert stage.upstreams.waiting_for() == ["read"]
    places.mark("read", 1, ended=True, snapshot={})
    discovery.turn(106.0)
    assert stage.upstreams.waiting_for() == []
