"""Playing a record of events (`zpipe stage --record-events`) again: `python -m zpipe.testing.event_replay FILE`.

The core is made as it was, and handed the same events at the same times. It must answer the same. Where it does not, it is
another version of the core, or a fault. May live here: reading a record and comparing. How it is kept is
`zpipe.daemon.event_record`'s.
"""

from __future__ import annotations

import pickle
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from zpipe.core.events import Event
from zpipe.core.stage import Stage
from zpipe.daemon.event_record import ASKED, FORMAT, Handles, is_kept


class Step(NamedTuple):
    """A call of the core: its `name`, `now` and `event`, what it answered when it was recorded, and what it answers today."""

    name: str
    now: float
    event: Event | None
    recorded: Any
    answered: Any

    @property
    def differs(self) -> bool:
        return bool(self.recorded != self.answered)


def replay(path: Path) -> Iterator[Step]:
    """Each call of the core, after it was made. A record that was cut ends with its last whole call. Raises ValueError if the
    file is no record."""
    with path.open("rb") as file:
        handles = Handles()
        if _read(file, handles) != FORMAT:
            raise ValueError(f"{path} is no record of events that this zpipe can play")
        stage: Stage | None = None
        given: deque[Any] = deque()
        while (call := _read(file, handles)) is not None and (came := _read(file, handles)) is not None:
            (name, now, event), (asked, recorded) = call, came
            given.extend(asked)
            try:
                if stage is None:
                    fixed, named = event
                    stage = Stage(*fixed, **dict.fromkeys(ASKED, lambda *_: given.popleft()) | named)
                    handles.links.extend([*named.get("outgoing", ()), *named.get("incoming", ())])
                    continue
                answer: Any = stage.handle(event, now) if name == "handle" else getattr(stage, name)(now)
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
            handles.taken(event)
            yield Step(name, now, event, recorded, handles.plain(answer))
            given.clear()


class _Unpickler(pickle.Unpickler):
    """Makes values of the core and plain ones, and calls nothing else: the file may be anyone's."""

    def __init__(self, file: BinaryIO, handles: Handles) -> None:
        super().__init__(file)
        self._handles = handles

    def persistent_load(self, name: Any) -> Any:
        return self._handles.named(name)

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if is_kept(module, name.partition(".")[0]) else None
        if isinstance(found, type) and is_kept(found.__module__, found.__qualname__):
            return found
        raise ValueError(f"the record holds {module}.{name}, which no record may hold")


def _read(file: BinaryIO, handles: Handles) -> Any:
    """None: the record ends here."""
    try:
        return _Unpickler(file, handles).load()
    except (EOFError, pickle.UnpicklingError):
        return None


def main(path: str) -> int:
    """Prints how many calls were made, or the first one whose answer differs."""
    steps = 0
    for steps, step in enumerate(replay(Path(path)), 1):
        if step.differs:
            lines = [
                f"call {steps}, {step.name} at {step.now:.6f}: {step.event}",
                f"recorded: {step.recorded}",
                f"answered: {step.answered}",
            ]
            sys.stdout.write("\n".join(lines) + "\n")
            return 1
    sys.stdout.write(f"{steps} calls of the core, each answered as in the record\n")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m zpipe.testing.event_replay FILE")
    raise SystemExit(main(sys.argv[1]))
