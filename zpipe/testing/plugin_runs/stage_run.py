"""`stage`: one stage with a plugin, to which a test sends messages, and of which it sees all that comes out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from zpipe import plugin_loading
from zpipe.config import load
from zpipe.config.reading import values
from zpipe.core.policy import StagePolicy
from zpipe.messages import Message
from zpipe.testing.plugin_runs.contexts import SourceHasNoMore, make_context, plugin_name
from zpipe.testing.plugin_runs.plugin_sources import SentByTest, read_messages
from zpipe.testing.plugin_runs.plugin_workers import Collector, Life
from zpipe.testing.plugin_runs.simulated_pipeline import Dead, SimulatedPipeline, slow
from zpipe.testing.plugin_runs.toml_text import table
from zpipe.testing.plugin_runs.virtual_time import VirtualTimeLoop
from zpipe.testing.simulated_plugin import Spec

HEARTBEAT_S = 60.0
"""Nothing is lost between the three stages, so they need not state often what has not changed."""
HEAD, STAGE, OUT = "test", "stage", "out"
"""The names of the three stages: where messages come from, the one that is tested, and where its outputs go."""


class StageRun:
    """A stage under test. See `stage` for what it takes. To be used in a ``with`` block.

    sent      the messages that came out, in the order in which they arrived. After a `kill` some may come again, as in life
    dead      its dead letters, each with `payload`, `reason`, `id`, `attempts` and `traceback`
    attempts  how often the plugin was called for a message, by its id
    """

    def __init__(self, plugin: Any, options: Any, keys: dict[str, Any], folder: Path, last: bool) -> None:
        self.sent: list[Message] = []
        self._ids = count()
        keys = {key: _shorthand(key, value) for key, value in keys.items()}
        given = {"plugin": plugin_name(plugin, folder), "input": HEAD, "options": options or None, **keys}
        secrets: dict[str, str] = {}
        text = table("pipeline", {"name": "test"}) + table(f"stages.{HEAD}", {"plugin": "generate"})
        text += table(f"stages.{STAGE}", given, secrets) + (
            "" if last else table(f"stages.{OUT}", {"plugin": "discard", "input": STAGE})
        )
        config = load(folder / f"{STAGE}.toml", text=text, env=os.environ | secrets)
        self._pipeline = SimulatedPipeline(config, [STAGE], heartbeat_s=HEARTBEAT_S)
        self._head = SentByTest(HEAD, StagePolicy().link)
        tested = config.stages[STAGE]
        outlets = [] if last else [(STAGE, outlet) for outlet in ("", *self._pipeline.outlets(tested))]
        self._pipeline.start([self._head_spec(), self._out_spec(outlets)] if outlets else [self._head_spec()])

    def _head_spec(self) -> Spec:
        return Spec(
            HEAD,
            policy=slow(StagePolicy(), HEARTBEAT_S),
            make_source=lambda *_: self._head,
            make_workers=lambda spec, instance, sink, later, emitted, done, died: Collector([], later, done),
        )

    def _out_spec(self, inputs: list[tuple[str, str]]) -> Spec:
        return Spec(
            OUT,
            policy=slow(StagePolicy(), HEARTBEAT_S),
            inputs=tuple(inputs),
            make_workers=lambda spec, instance, sink, later, emitted, done, died: Collector(self.sent, later, done),
        )

    def __enter__(self) -> StageRun:
        self._pipeline.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipeline.leave(failed=kind is not None)

    # ---- what a test does

    def send(self, payload: Any) -> str:
        """Gives the stage a message, and has it work until nothing more happens but by the passing of time. Returns its id.

        payload  a payload, or a Message with an id, headers or an origin of its own
        """
        return self.send_many([payload])[0]

    def send_many(self, payloads: Iterable[Any]) -> list[str]:
        """The same for several messages, which the stage has together."""
        ids = []
        for payload in payloads:
            n = next(self._ids)
            given = payload if isinstance(payload, Message) else Message(payload)
            id = given.id or f"{HEAD}:{n}"
            self._head.send(Message(given.payload, id, given.origin, given.headers, position=n))
            ids.append(id)
        node = self._pipeline.simulation.nodes[HEAD, 1]
        node.event(lambda: None)
        self._pipeline.settle()
        return ids

    def advance(self, time: str | float) -> None:
        """Lets time pass: "5s", or a number of seconds. Delays are as long as they can be: that of a retry has no jitter but its
        longest, and one that the plugin asks for may be longer by a quarter."""
        self._pipeline.advance(values.duration(zero=True)(time))

    def kill(self) -> None:
        """`kill -9` of the stage, which is then started again. It is given anew what it had not finished."""
        self._pipeline.kill((STAGE, 1))

    def drain(self) -> None:
        """Nothing more is sent: the stage works off what it has, closes its plugin, and ends."""
        self._pipeline.drain()

    # ---- what came of it

    @property
    def out(self) -> list[Any]:
        """The payloads of `sent`."""
        return [message.payload for message in self.sent]

    @property
    def dead(self) -> list[Dead]:
        return self._pipeline.dead()

    @property
    def attempts(self) -> Counter[str]:
        return self._pipeline.calls[STAGE]

    @property
    def filtered(self) -> int:
        """How many messages were dropped on purpose, in this life of the stage."""
        return self._pipeline.simulation.nodes[STAGE, 1].stage.counts.filtered


def _shorthand(key: str, value: Any) -> Any:
    """``batch=3`` for ``batch={"messages": 3}``, and ``workers=2`` for ``workers={"count": 2}``."""
    if isinstance(value, int) and not isinstance(value, bool) and key in ("batch", "workers"):
        return {"messages" if key == "batch" else "count": value}
    return value


def stage(
    plugin: Any,
    options: Any = None,
    *,
    batch: Any = None,
    workers: Any = None,
    last: bool = False,
    folder: Path | str | None = None,
    **keys: Any,
) -> StageRun:
    """A stage with a plugin, in this process, with the real core around it, on a virtual clock: no sockets, no threads, no sleep.

    plugin   as a config names it ("./file.py", an entry point, "module:object"), or the module, class or object itself
    options  the options as a map, or as an object of the plugin's own type. They are checked as those of a config. A secret
             is a `zpipe.Secret`
    batch    how many messages, or the keys of the config's `batch`;  workers: how many, or the keys of `workers`
    last     no stage reads from it
    folder   where the config would be: relative paths start there. The current folder, unless given
    keys     any other key of a stage: ``retry={"attempts": 2}``

    Raises ConfigError and OperatorError as a start of the stage would.
    """
    where = Path(folder or Path.cwd()).absolute()
    return StageRun(plugin, options, {"batch": batch, "workers": workers, **keys}, where, last)


def read(
    plugin: Any,
    options: Any = None,
    position: Any = None,
    *,
    limit: int = 10_000,
    folder: Path | str | None = None,
) -> list[Message]:
    """What a source gives after `position`, as messages with positions: until it ends, waits for more, or has given `limit`.

    A record that the source cannot read is a message whose payload is a `BadRecord`.
    """
    where = Path(folder or Path.cwd()).absolute()
    secrets: dict[str, str] = {}
    text = table("pipeline", {"name": "test"}) + table(
        f"stages.{HEAD}", {"plugin": plugin_name(plugin, where), "options": options or None}, secrets
    )
    text += table("stages.out", {"plugin": "discard", "input": HEAD})
    config = load(where / f"{HEAD}.toml", text=text, env=os.environ | secrets)
    loop = VirtualTimeLoop()
    loaded = plugin_loading.load(config.stages[HEAD].plugin, where).in_stage(has_input=False)
    context = make_context(config.stages[HEAD].options, config_dir=where, position=position, stage=HEAD)
    context.stopping = SourceHasNoMore()
    life = Life(loaded, context, Counter(), [], loop)
    found: list[Message] = []
    try:
        for message in read_messages(life):
            found.append(message)
            if len(found) >= limit:
                context.stopping.set()
                break
    finally:
        life.close()
        loop.close()
    return found
