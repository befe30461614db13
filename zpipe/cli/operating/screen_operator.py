"""What the screen has done to a pipeline: requests to its instances, its stored dead letters, and taps. Does not belong here:
asking the user first."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from zpipe.config import PipelineConfig
from zpipe.core.work.stored_dead_letter import StoredDeadLetter
from zpipe.errors import NoPeerError, OperatorError
from zpipe.monitor.messages import dead_letter_page
from zpipe.monitor.messages.payload import editable_text, read_payload
from zpipe.monitor.messages.redaction import Redaction
from zpipe.monitor.messages.tapped_messages import TappedMessages
from zpipe.monitor.screen.actions import REPLAY_RATE, Target
from zpipe.monitor.screen.pane import Letters
from zpipe.operate.dead_letter_replay import DeadLetterReplay
from zpipe.operate.stored_dead_letters import Numbers, Selection, StoredDeadLetters, check_editable, count
from zpipe.operate.tap_subscription import TapSubscription, read_tap_target
from zpipe.operate.watch import ask_instances

MOST_LETTERS = 2000
"""Letters that are listed; the newest of each instance."""
TAP_RATE = 5.0
"""Messages a second: as many as can be read."""
_DONE = {"pause": "is paused", "resume": "goes on", "drain": "drains", "leave": "leaves"}


class ScreenOperator:
    """Each call opens what it needs and closes it again, since calls come from several threads."""

    def __init__(self, config: PipelineConfig, env: Mapping[str, str]) -> None:
        self._config, self._env = config, env

    def ask(self, what: str, targets: Sequence[Target]) -> str:
        done: list[str] = []
        for stage, instance in targets:
            done += ask_instances(self._config, self._env, stage, instance, what)
        return f"{', '.join(done)} {_DONE[what]}"

    # ---- dead letters

    def letters(self) -> Letters:
        try:
            stored = StoredDeadLetters(self._config, self._env)
        except NoPeerError as error:
            return Letters(problem=str(error))
        found = stored.find(Selection())
        newest = {instance: numbers[-MOST_LETTERS:] for instance, numbers in found.items()}
        return Letters(stored.rows(newest), count(found))

    def page(self, letter: str) -> str:
        return dead_letter_page.page(self._letter(letter)[1], time.time())

    def editable(self, letter: str) -> str:
        found = self._letter(letter)[1]
        check_editable(found)
        return editable_text(found.payload)

    def save(self, letter: str, text: str) -> str:
        stored, found = self._letter(letter)
        try:
            payload = read_payload(text)
        except ValueError as error:
            raise OperatorError(f"{letter} is as it was: {error}") from None
        if payload == found.payload:
            return f"{letter} is as it was"
        stored.edit(found, payload)
        return f"{letter} has a new payload: replay it"

    def replay(self, letters: Sequence[str]) -> str:
        stored, chosen = self._chosen(letters)
        stored.mark(chosen, REPLAY_RATE)
        replay = DeadLetterReplay(stored, chosen)
        try:
            replay.ask()
        finally:
            replay.close()
        runs = "" if stored.pipeline_runs() else ": they are replayed when their stage runs"
        return f"{count(chosen):,} to be replayed{runs}"

    def drop(self, letters: Sequence[str]) -> str:
        stored, chosen = self._chosen(letters)
        return f"{stored.drop(chosen):,} dropped"

    def _chosen(self, letters: Sequence[str]) -> tuple[StoredDeadLetters, Numbers]:
        """Those of them that still exist: some may have gone since they were listed."""
        stored = StoredDeadLetters(self._config, self._env)
        named: Numbers = {}
        for letter in letters:
            target, _, number = letter.partition("/")
            stage, _, instance = target.rpartition(".")
            named.setdefault((stage, int(instance)), []).append(int(number))
        marked, others = stored.marked(named)
        chosen: dict[Any, list[int]] = dict(others)
        for instance_key, numbers in marked.items():
            chosen[instance_key] = sorted([*chosen.get(instance_key, []), *numbers])
        return stored, chosen

    def _letter(self, name: str) -> tuple[StoredDeadLetters, StoredDeadLetter]:
        stored = StoredDeadLetters(self._config, self._env)
        for letter in stored.letters(stored.find(Selection(names=(name,)))):
            return stored, letter
        raise OperatorError(f"there is no letter {name} any more")

    # ---- taps

    def tap(self, link: str) -> LinkTap:
        return LinkTap(self._config, self._env, link)


class LinkTap:
    """The messages that pass one link. Its sockets are opened by the first `poll`, in the thread that polls."""

    def __init__(self, config: PipelineConfig, env: Mapping[str, str], link: str) -> None:
        self._config, self._env = config, env
        self._targets, self._link = read_tap_target(config, link)
        self._subscription: TapSubscription | None = None
        self._messages = TappedMessages(self._link, (), Redaction([]), TAP_RATE, time.monotonic())

    def poll(self, timeout_s: float) -> list[tuple[str, str]]:
        if self._subscription is None:
            self._subscription = TapSubscription(self._config, self._env, self._targets, max(int(TAP_RATE), 1))
        seen = []
        for frame in self._subscription.poll(timeout_s):
            seen += self._messages.take(frame, time.time(), time.monotonic())
        return [(one.heading(), one.body()) for one in seen]

    def close(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
