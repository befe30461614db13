"""What unit files say. Those of whole pipelines are kept in golden/; `python tests/systemd/test_units_text.py` writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from zpipe.config import load
from zpipe.units import install, rolling_restart, unit_files
from zpipe.units.unit_names import Unit, config_path, parse

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs"
ENV = {"ZPIPE_RUNTIME_DIR": "/run/zpipe", "STDLIB": "/usr/lib/python3"}
TEMPLATES = (unit_files.TEMPLATE, unit_files.MONITOR)
GOLDEN = {
    "hosts": HERE / "golden" / "hosts.toml",
    "metered": HERE / "golden" / "metered.toml",
    "steady": CONFIGS / "steady.toml",
    "tcp": HERE / "golden" / "tcp.toml",
}


def settings(template: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in template.replace("\\\n", "").splitlines():  # a setting goes on behind a backslash
        key, equals, setting = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(setting)
    return found


def rendered(path: Path) -> str:
    """All files but the template, one after the other."""
    config = load(path, env=ENV, only="")
    host = next(iter(config.hosts), "")
    made = unit_files.files(config, dict.fromkeys(TEMPLATES, ""), "/opt/zpipe/bin/zpipe", host)
    return "".join(f"==> {name}\n{made[name]}\n" for name in sorted(made) if name not in TEMPLATES)


@pytest.mark.parametrize("name", GOLDEN)
def test_files_of_a_pipeline(name: str) -> None:
    assert rendered(GOLDEN[name]) == (HERE / "golden" / f"{name}.txt").read_text()


def test_an_encrypted_key_has_no_path() -> None:
    config = load(GOLDEN["hosts"], env=ENV, only="")
    made = unit_files.files(config, dict.fromkeys(TEMPLATES, ""), "/srv/zpipe", "web1", encrypted=True)
    keys = [settings(made[name]).get("LoadCredentialEncrypted") for name in made if "read.1" in name]
    assert keys == [["web1.key"]]
    assert not any("LoadCredential=" in text for text in made.values())


def test_a_rolling_restart_goes_from_the_tail_to_the_head() -> None:
    config = load(CONFIGS / "steady.toml", env=ENV, only="")
    units = [f"zpipe@steady.{one}.service" for one in ("read.1", "square.2", "square.10", "square.1", "store.1")]
    order = rolling_restart.tail_first(config, ["zpipe-monitor@steady.service", *units])
    assert [name.removeprefix("zpipe@steady.").removesuffix(".service") for name in order] == [
        "store.1", "square.1", "square.2", "square.10", "read.1", "zpipe-monitor@steady",
    ]  # fmt: skip


def test_template_is_shipped_with_the_path_that_is_replaced() -> None:
    shipped = install.templates()
    assert f"\nExecStart={unit_files.PROGRAM} stage --unit %i\n" in shipped[unit_files.TEMPLATE]
    assert f"\nExecStart={unit_files.PROGRAM} monitor /etc/zpipe/%i.toml --prometheus\n" in shipped[unit_files.MONITOR]
    made = unit_files.files(load(GOLDEN["metered"], env=ENV, only=""), shipped, "/srv/zpipe")
    for name, times in ((unit_files.TEMPLATE, 2), (unit_files.MONITOR, 1)):
        assert unit_files.PROGRAM not in made[name]
        assert made[name].count("/srv/zpipe ") == shipped[name].count(f"{unit_files.PROGRAM} ") == times


def test_metrics_have_a_unit_only_where_the_config_says_where_they_are_served() -> None:
    made = unit_files.files(load(CONFIGS / "steady.toml", env=ENV, only=""), install.templates(), "/srv/zpipe")
    assert not any("zpipe-monitor" in name + content for name, content in made.items() if name != unit_files.TEMPLATE)


def test_a_unit_gets_the_credentials_that_its_stage_reads(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        """
[pipeline]
name = "c"
[telemetry]
prometheus = "${credential:address}"
[stages.a]
plugin = "generate"
options = { fields = { a = "${credential:one} ${credential:two}", b = ["${credential:one}", "$${credential:none}"] } }
[stages.b]
plugin = "discard"
input = "a"
"""
    )
    (tmp_path / "address").write_text("127.0.0.1:9464")
    env = ENV | {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    made = unit_files.files(load(path, env=env, only=""), dict.fromkeys(TEMPLATES, ""), "/srv/zpipe")
    loaded = {name: settings(content).get("LoadCredential") for name, content in made.items() if name.endswith(".conf")}
    assert loaded[unit_files.drop_in_path("zpipe@c.a.1.service")] == ["address", "one", "two"]
    assert loaded[unit_files.drop_in_path("zpipe@c.b.8.service")] == ["address"]
    assert loaded[unit_files.drop_in_path("zpipe-monitor@c.service")] == ["address"]


def test_the_monitor_is_shut_in_like_a_stage() -> None:
    """Whatever both templates set is set to the same, but for what only one of them needs."""
    stage, monitor = (settings(install.templates()[name]) for name in (unit_files.TEMPLATE, unit_files.MONITOR))
    folders = {f"{kind}Directory{what}" for kind in ("Runtime", "State") for what in ("", "Mode", "Preserve")}
    watched = {
        "WatchdogSec",
        "TimeoutAbortSec",
        "OOMPolicy",
        "ExecReload",
        "ExecStopPost",
        "ReadWritePaths",
        "KillMode",
    }
    network = {"PrivateNetwork", "RestrictAddressFamilies"}
    log = {"SyslogIdentifier", "SyslogLevelPrefix", "SyslogLevel"}
    differ = {key for key in stage | monitor if stage.get(key) != monitor.get(key)}
    assert differ <= folders | watched | network | log | {"Description", "ExecStart", "IPAddressAllow"} | {
        "TimeoutStartSec",
        "TimeoutStopSec",
    }


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("/opt/zpipe/bin/zpipe", "/opt/zpipe/bin/zpipe"),
        ("/srv/a b/zpipe", '"/srv/a b/zpipe"'),
        ("/srv/50%/$x/zpipe", '"/srv/50%%/$$x/zpipe"'),
        ('/srv/"q"\\/zpipe', '"/srv/\\"q\\"\\\\/zpipe"'),
    ],
)
def test_program_as_systemd_reads_it(program: str, line: str) -> None:
    assert unit_files.quoted(program) == line


@pytest.mark.parametrize("program", ["zpipe", "/srv/a\nExecStart=/bin/evil"])
def test_program_that_no_unit_can_call(program: str) -> None:
    with pytest.raises(ValueError, match="absolute and of one line"):
        unit_files.quoted(program)


def test_names_read_back() -> None:
    unit = Unit("my-pipe", "a_b", 12)
    assert parse(str(unit)) == unit
    assert unit.config == config_path("my-pipe") == Path("/etc/zpipe/my-pipe.toml")
    assert unit_files.service_name(unit) == "zpipe@my-pipe.a_b.12.service"


def test_drop_ins_of_other_pipelines_are_not_ours() -> None:
    path = unit_files.drop_in_path(unit_files.service_name(Unit("steady", "store", 1)))
    assert unit_files.is_drop_in_of("steady", path)
    assert not unit_files.is_drop_in_of("stead", path)
    assert not unit_files.is_drop_in_of("s.eady", path)
    assert not unit_files.is_drop_in_of("steady", path.replace("50-pipeline", "60-mine"))


if __name__ == "__main__":
    for golden, config in GOLDEN.items():
        (HERE / "golden" / f"{golden}.txt").write_text(rendered(config))
