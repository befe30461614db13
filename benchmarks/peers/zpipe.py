"""zpipe itself: a pipeline written to a file, run by `zpipe run`, measured from outside, drained at the end.

Does not belong here: what any one benchmark puts into the pipeline.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.benchmark import Unavailable
from benchmarks.peers import roles
from benchmarks.processes import children, command_line, end, wait_until
from benchmarks.tally import Tally
from benchmarks.window import Load, Running

PLUGINS = Path(__file__).parents[1] / "plugins"
END_S = 120.0
"""A drain takes no longer."""


class Pipeline:
    """A pipeline in a folder of its own, with the benchmarks' plugins beside its config."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        self.config = folder / "bench.toml"
        self.config.write_text(text.replace("FOLDER", str(folder)))
        self.tally = Tally.create(folder / "tally")
        for plugin in PLUGINS.glob("*.py"):
            shutil.copy(plugin, folder)
        folders = {"ZPIPE_RUNTIME_DIR": str(folder / "r"), "ZPIPE_STATE_DIR": str(folder / "s")}
        self.env = {**os.environ, **folders, "PYTHONPATH": str(roles.ROOT)}
        self.run: subprocess.Popen[str] | None = None

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "zpipe", *arguments]

    def start(self) -> None:
        """Starts `zpipe run`."""
        with (self.folder / "out").open("w") as out, (self.folder / "errors").open("w") as errors:
            command = self.command("run", str(self.config), "--json", "--quiet")
            self.run = subprocess.Popen(command, env=self.env, stdout=out, stderr=errors, text=True)

    def stage(self, stage: str, instance: int, **env: str) -> subprocess.Popen[str]:
        """Starts one instance by itself."""
        command = self.command("stage", str(self.config), stage, "--instance", str(instance), "--log-level", "error")
        return subprocess.Popen(command, env={**self.env, **env}, stdout=subprocess.DEVNULL, text=True)

    # ---- looking on

    def instances(self) -> dict[str, list[int]]:
        """The processes of each stage that `zpipe run` has started."""
        assert self.run is not None
        found: dict[str, list[int]] = {}
        for pid in children().get(self.run.pid, []):
            words = command_line(pid)
            if "stage" in words:
                found.setdefault(words[words.index("stage") + 2], []).append(pid)
        return found

    def pids(self) -> Mapping[str, Sequence[int]]:
        """By role: all stages between source and sink are "map"; `zpipe run` itself, which units do without, is "run"."""
        assert self.run is not None
        found: dict[str, list[int]] = {"run": [self.run.pid]}
        for stage, of_stage in self.instances().items():
            found.setdefault("map" if stage.startswith("map") else stage, []).extend(of_stage)
        return found

    def snapshot(self) -> dict[str, Any]:
        """What `zpipe monitor --once --json` says."""
        command = self.command("monitor", str(self.config), "--once", "--json")
        shown = subprocess.run(command, env=self.env, capture_output=True, text=True, check=True, timeout=60)
        found: dict[str, Any] = json.loads(shown.stdout)
        return found

    def check(self) -> None:
        if self.run is not None and self.run.poll() is not None:
            self._failed(f"ended with {self.run.returncode}")

    # ---- the end

    def finish(self) -> None:
        """Waits until it has ended by itself. Anything but a balanced ledger is an error."""
        assert self.run is not None
        try:
            self.run.wait(END_S)
        except subprocess.TimeoutExpired:
            self._failed(f"did not end within {END_S:g} s")
        if self.run.returncode:
            self._failed(f"ended with {self.run.returncode}")

    def drain(self) -> None:
        """Has it drained, as by Ctrl-C."""
        assert self.run is not None
        self.run.send_signal(signal.SIGINT)
        self.finish()

    def end(self) -> None:
        """It is over after this: a killed `zpipe run` takes its children with it."""
        if self.run is not None:
            end(self.run, signal.SIGKILL)
            wait_until(lambda: not self.survivors(), "the end of all instances")

    def survivors(self) -> list[int]:
        """Processes that still run an instance of this pipeline."""
        everyone = {pid for of_one in children().values() for pid in of_one}
        return [pid for pid in everyone if str(self.config) in command_line(pid)]

    def _failed(self, how: str) -> None:
        errors = (self.folder / "errors").read_text()
        raise RuntimeError(f"zpipe run {how}:\n{errors[-3000:]}")


@contextmanager
def pipeline(text: str) -> Iterator[Pipeline]:
    """A pipeline that is not started yet. FOLDER in the text is its folder."""
    with roles.folder() as folder:
        made = Pipeline(folder, text)
        try:
            yield made
        finally:
            made.end()


@dataclass(frozen=True)
class Zpipe:
    """source -> map -> sink.

    middles    stages between source and sink, one after another;  instances: of each of them
    map_lines  more lines of TOML for these;  stage_lines: for every stage
    plugin     the plugin of the middle stages, with its options
    """

    name: str = "zpipe"
    middles: int = 1
    instances: int = 1
    plugin: str = 'plugin = "python"\noptions = { function = "benchmarks.touch:touch" }'
    map_lines: str = ""
    stage_lines: str = ""

    def text(self, load: Load) -> str:
        pace = "" if load.rate is None else f"rate = {load.rate:g}, "
        timed = "false" if load.rate is None else "true"
        stages = [f'[stages.source]\nplugin = "generate"\noptions = {{ {pace}{load.payload.options()} }}']
        names = ["source"] + [f"map{n + 1:02}" for n in range(self.middles)]
        for before, name in pairwise(names):
            own = f'input = "{before}"\ninstances = {self.instances}\n{self.plugin}\n{self.map_lines}'
            stages.append(f"[stages.{name}]\n{own}")
        note = f'tally = "FOLDER/tally", stride = {load.stride}, timed = {timed}'
        stages.append(f'[stages.sink]\ninput = "{names[-1]}"\nplugin = "./counting_sink.py"\noptions = {{ {note} }}')
        return '[pipeline]\nname = "bench"\n\n' + "\n\n".join(f"{stage}\n{self.stage_lines}" for stage in stages) + "\n"

    @contextmanager
    def running(self, load: Load) -> Iterator[Running]:
        if self.stage_lines:
            _require_config(self.text(load), self.stage_lines)
        with pipeline(self.text(load)) as made:
            made.start()
            yield made
            made.drain()


@cache
def _require_config(text: str, lines: str) -> None:
    """Raises Unavailable if this zpipe refuses these lines, which are newer than others."""
    with roles.folder() as folder:
        made = Pipeline(folder, text)
        command = made.command("check", str(made.config))
        checked = subprocess.run(command, check=False, env=made.env, capture_output=True, text=True)
        if checked.returncode:
            said = (checked.stdout + checked.stderr).replace(f"{folder}/", "").splitlines()
            raise Unavailable(f"zpipe check refuses {lines}" + (f": {said[0].partition(';')[0]}" if said else ""))


def wait_for(made: Pipeline, ready: Callable[[], bool], what: str) -> None:
    """Waits for something in a pipeline that runs, which must not end meanwhile."""

    def holds() -> bool:
        made.check()
        return ready()

    wait_until(holds, what)
