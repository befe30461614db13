"""What the screen can have done to a pipeline, and what it says before it asks. Pure.

Must not live here: doing it. The command brings an `Operator`, since the monitor knows nothing of sockets and state folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from zpipe.monitor.formatting import count, duration
from zpipe.monitor.screen.pane import Letters

REPLAY_RATE = 100.0
"""Letters a second, as `zpipe dead replay` has it by default."""
Target = tuple[str, int | None]


class Tap(Protocol):
    """The messages that pass one link, as texts. Used by one thread."""

    def poll(self, timeout_s: float) -> list[tuple[str, str]]:
        """(heading, body) of each message that was shown in the meantime. Raises OperatorError."""

    def close(self) -> None: ...


class Operator(Protocol):
    """Each call blocks, and raises OperatorError with what is in the way. What was done comes back in words."""

    def ask(self, what: str, targets: Sequence[Target]) -> str:
        """pause, resume, drain or leave."""

    def letters(self) -> Letters: ...

    def page(self, letter: str) -> str: ...

    def editable(self, letter: str) -> str: ...

    def save(self, letter: str, text: str) -> str: ...

    def replay(self, letters: Sequence[str]) -> str: ...

    def drop(self, letters: Sequence[str]) -> str: ...

    def tap(self, link: str) -> Tap: ...


class Question(NamedTuple):
    """`title` says what would be done, `text` what comes of it; `grave`: it cannot be taken back."""

    title: str
    text: str
    grave: bool = False


def pause(value: dict[str, Any], stage: str) -> Question:
    of, waiting = value["stages"][stage], _waiting(value, stage)
    starts = "starts" if of["live"] == 1 else "start"
    text = f"Its {_instances(of['live'])} {starts} no work until resumed: {_rate(of['rate_out'])} stop here."
    if any(link["to"] == stage for link in value["links"]):  # a source has none before it
        text += f" {_messages(of['in_process'])} in work will be finished."
        text += f" {_messages(waiting)} {'waits' if waiting == 1 else 'wait'} for it and will stay."
    rooms = [
        (link["bound"] - link["depth"]) / link["rate"]
        for link in value["links"]
        if link["to"] == stage and link["bound"] and link["rate"]
    ]
    if rooms and min(rooms) < 0.1:
        text += " What comes before it is blocked already."
    elif rooms:
        text += f" What comes before it is blocked in about {duration(min(rooms))}."
    return Question(f"Pause {stage}?", text)


def resume(value: dict[str, Any], stage: str) -> Question:
    of = value["stages"][stage]
    text = f"{_messages(_waiting(value, stage))} wait for it. "
    if of["stopped_by"]:
        text += f"It takes no more: {next(iter(of['stopped_by'].values()))}."
    elif of["paused"]:
        text += f"Paused now: {of['paused']} of {_instances(of['live'])}."
    else:
        text += "It is not paused: it goes on as it does."
    return Question(f"Resume {stage}?", text)


def drain(value: dict[str, Any]) -> Question:
    stages = value["stages"]
    fed = {link["to"] for link in value["links"]}
    heads = [name for name in stages if name not in fed]
    waiting = sum(link["depth"] for link in value["links"])
    work = sum(stage["in_process"] for stage in stages.values())
    live = sum(stage["live"] for stage in stages.values())
    rate = sum(stages[name]["rate_out"] or 0.0 for name in heads)
    text = f"{', '.join(heads)} take{'s' if len(heads) == 1 else ''} in nothing more ({_rate(rate)} now). "
    text += f"{_messages(waiting)} that wait and {count(work)} in work are finished, then {_instances(live)} stop."
    text += " Nothing is lost."
    stopped = [name for name, of in stages.items() if of["stopped_by"] or of["held_by"] or of["paused"]]
    if stopped:
        text += f" It does not end before {', '.join(stopped)} can go on."
    slowest = [link["depth"] / link["rate"] for link in value["links"] if link["rate"] and link["depth"]]
    if slowest:
        text += f" At the present rate that takes about {duration(max(slowest))}."
    return Question(f"Drain the whole pipeline {value['pipeline']}?", text, grave=True)


def leave(value: dict[str, Any], stage: str, instance: int) -> Question:
    of = value["stages"][stage]
    one: dict[str, Any] = next((one for one in of["instances"] if one["instance"] == instance), {})
    left = max(of["live"] - 1, 0)
    text = f"It hands back {_messages(one.get('queued', 0))} that it has not started, "
    text += f"finishes {count(one.get('in_process', 0))} in work and exits. "
    text += f"{_instances(left)} of {stage} {'is' if left == 1 else 'are'} left."
    if not left:
        text += " Messages for it then wait until one is started."
    return Question(f"Have {stage}.{instance} leave?", text, grave=not left)


def replay(rows: Sequence[dict[str, Any]]) -> Question:
    stages = ", ".join(dict.fromkeys(row["stage"] for row in rows))
    seconds = len(rows) / REPLAY_RATE
    text = f"{stages} gets {_messages(len(rows))} again, {REPLAY_RATE:g} a second: about {duration(max(seconds, 0.1))}."
    text += " One that fails again stays a letter."
    return Question(f"Replay {_letters(len(rows))}?", text)


def drop(rows: Sequence[dict[str, Any]]) -> Question:
    stages = ", ".join(dict.fromkeys(row["stage"] for row in rows))
    return Question(
        f"Drop {_letters(len(rows))} for good?",
        f"{_messages(len(rows))} of {stages} {'is' if len(rows) == 1 else 'are'} lost, and nobody can replay them.",
        grave=True,
    )


def _waiting(value: dict[str, Any], stage: str) -> int:
    return sum(link["depth"] for link in value["links"] if link["to"] == stage)


def _messages(number: int) -> str:
    return f"{number:,} message{'' if number == 1 else 's'}"


def _letters(number: int) -> str:
    return f"{number:,} dead letter{'' if number == 1 else 's'}"


def _instances(number: int) -> str:
    return f"{number} instance{'' if number == 1 else 's'}"


def _rate(rate: float | None) -> str:
    return "its messages" if rate is None else f"{count(rate)}/s"
