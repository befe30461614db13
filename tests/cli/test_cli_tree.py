"""What holds for every command: --json, STAGE.N, exit codes. A new command meets these tests without being named in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from cli_types import Call
from click.testing import CliRunner

from zpipe.cli import ALIASES, COMMANDS, group
from zpipe.errors import ExitCode, ZpipeError

PRINTS_NO_FACTS = {
    "demo": "for whoever tries zpipe: what it finds is a page to read",
    "stage": "a daemon: it has a log, and publishes snapshots",
    "completion show": "prints a script for a shell",
}


def every(command: click.Command = group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Each command that does something, by its words after `zpipe`."""
    if not isinstance(command, click.Group):
        yield " ".join(words), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None, name
        yield from every(below, (*words, name))


COMMAND = dict(every())


def options(command: click.Command) -> set[str]:
    return {name for one in command.params for name in one.opts if isinstance(one, click.Option)}


def test_every_command_that_prints_facts_takes_json() -> None:
    assert {words for words, command in COMMAND.items() if "--json" not in options(command)} == set(PRINTS_NO_FACTS)


def test_an_alias_is_the_command_itself() -> None:
    context = click.Context(group)
    for alias, meant in ALIASES.items():
        assert group.get_command(context, alias) is group.get_command(context, meant)  # type: ignore[attr-defined]
        assert alias not in COMMANDS
    assert ALIASES["top"] == "monitor"
    assert "Also: top." in CliRunner().invoke(group, ["--help"]).output
    mistaken = CliRunner().invoke(group, ["tpo"])
    assert mistaken.exit_code == ExitCode.USAGE and "did you mean 'top'?" in mistaken.output


def test_stage_and_instance_are_written_alike() -> None:
    """Wherever a stage can be named, so can one instance, and under no other name."""
    shown = {
        words: [one.metavar for one in command.params if one.metavar and "STAGE" in one.metavar]
        for words, command in COMMAND.items()
    }
    named = {words: metavars for words, metavars in shown.items() if metavars}
    of_units = {"PIPELINE.STAGE.N"}
    assert {one for metavars in named.values() for one in metavars} - of_units == {
        "STAGE[.N]",
        "[STAGE.N]",
        "STAGE[.N]|LINK",
    }
    assert {"stage", "tap", "drain", "pause", "resume", "dead list", "dead replay", "dead drop"} <= set(named)
    for command in COMMAND.values():
        for one in command.params:
            if one.metavar and "STAGE" in one.metavar and one.metavar not in of_units:
                assert one._custom_shell_complete is not None, f"{one.name} is not completed"


@pytest.mark.parametrize(
    "words",
    [
        ["stage", "CONFIG", "STAGE"],
        ["tap", "CONFIG", "STAGE"],
        ["drain", "CONFIG", "STAGE"],
        ["pause", "CONFIG", "STAGE"],
        ["resume", "CONFIG", "STAGE"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("mpa", "has no stage 'mpa' (did you mean 'map'?)"),
        ("mpa.1", "has no stage 'mpa' (did you mean 'map'?)"),
        ("map.0", "'map.0' is no STAGE.N with N from 1"),
        ("map.x", "'map.x' is no STAGE.N with N from 1"),
        ("map.", "'map.' is no STAGE.N with N from 1"),
    ],
)
def test_a_wrong_stage_or_instance_is_refused_alike(
    call: Call, good: Path, home: Path, words: list[str], given: str, said: str
) -> None:
    result = call(*(str(good) if word == "CONFIG" else given if word == "STAGE" else word for word in words))
    assert isinstance(result.exception, ZpipeError)
    assert result.exception.exit_code is ExitCode.USAGE and said in str(result.exception)


def test_an_instance_is_named_once(call: Call, good: Path) -> None:
    with pytest.raises(click.UsageError, match="not both"):
        call("stage", good, "map.2", "--instance", "2")


EXIT_CODES = [
    # nothing of the pipeline runs
    ("drain good", ExitCode.NO_PEER),
    ("monitor good --once --timeout 10ms", ExitCode.NO_PEER),
    ("monitor good --json --timeout 10ms", ExitCode.NO_PEER),
    ("monitor good --check --timeout 10ms", ExitCode.NO_PEER),
    ("top good --once --timeout 10ms", ExitCode.NO_PEER),
    ("restart good", ExitCode.NO_PEER),
    ("pause good map", ExitCode.NO_PEER),
    ("resume good map.2", ExitCode.NO_PEER),
    ("tap good map --timeout 10ms", ExitCode.NO_PEER),
    ("dead list good", ExitCode.NO_PEER),
    ("dead show good map.1/1", ExitCode.NO_PEER),
    ("dead edit good map.1/1", ExitCode.NO_PEER),
    ("dead replay good --all", ExitCode.NO_PEER),
    ("dead drop good --all", ExitCode.NO_PEER),
    ("buffer list good", ExitCode.NO_PEER),
    ("buffer verify good", ExitCode.NO_PEER),
    ("buffer show good read.1/map", ExitCode.NO_PEER),
    ("buffer drop good read", ExitCode.NO_PEER),
    *((f"{words} nobody{more}", ExitCode.NO_PEER) for words, more in (
        ("drain", ""), ("monitor", ""), ("graph", ""), ("pause", " map"), ("resume", " map"), ("tap", " map"), ("dead list", ""),
    )),
    # the command or the config is wrong
    *((f"{words} broken{more}", ExitCode.USAGE) for words, more in (
        ("run", ""), ("check", ""), ("stage", " map"), ("units", ""), ("drain", ""), ("monitor", ""), ("graph", ""),
        ("pause", " map"), ("resume", " map"), ("tap", " map"), ("dead list", ""),
    )),
    *((f"{words} --no-such-option", ExitCode.USAGE) for words in COMMAND),
    ("no-such-command", ExitCode.USAGE),
    ("dead no-such-command", ExitCode.USAGE),
    ("drain good map", ExitCode.USAGE),
    ("dead replay good", ExitCode.USAGE),
    ("completion show tcsh", ExitCode.USAGE),
    # what the machine refuses
    ("man /dev/null/pages", ExitCode.FAILED),
    # and what works without anything that runs
    ("check good", ExitCode.DONE),
    ("graph good", ExitCode.DONE),
    ("plugins", ExitCode.DONE),
    ("completion show fish", ExitCode.DONE),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code"), EXIT_CODES, ids=[words for words, _ in EXIT_CODES])
def test_the_exit_code_says_the_same_in_every_command(
    good: Path, home: Path, monkeypatch: pytest.MonkeyPatch, words: str, code: ExitCode
) -> None:
    good.write_text(good.read_text() + '[telemetry]\ninterval = "50ms"\n')
    broken = good.with_name("broken.toml")
    broken.write_text("[pipeline]\nname = 7\n")
    files = {"good": str(good), "broken": str(broken)}
    result = CliRunner().invoke(group, [files.get(word, word) for word in words.split()], standalone_mode=False)
    found = result.exception
    if isinstance(found, click.ClickException | ZpipeError):
        assert found.exit_code == code, found
    else:
        assert found is None, found
        assert result.return_value == code, result.output


@pytest.mark.parametrize(("request_", "words"), [("pause", "is paused"), ("resume", "goes on")])
def test_who_was_paused_or_resumed_is_a_fact(
    call: Call, good: Path, home: Path, monkeypatch: pytest.MonkeyPatch, request_: str, words: str
) -> None:
    """That it is done is tested with real instances; here, what is printed of it."""
    monkeypatch.setattr("zpipe.operate.watch.ask_instances", lambda *_: ["map.1", "map.2"])
    assert call(request_, good, "map").stdout == f"map.1 {words}\nmap.2 {words}\n"
    told = json.loads(call(request_, good, "map", "--json").stdout)
    assert told == {"pipeline": "good", "request": request_, "instances": ["map.1", "map.2"]}
