"""When a tap is over, as far as the marks on disk tell it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from zpipe.config import load
from zpipe.folders import make_private
from zpipe.operate.tap_subscription import TapSubscription
from zpipe.runtime.places import Places

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"

[stages.take]
input = "read"
plugin = "discard"
"""
LIMIT_S = 60.0


def test_a_tap_is_over_when_its_instance_has_left_a_mark(home: Path) -> None:
    """Its announcement that it stops may be lost with its socket, and outside a run there is nothing else to go by."""
    path = home / "p.toml"
    path.write_text(CONFIG)
    config = load(path)
    places = Places(config, os.environ)
    make_private(places.runtime("take", 1))
    make_private(places.state("take", 1))
    places.mark("take", 1, False, {"of": "an earlier life"})
    tap = TapSubscription(config, os.environ, [("take", 1)], 10)
    try:
        tap.heard.add(("take", 1))
        tap.poll(0.0)
        assert not tap.over, "that mark is older than the tap"
        places.mark("take", 1, False, {"of": "the life that was tapped"})
        deadline = time.monotonic() + LIMIT_S
        while not tap.over and time.monotonic() < deadline:
            tap.poll(0.05)
        assert tap.over
    finally:
        tap.close()
