"""`zpipe units`, and `--unit` of the commands that units call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_types import Call
from click.testing import Result

from zpipe.errors import ExitCode, ZpipeError
from zpipe.units import install, names

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
    monkeypatch.setattr(names, "CONFIGS", folder)
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
