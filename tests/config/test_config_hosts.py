"""Hosts in a config: where instances run, which ports they have, and which keys a pipeline needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_texts import step
from config_types import Problems, Read

from zpipe.config import config_record, trusted_keys
from zpipe.config.loading import report_for
from zpipe.config.topology import advise

KEYS = ("{Js(Xy2V5uPgJXQ9bO.4!i&U5nJ}[-CXke>a8Cd)", "Ws0^iGc@Kb5ve-Z?B8}kY7ybFRvvMPiAz{a}/C[*", "Z" * 40)


def hosts(**tables: str) -> str:
    return "".join(f"[hosts.{name}]\n{keys}\n" for name, keys in tables.items())


TWO = hosts(
    web1=f"address = '10.0.0.1'\nkey = '{KEYS[0]}'",
    web2=f"address = 'web2.example.org'\nkey = ['{KEYS[1]}', '{KEYS[2]}']",
)


def placed(head: str, *tables: str, more: str = TWO, pipeline: str = "") -> str:
    first = f'[pipeline]\nname = "t"\n{pipeline}\n[stages.a]\nplugin = "./source.py"\n{head}'
    return "\n".join([first, *tables, more])


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"ZPIPE_RUNTIME_DIR": "/run/z", "ZPIPE_KEYS_DIR": str(tmp_path)}


def test_instances_have_hosts_and_addresses(read: Read, env: dict[str, str]) -> None:
    config = read(
        placed(
            'host = "web1"',
            step("b", 'instances = 2\nhost = ["web2", { name = "web1", instances = 1 }]'),
            step("c", 'host = "web2"\nport = 9000'),
        ),
        env,
    )
    assert config.stages["b"].hosts == ("web2", "web2", "web1")
    assert config.stages["b"].instances == 3
    assert config.stages["a"].listen == ("tcp://10.0.0.1:7000",)
    web2 = "tcp://web2.example.org"
    assert config.stages["b"].listen == (f"{web2}:7100", f"{web2}:7103", "tcp://10.0.0.1:7100")
    assert config.stages["c"].listen == (f"{web2}:9000",)
    assert config.instances_on("web1") == [("a", 1), ("b", 3)]
    assert [config.host_of("b", n) for n in (0, 1, 3, 4)] == ["", "web2", "web1", ""]
    assert config.has_keys


def test_an_instance_more_moves_no_port_of_another_stage(read: Read, env: dict[str, str]) -> None:
    def ports(count: int) -> list[str]:
        text = placed('host = "web1"', step("b", f'host = "web1"\ninstances = {count}'), step("c", 'host = "web2"'))
        return [address for name in "ac" for address in read(text, env).stages[name].listen]

    assert ports(1) == ports(2)


def test_one_host_needs_neither_ports_nor_keys(read: Read, env: dict[str, str]) -> None:
    config = read(placed('host = "web1"', step("b", 'host = "web1"'), more="[hosts.web1]"), env)
    assert [stage.listen for stage in config.stages.values()] == [(), ()]
    assert not config.has_keys


def test_keys_of_the_pipeline_and_of_the_trusted_file_both_count(
    read: Read, env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / trusted_keys.FILE).write_text(trusted_keys.text({"web1": (KEYS[2], KEYS[0]), "other": (KEYS[1],)}))
    more = TWO.replace(f", '{KEYS[2]}'", "")
    config = read(placed('host = "web1"', step("b", 'host = "web2"'), more=more), env)
    assert config.hosts["web1"].keys == (KEYS[0], KEYS[2])
    assert config.hosts["web2"].keys == (KEYS[1],)
    assert "other" not in config.hosts
    made = config_record.make(config, "a", 1, 1.0, tmp_path)
    assert config_record.read(config_record.write(made)).config.hosts == config.hosts


def test_a_host_whose_keys_were_dropped_is_no_mistake(read: Read, env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / trusted_keys.FILE).write_text("web2 = []\n")
    more = hosts(web1=f"address = 'h'\nkey = '{KEYS[0]}'", web2="address = 'i'")
    assert read(placed('host = "web1"', step("b", 'host = "web2"'), more=more), env).hosts["web2"].keys == ()


@pytest.mark.parametrize(
    ("head", "table", "more", "problem"),
    [
        ("", 'host = "web1"', TWO, "stages.a.host: is required where other stages have one; hosts are web1, web2"),
        (
            'host = "web1"',
            'host = "web3"',
            TWO,
            "stages.b.host: there is no host 'web3'; [hosts] has web1, web2 (did you mean 'web2'?)",
        ),
        (
            'host = "web1"',
            'host = "web2"\nlisten = "tcp://h:1"',
            TWO,
            "stages.b.listen: follows from `host`: leave it out, or state `port`",
        ),
        ("", "port = 5", "", "stages.b.port: is for a stage that has a `host`"),
        (
            'host = "web1"',
            'host = "web1"\nport = 7002',
            TWO,
            "stages.b.port: tcp://10.0.0.1:7002 clashes with tcp://10.0.0.1:7000 of a: each instance uses PORT to PORT + 2;"
            " state another `port`",
        ),
        (
            'host = "web1"',
            'host = "web2"\nport = 65534',
            TWO,
            "stages.b.port: leaves no ports below 65536 for its instances: 65534",
        ),
        (
            'host = "web1"',
            'host = "web2"',
            hosts(web1=f"address = 'h'\nkey = '{KEYS[0]}'", web2="address = 'i'"),
            "hosts.web2.key: is required: `zpipe keys new web2` on it makes one, and `zpipe keys trust` takes it in here; or set"
            ' "insecure = true" in [security]',
        ),
        (
            'host = "web1"',
            'host = "web2"',
            hosts(web1=f"key = '{KEYS[0]}'", web2=f"address = 'i'\nkey = '{KEYS[1]}'"),
            "hosts.web1.address: is required, since stage 'a' runs there and others reach it",
        ),
        (
            'host = "web1"',
            'host = "web2"',
            hosts(web1=f"address = 'h'\nkey = '{KEYS[0]}'", web2=f"address = 'i'\nkey = '{KEYS[0]}'"),
            "hosts.web2.key: has a key that web1 has too: a key tells who somebody is",
        ),
        (
            'host = "web1"',
            'host = "web2"',
            TWO.replace("10.0.0.1", "0.0.0.0"),
            "hosts.web1.address: 0.0.0.0 is every address of its machine: name the one by which the others reach it",
        ),
        (
            'host = "web1"',
            'host = "web2"',
            TWO.replace(KEYS[0], "x"),
            'hosts.web1.key: must be a public key of 40 characters, as `zpipe keys list` shows it, not "x"',
        ),
        (
            'host = "web1"',
            'host = { name = "web2", count = 2 }',
            TWO,
            'stages.b.host: must be the name of a host, or { name = "NAME", instances = N }, not a table',
        ),
    ],
)
def test_what_cannot_be(
    problems: Problems, env: dict[str, str], head: str, table: str, more: str, problem: str
) -> None:
    found = problems(placed(head, step("b", table), more=more), env)
    assert [one.partition(": ")[2] for one in found][:1] == [problem]


def test_without_keys_on_purpose(read: Read, env: dict[str, str]) -> None:
    more = hosts(web1="address = 'h'", web2="address = 'i'") + "[security]\ninsecure = true"
    assert not read(placed('host = "web1"', step("b", 'host = "web2"'), more=more), env).has_keys


def test_a_broken_file_of_trusted_keys_is_named(problems: Problems, env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / trusted_keys.FILE).write_text("web1 = 'short'")
    found = problems(placed('host = "web1"', step("b", 'host = "web2"')), env)
    assert found[0].partition(": ")[
        2
    ] == f"hosts: {tmp_path}/{trusted_keys.FILE}: must be a public key of 40 characters, as " + (
        '`zpipe keys list` shows it, not "short"'
    )


def test_a_stage_in_another_language_has_to_know_keys(read: Read, env: dict[str, str], tmp_path: Path) -> None:
    text = placed('host = "web1"', '[stages.b]\ncommand = ["./b"]\ninput = "a"\nhost = "web2"')
    config = read(text, env)
    report = report_for(config, "p.toml", env)
    advise(config, report)
    assert "stages.b.command" in [mistake.key for mistake in report.mistakes]
