"""`pipeline`: a whole pipeline from its config, in which a test kills stages and spoils links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from zpipe.config import load
from zpipe.config.reading import values
from zpipe.errors import TargetError
from zpipe.messages import Message
from zpipe.plugin_loading import nearest_name
from zpipe.testing.network import Faults
from zpipe.testing.plugin_runs.simulated_pipeline import Dead, SimulatedPipeline

Time = str | float


class PipelineRun:
    """A pipeline under test. To be used in a ``with`` block, at whose end every rule of zpipe must have held.

    received  the messages that a stage's plugin was called for, by stage, in order;  dead: the dead letters of all stages
    attempts  how often a plugin was called for a message: ``attempts["parse"][id]``
    """

    def __init__(self, path: Path, seed: int) -> None:
        self._config = load(path)
        self._pipeline = SimulatedPipeline(self._config, self._config.stages, seed)
        self._pipeline.start()

    def __enter__(self) -> PipelineRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipeline.leave(failed=kind is not None)

    # ---- time

    def run(self) -> None:
        """Until the sources have ended and all stages are done. Raises AssertionError if the pipeline does not balance."""
        self._pipeline.finish()

    def advance(self, time: Time) -> None:
        """Lets so much time pass: "5s", or a number of seconds."""
        self._pipeline.simulation.clock.advance(_seconds(time))
        self._pipeline.check()

    def drain(self) -> None:
        """Has the sources end, and works off what is held."""
        self._pipeline.drain()

    # ---- what goes wrong

    def kill(self, stage: str, instance: int = 1) -> None:
        """`kill -9`; it is started again after 0.1 s."""
        key = self._key(stage, instance)
        if key in self._pipeline.simulation.nodes:
            self._pipeline.end_life(key)

    def freeze(self, stage: str, time: Time, instance: int = 1) -> None:
        """SIGSTOP for a while; nothing to one that was killed a moment ago."""
        key, seconds = self._key(stage, instance), _seconds(time)
        if key in self._pipeline.simulation.nodes:
            self._pipeline.simulation.freeze(key, seconds)

    def stall(self, link: str, time: Time) -> None:
        """Nothing passes on a link, such as "read->parse", for a while. Then all of it arrives."""
        upstream, _, downstream = map(str.strip, link.partition("->"))
        links = {(input.stage, stage.name) for stage in self._config.stages.values() for input in stage.inputs}
        if (upstream, downstream) not in links:
            near = nearest_name(link, known := sorted(f"{one}->{other}" for one, other in links))
            hint = f" (did you mean {near!r}?)" if near else f": there are {', '.join(known) or 'none'}"
            raise TargetError(f"there is no link {link!r}{hint}")
        self._pipeline.simulation.network.stall(upstream, downstream, self._pipeline.simulation.now + _seconds(time))

    def spoil(self, *, delay: Time = 0.0, duplicate: float = 0.0, drop: float = 0.0, reorder: bool = False) -> None:
        """What becomes of frames from now on: late by up to `delay`; with which chance a control frame is doubled or lost;
        whether later ones overtake. Parcels keep their order, as on any connection."""
        late_s = _seconds(delay)
        faults = Faults(drop=drop, duplicate=duplicate, delay_s=late_s, reorder=reorder, connect_s=late_s)
        self._pipeline.simulation.network.spoil(faults)

    def _key(self, stage: str, instance: int = 1) -> tuple[str, int]:
        if stage not in self._config.stages:
            near = nearest_name(stage, self._config.stages)
            raise TargetError(f"there is no stage {stage!r}" + (f" (did you mean {near!r}?)" if near else ""))
        most = self._config.stages[stage].instances
        if not 1 <= instance <= most:
            raise TargetError(f"stage {stage!r} has no instance {instance}: allowed are 1 to {most}")
        return stage, instance

    # ---- what came of it

    @property
    def received(self) -> Mapping[str, list[Message]]:
        return self._pipeline.received

    @property
    def attempts(self) -> Mapping[str, Counter[str]]:
        return self._pipeline.calls

    @property
    def dead(self) -> list[Dead]:
        return self._pipeline.dead()


def _seconds(time: Time) -> float:
    return values.duration(zero=True)(time)


def pipeline(config: Path | str, *, seed: int = 0) -> PipelineRun:
    """The pipeline of a config file, with its real plugins, in this process on a virtual clock. Raises ConfigError.

    seed  of the network's chance: the same one makes the same run
    """
    return PipelineRun(Path(config), seed)
