"""Which refusals are told, in which words, and for how long."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from zpipe.config import load
from zpipe.daemon.service import refusals
from zpipe.daemon.service.limited_log import LimitedLog
from zpipe.daemon.service.refusals import FORGET_S, MOST, REPEATED, TRYING_S, Refusals
from zpipe.transport.curve import SOMEBODY, Refusal

CONFIG = """
[pipeline]
name = "p"
[hosts.web1]
address = "10.0.0.1"
key = "{one}"
[hosts.web2]
address = "10.0.0.2"
key = "{two}"
[stages.read]
plugin = "generate"
host = "web1"
[stages.store]
input = "read"
plugin = "discard"
host = "web2"
"""
ONE, TWO, OTHER = "a" * 40, "b" * 40, "c" * 40


@pytest.fixture
def made(tmp_path: Path) -> Refusals:
    path = tmp_path / "p.toml"
    path.write_text(CONFIG.format(one=ONE, two=TWO))
    config = load(path, env={"ZPIPE_KEYS_DIR": str(tmp_path), "ZPIPE_RUNTIME_DIR": "/run/z"}, only="")
    return Refusals(config, "web2", TWO, "store", LimitedLog(logging.getLogger("refusals")))


def reasons(made: Refusals) -> list[str]:
    return [row["reason"] for row in made.figures({})]


def test_the_cure_names_the_host_that_the_address_is_of(made: Refusals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals.time, "monotonic", lambda: 1.0)
    made.note(Refusal("unknown key", "10.0.0.1", False, OTHER, "feedback"), 1.0)
    made.note(Refusal("unknown key", "10.0.0.9", False, OTHER, "feedback"), 1.0)
    assert [
        f"zpipe keys trust '{name} = {OTHER}'" in reason
        for name, reason in zip(("web1", "HOST"), reasons(made), strict=True)
    ]
    assert [reason.endswith("reload (SIGHUP); HOST is its name in [hosts] (web1)") for reason in reasons(made)] == [
        False,
        True,
    ]


@pytest.mark.parametrize(("after_s", "told"), [(FORGET_S, 1), (FORGET_S + 0.1, 0)])
def test_what_is_not_repeated_is_forgotten(
    made: Refusals, monkeypatch: pytest.MonkeyPatch, after_s: float, told: int
) -> None:
    made.note(Refusal("unknown key", "web1", True, TWO, "feedback"), 1.0)
    monkeypatch.setattr(refusals.time, "monotonic", lambda: 1.0 + after_s)
    assert len(reasons(made)) == told


def test_a_handshake_that_was_broken_off_is_news_when_it_is_repeated(
    made: Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals.time, "monotonic", lambda: 9.0)
    broken = Refusal("broken off", "10.0.0.1", False)
    for number in range(1, REPEATED + 1):
        assert reasons(made) == []
        made.note(broken, 8.0 + number / 10)
    assert len(reasons(made)) == 1


def test_strangers_cannot_have_any_number_remembered(made: Refusals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals.time, "monotonic", lambda: 1.0)
    for number in range(2 * MOST):
        made.note(Refusal("unknown key", f"10.1.0.{number}", False, OTHER), 1.0)
    assert len(reasons(made)) == MOST


def test_an_instance_of_another_host_that_stays_silent_is_said_with_what_to_do(made: Refusals) -> None:
    def said(seconds: float) -> list[str]:
        found = made.figures({("read", 1): ("tcp://10.0.0.1:25000", seconds)})
        return [row["reason"] for row in found if row["peer"] == "read.1"]

    assert said(9.9) == [], "it may be started again just now"
    [reason] = said(10.1)
    assert reason.startswith("read.1 on web1 is silent, nothing is connected at 10.0.0.1:25000: start it")
    assert "`zpipe drain` on web1 ends what waits for it here" in reason


def test_somebody_who_has_gone_is_named_so_once(made: Refusals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals.time, "monotonic", lambda: 1.0)
    for at in (1.0 - TRYING_S, 1.0):
        made.note(Refusal("wrong server key", SOMEBODY, False, "", "feedback"), at)
    assert [reason.partition(": ")[0] for reason in reasons(made)] == [
        "somebody expects another key of web2 than it has"
    ]


def test_whoever_finds_the_right_key_is_no_news(made: Refusals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among those that it trusts while this host changes its key."""
    monkeypatch.setattr(refusals.time, "monotonic", lambda: 100.0)
    wrong = Refusal("wrong server key", "10.0.0.1", False, "", "control")
    for at in (1.0, 1.0 + TRYING_S / 2, 2.0 + TRYING_S + FORGET_S, 100.0 - TRYING_S / 2):
        made.note(wrong, at)
    assert reasons(made) == []
    made.note(wrong, 100.0 + TRYING_S / 2)
    assert len(reasons(made)) == 1


def test_who_is_refused_is_not_called_silent_too(made: Refusals, monkeypatch: pytest.MonkeyPatch) -> None:
    """To start it would not help."""
    unreached = {("read", 1): ("tcp://10.0.0.1:7000", 60.0)}
    assert ["silent" in row["reason"] for row in made.figures(unreached)] == [True]
    made.note(Refusal("unknown key", "web1", True, TWO, "feedback"), 1.0)
    monkeypatch.setattr(refusals.time, "monotonic", lambda: 1.0)
    assert ["silent" in row["reason"] for row in made.figures(unreached)] == [False]
    monkeypatch.setattr(refusals.time, "monotonic", lambda: 2.0 + FORGET_S)
    assert ["silent" in row["reason"] for row in made.figures(unreached)] == [True]
