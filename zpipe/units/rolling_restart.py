"""Restarts the units of a pipeline that runs, one after the other. Does not belong here: unit files, and a stop of the whole."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter

from zpipe.config import PipelineConfig
from zpipe.errors import NoPeerError, OperatorError
from zpipe.units.systemctl import BOOTED
from zpipe.units.unit_files import monitor_name
from zpipe.units.unit_names import UnitError, parse

_RUNNING = "--state=active,activating,reloading"


def running_units(config: PipelineConfig) -> list[str]:
    """The units of the pipeline that run on this machine, tail first. Raises NoPeerError if there are none, OperatorError."""
    if not BOOTED.is_dir():
        raise NoPeerError(f"systemd does not run on this machine, and so no unit of pipeline {config.name!r}")
    patterns = (f"zpipe@{config.name}.*.service", monitor_name(config.name))
    listed = _systemctl("list-units", "--plain", "--no-legend", _RUNNING, *patterns).stdout
    units = tail_first(config, (line.split()[0] for line in listed.splitlines()))
    if not units:
        raise NoPeerError(f"no unit of pipeline {config.name!r} runs on this machine")
    return units


def tail_first(config: PipelineConfig, units: Iterable[str]) -> list[str]:
    """The units in the order of a restart: the last stages first, then the head, then what serves metrics. So an instance that
    finishes its work finds the next stage restarted already, and the head never waits for two restarts in a row."""
    upstream = {stage.name: [entry.stage for entry in stage.inputs] for stage in config.stages.values()}
    depths = {stage: depth for depth, stage in enumerate(TopologicalSorter(upstream).static_order())}

    def place(name: str) -> tuple[int, int]:
        try:
            unit = parse(name.removeprefix("zpipe@").removesuffix(".service"))
        except UnitError:
            return 1, 0  # what serves metrics
        return -depths.get(unit.stage, 0), unit.instance

    return sorted(units, key=place)


def restart(units: list[str]) -> Iterator[str]:
    """Restarts the units in that order; yields each one when it is ready. Blocks for as long as the units take.

    Raises OperatorError at the first one that does not come back. Those behind it run on as they are.
    """
    for number, unit in enumerate(units):
        done = _systemctl("restart", unit)
        if done.returncode:
            behind = ", ".join(units[number + 1 :]) or "none"
            raise OperatorError(f"{unit} did not come back: {done.stderr.strip()}\nnot restarted: {behind}")
        yield unit


def _systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise OperatorError(f"cannot run systemctl: {error.strerror}") from error
