"""The world of one case: folders of its own, the stage under test, and its scripted neighbours.

Putting these together, and waiting for something to become true, belong here. Must not live here: what a case checks.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path

from zpipe import folders
from zpipe.conform import own_stage
from zpipe.conform.dead_letters import DeadLetters
from zpipe.conform.downstream import Downstream
from zpipe.conform.program import Program
from zpipe.conform.upstream import Upstream
from zpipe.conform.verdicts import Kind, NeverSpoke, NotApplicable, NotKept
from zpipe.runtime import locks
from zpipe.transport.neighbour_sockets import StrangerSockets

PIPELINE, STAGE = "conform", "work"
QUEUE_MESSAGES, QUEUE_BYTES = 100, 1 << 20
WAIT_S = 15.0
"""For what has to come at once or at the next heartbeat: far longer than either, since the machine may be busy."""
START_S = 60.0
"""For the first word of a program that was just started, since cases may start dozens of them at once."""
_STEP_S = 0.01
_SHOWN = 6
LAST_WORDS = 1000
"""Characters: what is wrong often stands above a trace."""


class Scene:
    """Used by one case, and closed after it."""

    def __init__(self, command: Sequence[str], kind: Kind, root: Path, many: bool = False) -> None:
        self.kind = kind
        self.many = many
        self.root = root
        self.upstreams: list[Upstream] = []
        self.downstreams: list[Downstream] = []
        self.programs: dict[int, Program] = {}
        self._may_exit = False
        self.store = root / "stored.txt"
        self._command = command
        self._sent: deque[str] = deque(maxlen=_SHOWN)
        self._came: deque[str] = deque(maxlen=_SHOWN)
        self._locks: list[int] = []
        self._letters = DeadLetters(f"ipc://{root}/dead_letters.sock")
        self._config = own_stage.write(root, kind, QUEUE_MESSAGES, QUEUE_BYTES)

    # ---- who is there

    def runtime(self, stage: str, instance: int) -> Path:
        return self.root / "run" / folders.instance_name(PIPELINE, stage, instance)

    def upstream(self, instance: int = 1) -> Upstream:
        """One more upstream instance; one of the same number has to be closed before."""
        folder = self._folder("up", instance)
        one = Upstream(
            instance, f"ipc://{folder}/feedback.sock", f"ipc://{folder}/control.sock", self._noter("up"), PIPELINE
        )
        self.upstreams.append(one)
        return one

    def downstream(self, instance: int = 1, of: int = 1, queue: int = 1000) -> Downstream:
        """One more downstream instance, which talks with instance `of` of the stage."""
        folder, theirs = self._folder("down", instance), self.runtime(STAGE, of)
        inbox = f"ipc://{folder}/inbox-{len(self.downstreams)}.sock"
        feedback, control = f"ipc://{theirs}/feedback.sock", f"ipc://{theirs}/control.sock"
        one = Downstream(instance, inbox, feedback, control, self._noter("down"), PIPELINE, queue)
        self.downstreams.append(one)
        return one

    def start(self, instance: int = 1) -> Program:
        """Starts the stage under test."""
        folders.make_private(self.runtime(STAGE, instance))  # as a keeper does
        places = {"{config}": str(self._config), "{instance}": str(instance)}
        command = [reduce(lambda text, place: text.replace(*place), places.items(), part) for part in self._command]
        environment = {
            "ZPIPE_RUNTIME_DIR": str(self.root / "run"),
            "ZPIPE_STATE_DIR": str(self.root / "state"),
            "ZPIPE_PIPELINE": PIPELINE,
            "ZPIPE_STAGE": STAGE,
            "ZPIPE_INSTANCE": str(instance),
            "ZPIPE_RUN": "",
            "ZPIPE_DEAD_LETTERS": self._letters.address,
            "ZPIPE_KEY_FILE": "",
            "ZPIPE_CONFIG": json.dumps(own_stage.resolved(self.kind, self.store, QUEUE_MESSAGES, QUEUE_BYTES)),
        }
        program = Program(command, environment, self.root / f"stderr-{instance}.txt")
        self.programs[instance] = program
        return program

    def linked(self) -> tuple[Upstream, Downstream | None]:
        """The usual scene: an upstream instance, the stage, and a downstream one if it is a map; sessions are open."""
        up = self.upstream()
        down = self.downstream() if self.kind == "map" else None
        self.open(up, down)
        return up, down

    def linked_map(self) -> tuple[Upstream, Downstream]:
        """Likewise, for a case that is asked of maps alone."""
        up, down = self.upstream(), self.downstream()
        self.open(up, down)
        return up, down

    def open(self, up: Upstream, down: Downstream | None) -> None:
        """Starts the stage, and waits until it is in session with these."""
        self.start()
        self.wait_for_session(up)
        if down is not None:
            self.wait_for_downstream(down)

    def wait_for_session(self, up: Upstream) -> None:
        self.wait(lambda: up.session is not None and up.session.statements, "a hello, and then a statement", START_S)

    def wait_for_downstream(self, down: Downstream) -> None:
        self.wait(
            lambda: down.session is not None and down.session.statements > 0 and down.announcements,
            "a welcome for the downstream instance, and announcements",
            START_S,
        )

    def remove(self, one: Upstream | Downstream) -> None:
        """As if it had been killed."""
        one.close()
        (self.upstreams if isinstance(one, Upstream) else self.downstreams).remove(one)  # type: ignore[arg-type]

    def stranger(self, inbox: str, *messages: list[bytes]) -> None:
        """Somebody without a session sends these to the inbox."""
        one = StrangerSockets(inbox)
        for parts in messages:
            self._noter("a stranger")(f"{len(parts)} frames of {list(map(len, parts))} bytes")
            one.push(parts)
        one.close()

    def stored(self) -> list[str]:
        """The ids that a sink has stored, in order, copies included."""
        try:
            return self.store.read_text().split()
        except OSError:
            return []

    def needs_many(self) -> None:
        """Raises NotApplicable unless the stage makes `copies` outputs of a message that asks for so many."""
        if not self.many:
            raise NotApplicable("the stage makes one of one (see --many)")

    # ---- time

    def pump(self) -> None:
        """Everybody does what is due."""
        now = time.monotonic()
        self._letters.turn()
        for one in self._neighbours():
            one.turn(now)

    def wait(self, condition: Callable[[], object], expected: str, within_s: float = WAIT_S) -> None:
        """Goes on until the condition is true. Raises NotKept after `within_s`, and if the stage ends and may not."""
        deadline = time.monotonic() + within_s
        while True:
            self.pump()
            if condition():
                return
            ended = [program.exit_code for program in self.programs.values() if program.exit_code is not None]
            if ended and not self._may_exit:
                came = f"the stage ended with exit code {ended[0]}. It wrote: {self._last_words()}"
                self.fail(expected, came, NotKept if self._came else NeverSpoke)
            if time.monotonic() > deadline:
                if self._came:
                    self.fail(expected, f"nothing of the kind within {within_s:g} s")
                self.fail(expected, f"not a word within {within_s:g} s. It wrote: {self._last_words()}", NeverSpoke)
            for one in self._neighbours()[:1]:
                one.poll(_STEP_S)

    def _last_words(self) -> str:
        return "; ".join(program.last_words()[-LAST_WORDS:] for program in self.programs.values()) or "nothing"

    def after(self, seconds: float) -> None:
        """Goes on for so long, for what the protocol itself counts in seconds."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= end, "time goes on", seconds + WAIT_S)

    def heartbeats(self, up: Upstream, count: int = 2) -> None:
        """Goes on until the stage has stated itself so many times more in its open session."""
        session = up.open_session
        start = len(session.statements)
        self.wait(
            lambda: len(session.statements) >= start + count or not session.open,
            f"{count} more statements: one is due each second",
        )

    def announcements(self, down: Downstream, count: int = 2) -> None:
        """Goes on until the stage has announced itself so many times more."""
        start = len(down.announcements)
        self.wait(
            lambda: len(down.announcements) >= start + count, f"{count} more announcements: one is due each second"
        )

    def allow_exit(self) -> None:
        """From here on the stage may end."""
        self._may_exit = True

    def wait_for_exit(self, program: Program, expected: str, within_s: float = WAIT_S) -> None:
        self.allow_exit()
        self.wait(lambda: program.exit_code is not None, expected, within_s)
        if program.exit_code != 0:
            self.fail(
                expected + ", with exit code 0", f"exit code {program.exit_code}: {program.last_words()[-LAST_WORDS:]}"
            )

    def fail(self, expected: str, came: str, kind: type[NotKept] = NotKept) -> None:
        """Raises NotKept with what was said last."""
        heard = "; ".join(self._came)
        raise kind("; ".join(self._sent) or "nothing", expected, f"{came}{f' (last: {heard})' if heard else ''}")

    def require(self, holds: object, expected: str, came: object = "") -> None:
        """Raises NotKept unless it holds."""
        if not holds:
            self.fail(expected, str(came) or "it was not so")

    def close(self) -> None:
        for program in self.programs.values():
            with suppress(subprocess.TimeoutExpired):  # it is SIGKILL that it has not died of: what it holds is its own
                program.kill()
        self._letters.close()
        for one in self._neighbours():
            one.close()
        for fd in self._locks:
            locks.release(fd)

    def _neighbours(self) -> list[Upstream | Downstream]:
        return [*self.upstreams, *self.downstreams]

    def _folder(self, stage: str, instance: int) -> Path:
        """The runtime folder of a neighbour, with its lock: by that the stage may tell that it lives."""
        folder = self.runtime(stage, instance)
        if not folder.exists():
            folders.make_private(folder)
        fd = locks.take(folder / "lock")
        if fd is not None:
            self._locks.append(fd)
        return folder

    def _noter(self, who: str) -> Callable[[str], None]:
        def note(text: str) -> None:
            if text.startswith("<- "):
                self._came.append(f"to {who}: {text[3:]}")
            else:
                self._sent.append(f"{who}: {text}")

        return note
