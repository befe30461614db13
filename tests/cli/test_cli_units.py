"""`zpipe units`, and `--unit` of the commands that units call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_types import Call
from click.testing import Result

from zpipe.errors import ExitCode, ZpipeError
from zpipe.units import install, unit_files, unit_names

PRIVATE_PROGRAM = "/" + "home/ada/zpipe"

TWO = """
[pipeline]
name = "two"
[stages.read]
plugin = "generate"
[stages.work]
input = "read"
plugin = "discard"
instances = 2
listen = ["tcp://127.0.0.1:7400", "tcp://127.0.0.1:7410"]
[security]
insecure = true
"""


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /etc/zpipe."""
    folder = tmp_path / "etc" / "zpipe"
    folder.mkdir(parents=True)
    monkeypatch.setattr(unit_names, "SYSTEM_CONFIGS", folder)
    return folder


def problem(result: Result) -> str:
    assert isinstance(result.exception, ZpipeError), result.output
    assert result.exception.exit_code == ExitCode.USAGE
    return str(result.exception)


def units(root: Path) -> dict[str, str]:
    folder = root / install.FOLDER
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_shows_a_diff_and_writes_nothing(call: Call, good: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shown = call("units", good, "--root", root)
    assert shown.return_value == ExitCode.DONE
    assert f"+++ {root}/etc/systemd/system/zpipe-good.target\n" in shown.stdout
    assert "\n+Wants=zpipe@good.map.1.service zpipe@good.map.2.service\n" in shown.stdout
    assert not root.exists()


def test_installs_once(call: Call, good: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    first = call("units", good, "--root", root, "--install")
    created = first.stdout.splitlines()
    assert f"create {root}/etc/systemd/system/zpipe@.service" in created
    # the template, the target, one head, two stages of which each may grow to eight
    assert len(created) == len(units(root)) == 2 + 1 + 8 + 8
    before = units(root)
    assert call("units", good, "--root", root, "--install").stdout == "nothing to change\n"
    assert call("units", good, "--root", root).stdout == ""
    assert units(root) == before


def test_replaces_what_differs_and_removes_what_is_gone(call: Call, good: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    folder = root / install.FOLDER
    call("units", good, "--root", root, "--install")
    mine = folder / "zpipe@good.errors.1.service.d" / "90-mine.conf"
    mine.write_text("[Service]\nMemoryMax=1G\n")
    other = folder / "zpipe@goodness.errors.1.service.d" / "50-pipeline.conf"
    other.parent.mkdir()
    other.write_text("another pipeline's\n")
    (folder / "zpipe@.service").write_text("# an old one\n")
    text = good.read_text()
    good.write_text(text[: text.index("[stages.errors]")].replace("instances = 2", "instances = 9"))

    shown = call("units", good, "--root", root)
    assert "\n-# an old one\n" in shown.stdout
    assert f"--- {folder}/zpipe@good.errors.8.service.d/50-pipeline.conf\n+++ /dev/null\n" in shown.stdout
    done = call("units", good, "--root", root, "--install")
    assert f"remove {folder}/zpipe@good.errors.1.service.d/50-pipeline.conf" in done.stdout.splitlines()
    assert "zpipe@good.errors.8.service is not in the config any more: systemctl stop it, if it runs" in done.stderr
    left = units(root)
    assert [path for path in left if ".errors." in path] == [
        "zpipe@good.errors.1.service.d/90-mine.conf",
        "zpipe@goodness.errors.1.service.d/50-pipeline.conf",
    ]
    assert not (folder / "zpipe@good.errors.2.service.d").exists()
    assert "zpipe@good.map.9.service.d/50-pipeline.conf" in left
    assert left["zpipe@.service"].startswith("# One instance")


def test_a_template_of_the_package_is_not_hidden_by_a_copy(
    call: Call, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged, written = tmp_path / install.PACKAGED / "zpipe@.service", tmp_path / install.FOLDER / "zpipe@.service"
    packaged.parent.mkdir(parents=True)
    packaged.write_text(install.templates()["zpipe@.service"])
    monkeypatch.setattr(install, "program", lambda: "/srv/zpipe")
    call("units", good, "--root", tmp_path, "--install")
    assert written.exists(), "the package has another program"
    monkeypatch.setattr(install, "program", lambda: unit_files.PROGRAM)
    done = call("units", good, "--root", tmp_path, "--install")
    assert done.stdout == f"remove {written}\n"
    assert "not in the config" not in done.stderr
    assert not written.exists()
    assert call("units", good, "--root", tmp_path, "--install").stdout == "nothing to change\n"


def test_template_calls_the_program_it_is_installed_by(
    call: Call, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "program", lambda: "/srv/our zpipe/100%/zpipe")
    call("units", good, "--root", tmp_path, "--install")
    template = units(tmp_path)["zpipe@.service"]
    assert '\nExecStart="/srv/our zpipe/100%%/zpipe" stage --unit %i\n' in template
    assert "/opt/zpipe" not in template


def test_says_what_would_keep_the_units_from_running(
    call: Call, good: Path, tmp_path: Path, configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "program", lambda: PRIVATE_PROGRAM)
    monkeypatch.setattr(install, "USER", "nobody-of-that-name")
    shown = call("units", good)
    assert f"install -m 644 {good} {configs}/good.toml" in shown.stderr
    assert f"cannot see {PRIVATE_PROGRAM}" in shown.stderr
    assert "no user nobody-of-that-name" in shown.stderr

    copy = configs / "good.toml"
    copy.write_text(good.read_text())
    monkeypatch.setattr(install, "program", lambda: "/opt/zpipe/bin/zpipe")
    shown = call("units", copy, "--root", tmp_path / "root", "--json")
    assert json.loads(shown.stdout)["warnings"] == []
    assert shown.stderr == ""


def test_metrics_have_a_unit_while_the_config_says_where_they_are_served(
    call: Call, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, text = tmp_path / "root", good.read_text()
    drop_in = "zpipe-monitor@good.service.d/50-pipeline.conf"
    good.write_text(text + '[telemetry]\nprometheus = "127.0.0.1:9464"\n')
    assert "prometheus_client" not in call("units", good, "--root", root, "--install").stderr
    assert "\nWants=zpipe-monitor@good.service\n" in units(root)["zpipe-good.target"]
    assert {"zpipe-monitor@.service", drop_in} <= set(units(root))

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    shown = call("units", good, "--root", root)
    assert "what serves metrics needs prometheus_client" in shown.stderr
    good.write_text(text)
    done = call("units", good, "--root", root, "--install")
    assert "zpipe-monitor@good.service is not in the config any more: systemctl stop it, if it runs" in done.stderr
    assert drop_in not in units(root)
    assert "zpipe-monitor" not in units(root)["zpipe-good.target"]


def test_as_json(call: Call, good: Path, tmp_path: Path) -> None:
    shown = json.loads(call("units", good, "--root", tmp_path, "--install", "--json").stdout)
    assert (shown["pipeline"], shown["target"], shown["installed"]) == ("good", "zpipe-good.target", True)
    assert {"path": f"{tmp_path}/etc/systemd/system/zpipe-good.target", "action": "create"} in shown["changes"]


def test_does_not_undo_a_mask(call: Call, good: Path, tmp_path: Path) -> None:
    folder = tmp_path / install.FOLDER
    folder.mkdir(parents=True)
    (folder / "zpipe@.service").symlink_to("/dev/null")
    result = call("units", good, "--root", tmp_path, "--install")
    assert "zpipe@.service is masked" in str(result.exception)


def test_says_where_it_cannot_write(call: Call, good: Path, tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file")
    result = call("units", good, "--root", tmp_path, "--install")
    assert isinstance(result.exception, ZpipeError)
    assert "cannot" in str(result.exception)


@pytest.mark.parametrize("command", ["stage", "check"])
@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("two", "must be PIPELINE.STAGE.N"),
        ("two.work.1.2", "must be PIPELINE.STAGE.N"),
        ("two.work.x", "N 'x' must be a whole number from 1"),
        ("two.work.0", "N '0' must be"),
        ("two.work.01", "N '01' must be"),
        ("two..1", "STAGE '' must be letters"),
        ("../two.work.1", "must be PIPELINE.STAGE.N"),
        ("t/o.work.1", "PIPELINE 't/o' must be letters"),
        ("none.work.1", "none.toml: cannot be read"),
        ("two.wrk.1", "has no stage 'wrk' (did you mean 'work'?); it has read, work"),
        ("two.read.2", "is a head, which has one instance"),
        ("two.work.3", "has 2 addresses: add one for instance 3"),
        ("other.work.1", "is named for pipeline 'other', but [pipeline] name in it is 'two'"),
    ],
)
def test_a_unit_that_stands_for_nothing(call: Call, configs: Path, command: str, unit: str, said: str) -> None:
    (configs / "two.toml").write_text(TWO)
    (configs / "other.toml").write_text(TWO)
    assert said in problem(call(command, "--unit", unit))


def test_check_of_a_unit_is_quiet_and_looks_at_its_own_plugin_only(call: Call, configs: Path) -> None:
    (configs / "two.toml").write_text(TWO.replace('plugin = "generate"', 'plugin = "./missing.py"'))
    good = call("check", "--unit", "two.work.1")
    assert (good.return_value, good.output) == (ExitCode.DONE, "")
    assert "missing.py" in problem(call("check", "--unit", "two.read.1"))


@pytest.mark.parametrize(
    "arguments", [("stage",), ("check",), ("stage", "x.toml"), ("stage", "x.toml", "--unit", "a.b.1")]
)
def test_one_way_to_say_it(arguments: tuple[str, ...]) -> None:
    from click.testing import CliRunner

    from zpipe.cli import group

    result = CliRunner().invoke(group, arguments)
    assert result.exit_code == ExitCode.USAGE
    assert "--unit" in result.output


ASKS = """
[pipeline]
name = "asks"
[stages.read]
plugin = "generate"
[stages.ask]
input = "read"
plugin = "http"
options = { url = "https://example.org/{id}" }
[stages.call]
input = "ask"
plugin = "python"
options = { function = "no_such_module:f", needs_network = true }
[stages.store]
input = "call"
plugin = "sqlite"
options = { path = "out.db", table = "t", key = "id" }
"""


def drop_in(root: Path, instance: str) -> list[str]:
    return units(root)[f"zpipe@{instance}.service.d/50-pipeline.conf"].splitlines()


def test_a_stage_that_needs_the_network_gets_it_and_its_neighbours_do_not(
    call: Call, configs: Path, tmp_path: Path
) -> None:
    (configs / "asks.toml").write_text(ASKS)
    assert call("units", configs / "asks.toml", "--root", tmp_path, "--install").return_value == ExitCode.DONE
    for n in range(1, 9):
        for stage in ("ask", "call"):
            lines = drop_in(tmp_path, f"asks.{stage}.{n}")
            assert {"PrivateNetwork=no", "IPAddressDeny=", "# Open: its plugin needs the network."} <= set(lines)
            assert "RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK" in lines
            assert "After=network-online.target" in lines
    for instance in ("asks.read.1", "asks.store.1"):
        assert not any("Network" in line or "IPAddress" in line for line in drop_in(tmp_path, instance))


@pytest.mark.parametrize(
    ("collector", "setting"), [("127.0.0.1:4318", "IPAddressAllow=localhost"), ("otel.example.org", "IPAddressDeny=")]
)
def test_a_stage_that_sends_traces_reaches_its_collector(
    call: Call, good: Path, tmp_path: Path, collector: str, setting: str
) -> None:
    good.write_text(good.read_text() + f'[telemetry]\ntraces = "http://{collector}/v1/traces"\n')
    call("units", good, "--root", tmp_path, "--install")
    assert {"# Open: it sends traces.", "PrivateNetwork=no", setting} <= set(drop_in(tmp_path, "good.read.1"))


def test_check_says_who_needs_the_network_and_whose_unit_is_cut_off(
    call: Call, configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configs / "asks.toml"
    config.write_text(ASKS.replace("no_such_module:f", "json:dumps"))
    monkeypatch.setattr(install, "FOLDER", Path(f"{tmp_path}/units"))
    assert "needs the network: ask, call (zpipe units opens their units)\n" in call("check", config).stdout
    assert "cut off" not in call("check", config).stderr, "there are no units"

    call("units", config, "--install")
    assert "cut off" not in call("check", config).stderr
    old = tmp_path / "units" / "zpipe@asks.ask.1.service.d" / "50-pipeline.conf"
    old.write_text(old.read_text().replace("PrivateNetwork=no\n", ""))
    problem = "plugin 'http' needs the network, from which zpipe@asks.ask.1.service is cut off"
    assert f"{config}:8: stages.ask.plugin: {problem}: zpipe units {config} --install" in call("check", config).stderr


@pytest.mark.parametrize(
    ("path", "drop_in", "said"),
    [
        (
            "out.db",
            "[Service]\nPrivateTmp=no\n",
            "/out.db is not to be written by its unit (ProtectSystem=strict): put it in /var/lib/zpipe/data",
        ),
        ("../../var/lib/x/out.db", "[Service]\nPrivateTmp=no\n", "is not to be written by its unit"),
        ("/srv/x/out.db", "", "/srv/x/out.db is not to be written by its unit"),
        ("/srv/x/out.db", "[Service]\nReadWritePaths=/mnt -/srv/x\n", ""),
        ("/srv/x/out.db", "[Service]\nProtectSystem=full\n", ""),
        ("/srv/x/out.db", "[Service]\nBindPaths=/mnt/disk:/srv/x\n", ""),
        ("/tmp/out.db", "", "/tmp/out.db is in a folder for temporary files that is the unit's own"),
        ("/var/lib/zpipe/data/x/out.db", "", ""),
        ("/var/lib/zpipe/asks.store.1/out.db", "", ""),
    ],
)
def test_a_path_that_the_unit_may_not_write(
    call: Call, configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, drop_in: str, said: str
) -> None:
    monkeypatch.setattr(install, "FOLDER", Path(f"{tmp_path}/units"))
    monkeypatch.setattr(install, "USER", "nobody-of-that-name")
    more = tmp_path / "units" / "zpipe@.service.d" / "90-mine.conf"
    more.parent.mkdir(parents=True)
    more.write_text(drop_in)
    text = ASKS.replace("no_such_module:f", "json:dumps").replace("out.db", path)
    elsewhere, config = tmp_path / "asks.toml", configs / "asks.toml"
    for file in (elsewhere, config):
        file.write_text(text)
    assert "may" not in call("check", elsewhere).stderr and "written" not in call("check", elsewhere).stderr
    for result in (call("check", config), call("units", elsewhere), call("units", config)):
        warnings = [line for line in result.stderr.splitlines() if ":17: stages.store.options: " in line]
        assert len(warnings) == bool(said), result.stderr
        assert all(said in line for line in warnings)


def test_a_path_that_belongs_to_another_user(call: Call, configs: Path, tmp_path: Path) -> None:
    text = ASKS.replace("no_such_module:f", "json:dumps").replace("out.db", "/srv/of-root/out.db")
    config = configs / "asks.toml"
    config.write_text(text)
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o700)
    config.write_text(text.replace("/srv/of-root", str(folder)))
    unit = tmp_path / "units" / "zpipe@.service.d" / "90-mine.conf"
    unit.parent.mkdir(parents=True)
    unit.write_text(f"[Service]\nReadWritePaths={folder}\nPrivateTmp=no\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(install, "FOLDER", Path(f"{tmp_path}/units"))
        patch.setattr(install, "USER", "daemon")  # who runs no tests
        said = f"{folder} is not to be written by user daemon, whom the unit runs as"
        assert said in call("check", config).stderr
        folder.chmod(0o777)
        assert "not to be written" not in call("check", config).stderr


def test_a_value_of_a_variable_is_in_no_warning(call: Call, configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUT", "/srv/sesame/out.db")
    config = configs / "asks.toml"
    config.write_text(ASKS.replace("no_such_module:f", "json:dumps").replace("out.db", "${OUT}"))
    for result in (call("check", config), call("units", config)):
        assert "${OUT} is not to be written by its unit" in result.stderr
        assert "sesame" not in result.output
