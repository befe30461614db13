"""`zpipe conform` passes stages that keep the protocol, and fails broken ones for the reason that they are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import pytest

from zpipe.config import load
from zpipe.conform import consumer_cases, own_stage, report
from zpipe.conform.cases import CASES
from zpipe.conform.verdicts import Kind
from zpipe.daemon.keeper import resolved
from zpipe.errors import ExitCode
from zpipe.runtime.places import Places

HERE = Path(__file__).parent
SMALL = [sys.executable, str(HERE / "small_map.py")]
OWN = [sys.executable, "-m", "zpipe", "stage", "{config}", "work", "--instance", "{instance}"]
QUICK = [case for number, case in sorted(CASES.items()) if number not in (16, 17, 42)]
"""Without those that wait for the peer timeout, and the flood."""

FAULTS = {
    "counts-hellos": (1, "the same hello again"),
    "takes-any-welcome": (2, "no statement of that session"),
    "grants-too-much": (5, "at most the queue's"),
    "accepts-gaps": (6, "is a gap"),
    "dies-of-garbage": (8, "more statements"),
    "acks-early": (11, "no ack while downstream has not acked"),
    "forgets-numbers": (12, "each message once"),
    "never-sees-stopped": (19, "seen_stopped"),
    "believes-hellos": (21, "a refuse"),
    "ignores-credit": (24, "0 messages"),
    "keeps-attempts": (27, "attempt 2"),
    "changes-ids": (31, "the id as it was"),
    "forgets-returned": (47, "the message again"),
    "falls-over-garbage": (48, "the stage ended with exit code 1"),
    "mixes-incarnations": (44, "its message comes out"),
}
"""A fault of the small map, and the case that finds it, with words of what that had expected."""


def test_the_cases_are_numbered_without_a_gap() -> None:
    assert sorted(CASES) == list(range(1, len(CASES) + 1))


def test_a_broken_stage_fails_for_its_reason() -> None:
    """All at once, since each does little but wait."""

    def found(fault: str) -> report.Result:
        return report.run(["env", f"FAULT={fault}", *SMALL], "map", [CASES[FAULTS[fault][0]]])[0]

    with ThreadPoolExecutor(len(FAULTS)) as pool:
        for fault, result in zip(FAULTS, pool.map(found, FAULTS), strict=True):
            expected = FAULTS[fault][1]
            assert result.outcome == "not kept", fault
            assert expected in result.expected or expected in result.came, result


def test_a_small_map_keeps_level_1() -> None:
    cases = [one for one in QUICK if one.level == 1 and "map" in one.kinds]
    results = report.run(SMALL, "map", cases, jobs=len(cases))
    assert [one for one in results if one.outcome == "not kept"] == []
    assert report.level_reached(results) == 1


@pytest.mark.parametrize("kind", ["map", "sink"])
def test_a_stage_of_zpipe_keeps_some_of_each_level(kind: Kind) -> None:
    cases = [CASES[number] for number in (5, 14, 32, 34, 37, 43) if kind in CASES[number].kinds]
    results = report.run(OWN, kind, cases, many=True, jobs=len(cases))
    assert [one for one in results if one.outcome != "kept"] == []
    assert report.level_reached(results) == 3


@pytest.mark.stress
@pytest.mark.parametrize("kind", ["map", "sink"])
def test_a_stage_of_zpipe_keeps_every_case(kind: Kind) -> None:
    cases = report.chosen(kind, 3, [])
    results = report.run(OWN, kind, cases, many=True, jobs=8)
    assert [one for one in results if one.outcome != "kept"] == []
    assert report.level_reached(results) == 3


def conform(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "zpipe", "conform", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **environment},
    )


def test_what_the_command_prints(tmp_path: Path) -> None:
    xml = tmp_path / "conform.xml"
    done = conform("--case", "31", "--case", "21", "--junit", str(xml), "--", *SMALL, FAULT="changes-ids")
    assert done.returncode == 1
    first, second, *told, last = done.stdout.splitlines()
    assert first.startswith("ok    21  level 1  another version")
    assert second.startswith("FAIL  31  level 1  ids") and second.endswith("(PROTOCOL.md, 11)")
    assert [line.split()[0] for line in told] == ["sent", "expected", "came"] and "-mine" in told[2]
    assert last == "1 of 2 cases kept, 1 not"  # two cases say nothing of a level
    suite = ElementTree.parse(xml).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    done = conform("--case", "21", "--json", "--", *SMALL)
    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert said["kept"] and said["level"] is None and [one["number"] for one in said["cases"]] == [21]


def test_mistakes_are_told() -> None:
    assert "there is no case 99" in conform("--case", "99", "--", "true").stderr
    assert conform("--case", "99", "--", "true").returncode == 2
    of_maps = conform("--kind", "sink", "--case", "20", "--", "true")
    assert of_maps.returncode == 2 and "case 20 is asked of a map, and this is a sink" in of_maps.stderr
    nowhere = conform("--junit", "/no/such/folder/x.xml", "--case", "1", "--", "true")
    assert nowhere.returncode == 2 and "cannot write /no/such/folder/x.xml" in nowhere.stderr
    missing = conform("--case", "1", "--", "./no-such-program")
    assert missing.returncode == 1 and "cannot start ./no-such-program: No such file" in missing.stderr
    listed = conform("--list", "--level", "3", "--", "true")
    assert listed.returncode == 0 and len(listed.stdout.splitlines()) == len(CASES)


def test_a_stage_that_ends_at_once_is_told_with_its_words() -> None:
    (result,) = report.run(["sh", "-c", "echo it cannot be >&2; seq 200 >&2; exit 3"], "map", [CASES[1]])
    assert "exit code 3" in result.came and "it cannot be" in result.came


def test_a_program_that_cannot_start_is_asked_once() -> None:
    ended = conform("--level", "3", "--", "sh", "-c", "echo cannot find module >&2; exit 7")
    assert ended.returncode == ExitCode.FAILED
    assert [line[:8] for line in ended.stdout.splitlines() if line[:4] in ("ok  ", "FAIL", "skip")] == ["FAIL   1"]
    assert "ended with exit code 7. It wrote: cannot find module" in ended.stdout
    rest = len(report.chosen("map", 3, [])) - 1
    assert f"zpipe: it says nothing to its neighbours, so the other {rest} cases were not asked" in ended.stderr
    value = json.loads(conform("--json", "--", "false").stdout)
    assert [one["number"] for one in value["cases"]] == [1] and not value["kept"] and value["level"] is None


def test_a_program_that_never_says_anything_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_cases, "START_S", 1.0)
    (result,) = report.run(["sleep", "1000"], "map", [CASES[1], CASES[2], CASES[3]])
    assert (result.number, result.outcome) == (1, "not kept")
    assert result.came == "not a word within 1 s. It wrote: nothing"


def test_a_program_that_has_started_once_is_asked_everything(tmp_path: Path) -> None:
    once = f'[ -e {tmp_path}/began ] && exit 3; touch {tmp_path}/began; exec "$0" "$1"'
    results = report.run(["sh", "-c", once, *SMALL], "map", [CASES[1], CASES[2], CASES[3]])
    assert [(one.number, one.outcome) for one in results] == [(1, "kept"), (2, "not kept"), (3, "not kept")]


def test_the_page_lists_every_case() -> None:
    page = (HERE.parents[1] / "docs" / "conform.md").read_text(encoding="utf-8")
    rows = [
        f"| {one.number} | {one.level} | {', '.join(one.kinds)} | {one.title} | {one.section} |"
        for _, one in sorted(CASES.items())
    ]
    assert page.rstrip().endswith("\n".join(rows))


def test_a_stage_is_told_what_its_keeper_would_tell_it(tmp_path: Path) -> None:
    ours = own_stage.resolved("map", tmp_path, 100, 1 << 20)
    config = load(own_stage.write(tmp_path, "map", 100, 1 << 20), env={}, only="")
    keeper = resolved(
        config, "work", 1, Places(config, {"ZPIPE_RUNTIME_DIR": str(tmp_path), "ZPIPE_STATE_DIR": str(tmp_path)})
    )
    assert ours.keys() == keeper.keys()
    assert ours["inputs"] == keeper["inputs"] and ours["outputs"] == keeper["outputs"]
    assert ours["interval_s"] == keeper["interval_s"] and ours["peer_timeout_s"] == keeper["peer_timeout_s"]
