"""What a message costs the cores of source -> map -> sink, counted on the virtual clock, so that no other load changes it.

As a program it writes the baseline anew: `python tests/core/message_cost.py`. Belongs here: what is counted, and the bound. What
a message costs a real machine is measured by `make bench`.
"""

from __future__ import annotations

import functools
import json
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import zpipe.core
from zpipe.core.stage import Stage
from zpipe.testing import Node, Simulation, Spec

BASELINE = Path(__file__).with_name("message_cost.json")
MAY_GROW_TO = 1.3
WORK_S = 0.000_005
_CORE = str(Path(zpipe.core.__file__).parent)
_INLINED = {"<listcomp>", "<dictcomp>", "<setcomp>"}
"""Calls up to Python 3.11, and none from 3.12 on."""


@dataclass(frozen=True)
class Load:
    """record_s: between two messages of the source;  section: it takes in so many at once, as a busy daemon does;  messages: are
    counted, after as many that are not."""

    record_s: float
    section: int
    messages: int


LOADS = {"full load": Load(0.0, 256, 4096), "a message a millisecond": Load(0.001, 1, 150)}


class Unchecked(Simulation):
    """Without the checks after every turn, which would be counted too. It counts the turns."""

    turns = 0

    def _turned(self, node: Node) -> None:
        self.turns += 1
        for action in node.stage.turn(self.now):
            if not self._perform(node, action):
                self._perform_on_line(node, action)


class Meter:
    """`calls` in the core, Python's and built-in ones; `allocated_bytes`: of each call into the core, what it had allocated at
    most at once."""

    def __init__(self) -> None:
        self.calls = 0
        self.allocated_bytes = 0
        self._inside = False

    @contextmanager
    def counting(self) -> Iterator[None]:
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event in ("call", "c_call") and code.co_filename.startswith(_CORE) and code.co_name not in _INLINED:
            self.calls += 1

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Every method of the core's face is traced, while none of them is under way."""
        methods = {name: method for name, method in vars(Stage).items() if callable(method) and name[0] != "_"}
        for name, method in methods.items():
            setattr(Stage, name, self._traced(method))
        tracemalloc.start()
        try:
            yield
        finally:
            tracemalloc.stop()
            for name, method in methods.items():
                setattr(Stage, name, method)

    def _traced(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def traced(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return method(*args, **kwargs)
            self._inside = True
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            try:
                return method(*args, **kwargs)
            finally:
                _, peak = tracemalloc.get_traced_memory()
                self.allocated_bytes += peak - before
                self._inside = False

        return traced


def measure(load: Load) -> dict[str, float]:
    """The cost of a message of all three instances, once the pipeline is warm."""
    counted, traced = Meter(), Meter()
    turns = _play(load, counted.counting)
    _play(load, traced.tracing)
    return {
        "turns": round(turns / load.messages, 5),
        "calls": round(counted.calls / load.messages, 1),
        "allocated_bytes": round(traced.allocated_bytes / load.messages),
    }


def _play(load: Load, metered: Callable[[], Any]) -> int:
    """How many turns the metered part has taken."""
    work: dict[str, Any] = {"seconds": lambda instance: WORK_S}
    simulation = Unchecked(
        [
            Spec("source", messages=3 * load.messages, record_s=load.record_s, section=load.section),
            Spec("map", (("source", ""),), **work),
            Spec("sink", (("map", ""),), **work),
        ]
    )
    assert simulation.run(lambda: len(simulation.stored) >= load.messages)
    turns = simulation.turns
    with metered():
        assert simulation.run(lambda: len(simulation.stored) >= 2 * load.messages)
    return simulation.turns - turns


def problems(measured: dict[str, float], baseline: dict[str, float]) -> list[str]:
    """What costs more than the baseline allows, in words."""
    return [
        f"{name} a message: {measured[name]:g}, the baseline is {least:g}, and at most {least * MAY_GROW_TO:g} is allowed. "
        "If the change is worth it, move the baseline and say why in the commit: python tests/core/message_cost.py"
        for name, least in baseline.items()
        if measured[name] > least * MAY_GROW_TO
    ]


if __name__ == "__main__":
    made = {name: measure(load) for name, load in LOADS.items()}
    BASELINE.write_text(json.dumps(made, indent=2) + "\n")
    print(BASELINE.read_text())
