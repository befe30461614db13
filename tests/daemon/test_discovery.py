"""When an upstream instance is looked for, and that it is connected to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from zpipe.config import PipelineConfig, load
from zpipe.core.policy import StagePolicy
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import Identity
from zpipe.daemon.discovery import Discovery
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


def test_instance_beside_those_of_the_config_is_found_as_soon_as_the_folder_has_changed(
    config: PipelineConfig, sockets: Sockets
) -> None:
    places = Places(config, os.environ)
    stage = Stage(Identity("p", "drop", 1, "d1"), [("read", "")], [], StagePolicy(), 0.0, seeded_bytes("drop"))
    discovery = Discovery(config, places, stage, sockets)
    assert discovery.turn(100.25) == 101.0
    places.runtime("read", 2).mkdir(parents=True)
    addresses = places.addresses("read", 2)
    with closing(Sockets()) as second:
        second.bind(places.inbox("read", 2, "r2"), addresses.feedback, addresses.control, 10)
        assert discovery.turn(100.5) == 101.0
        discovery.look_soon()
        assert discovery.turn(100.5) == 101.0
        assert connected(sockets) == ("read", 2)
