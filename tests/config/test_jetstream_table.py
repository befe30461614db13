"""What the config may say of links through JetStream."""

from __future__ import annotations

from pathlib import Path

import pytest

from zpipe.config import config_record, load
from zpipe.config.pipeline_config import PipelineConfig
from zpipe.errors import ConfigError

HEAD = '[pipeline]\nname = "p"\n[stages.a]\nplugin = "generate"\n'
LINK = 'link = { kind = "jetstream", servers = ["nats://127.0.0.1:4222"] }'
STAGE = f'[stages.b]\nplugin = "discard"\ninput = "a"\n{LINK}\n'


def read(folder: Path, text: str, only: str | None = None, **env: str) -> PipelineConfig:
    path = folder / "p.toml"
    path.write_text(text)
    return load(path, env={"ZPIPE_RUNTIME_DIR": "/run/z", **env}, only=only)


def mistakes(folder: Path, text: str, **env: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as refused:
        read(folder, text, **env)
    return {one.key: one.problem for one in refused.value.mistakes}


def test_both_ends_of_a_link_need_the_network(tmp_path: Path) -> None:
    config = read(tmp_path, HEAD + STAGE + '[stages.c]\nplugin = "discard"\ninput = "a"\n')
    assert {name: stage.traits.needs_network for name, stage in config.stages.items()} == {
        "a": True,
        "b": True,
        "c": False,
    }


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (HEAD + STAGE.replace('input = "a"\n', ""), "stages.b.link", "for a stage with an `input`"),
        (HEAD + STAGE.replace("127.0.0.1", "nats.example"), "stages.b.link.servers[0]", "is not encrypted"),
        (HEAD + STAGE.replace("nats://", "http://"), "stages.b.link.servers[0]", "must be"),
        (HEAD + STAGE.replace("nats://", "nats://me:secret@"), "stages.b.link.servers[0]", "[security.nats]"),
        (HEAD + STAGE.replace(" }", ', max_bytes = "1MiB" }'), "stages.b.link.max_bytes", "at least 16MiB"),
        (HEAD + STAGE.replace('plugin = "discard"', 'command = ["node"]'), "stages.b.link", "speaks ZeroMQ"),
        (HEAD + STAGE + '[security.nats]\npassword = "plain"\n', "security.nats.password", "must be a secret"),
        (HEAD + STAGE + '[security.nats]\nkey = "k.pem"\n', "security.nats.key", "is that of a `cert`"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_a_mistake(tmp_path: Path, text: str, key: str, words: str) -> None:
    assert words in mistakes(tmp_path, text)[key]


@pytest.mark.parametrize(
    "server", ["nats://localhost:1", "nats://127.0.0.1", "nats://[::1]:4222", "tls://nats.example"]
)
def test_loopback_and_tls_need_no_leave(tmp_path: Path, server: str) -> None:
    assert read(tmp_path, HEAD + STAGE.replace("nats://127.0.0.1:4222", server)).stages["b"].link


def test_a_secret_is_in_no_record_and_not_needed_by_whoever_looks_on(tmp_path: Path) -> None:
    text = HEAD + STAGE + '[security.nats]\nusername = "u"\npassword = "${NATS_SECRET}"\n'
    config = read(tmp_path, text, NATS_SECRET="hidden")
    assert config.nats.password == "hidden"
    assert "hidden" not in repr(config)
    record = config_record.write(config_record.make(config, "b", 1, 1.0, tmp_path))
    assert "hidden" not in record
    assert config_record.read(record).config.stages["b"].link == config.stages["b"].link
    assert read(tmp_path, text, only="").stages["b"].link
    assert "NATS_SECRET" in mistakes(tmp_path, text)["security.nats.password"]
