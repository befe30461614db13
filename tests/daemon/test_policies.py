"""What the config says of the consumers of a stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from zpipe.config import load
from zpipe.core.policy import ConsumerPolicy
from zpipe.daemon.stage_policy import SPARE_CONSUMERS, stage_policy

CONFIG = """
[pipeline]
name = "p"
[security]
insecure = true
[stages.read]
plugin = "generate"
[stages.near]
input = "read"
plugin = "discard"
instances = 3
[stages.far]
input = "read"
plugin = "discard"
instances = 1
listen = ["tcp://192.0.2.1:7000", "tcp://192.0.2.2:7000", "tcp://192.0.2.1:7010"]
[stages.last]
input = "far"
plugin = "discard"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "p.toml"
    path.write_text(CONFIG)
    return path


def test_consumers_are_where_the_config_has_them(path: Path, tmp_path: Path) -> None:
    config = load(path)
    root = tmp_path.resolve() / "r"
    assert stage_policy(config, config.stages["read"], root).consumers == {
        "near": ConsumerPolicy(3 + SPARE_CONSUMERS, None, (), (str(root),)),
        "far": ConsumerPolicy(3, 3, ("192.0.2.1", "192.0.2.2"), ()),
    }
    assert stage_policy(config, config.stages["last"], root).consumers == {}


def test_the_codec_is_that_of_the_config(path: Path, tmp_path: Path) -> None:
    path.write_text(CONFIG + 'codec = "cbor"\n')
    config = load(path)
    codecs = {name: stage_policy(config, stage, tmp_path).link.codec for name, stage in config.stages.items()}
    assert codecs == {"read": "msgpack", "near": "msgpack", "far": "msgpack", "last": "cbor"}


def test_a_runtime_folder_may_be_named_by_a_link(path: Path, tmp_path: Path) -> None:
    config = load(path)
    real, link = tmp_path.resolve() / "real", tmp_path.resolve() / "link"
    real.mkdir()
    link.symlink_to(real)
    consumers = stage_policy(config, config.stages["far"], link).consumers
    assert consumers["last"].folders == (str(link), str(real))
