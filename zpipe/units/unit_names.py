"""The names of units: reads PIPELINE.STAGE.N, and finds the instance in its config. Not here: what a unit file says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from zpipe.config import PipelineConfig
from zpipe.config import load as load_config
from zpipe.errors import ExitCode, ZpipeError
from zpipe.runtime.places import SYSTEM_CONFIGS

_NAME = "[A-Za-z0-9_-]+", "letters, digits, '-' or '_'"
_PARTS = {"PIPELINE": _NAME, "STAGE": _NAME, "N": ("[1-9][0-9]{0,5}", "a whole number from 1")}


class UnitError(ZpipeError):
    """A name of a unit that stands for no instance that could run."""

    exit_code = ExitCode.USAGE


class Unit(NamedTuple):
    """One instance of a stage, as its unit names it between @ and .service."""

    pipeline: str
    stage: str
    instance: int

    @property
    def config(self) -> Path:
        return config_path(self.pipeline)

    def __str__(self) -> str:
        return f"{self.pipeline}.{self.stage}.{self.instance}"


def config_path(pipeline: str) -> Path:
    """The config that the units of a pipeline read."""
    return SYSTEM_CONFIGS / f"{pipeline}.toml"


def parse(text: str) -> Unit:
    """Raises UnitError if `text` is not PIPELINE.STAGE.N."""
    parts = text.split(".")
    allowed = "PIPELINE.STAGE.N, such as index.parse.1"
    if len(parts) != 3:
        raise UnitError(f"{text!r} is no name of a unit: it must be {allowed}")
    for part, (what, (pattern, rule)) in zip(parts, _PARTS.items(), strict=True):
        if not re.fullmatch(pattern, part):
            raise UnitError(f"{text!r} is no name of a unit ({allowed}): its {what} {part!r} must be {rule}")
    return Unit(parts[0], parts[1], int(parts[2]))


def load(text: str) -> tuple[Unit, PipelineConfig]:
    """The instance that PIPELINE.STAGE.N names, and its config with the plugin of its stage. Raises ConfigError, and UnitError or
    TargetError if the config has no such instance and could not have one."""
    unit = parse(text)
    config = load_config(unit.config, only=unit.stage)
    if config.name != unit.pipeline:
        raise UnitError(
            f"{config.path} is named for pipeline {unit.pipeline!r}, but [pipeline] name in it is {config.name!r}: "
            "make them the same"
        )
    stage = config.stage(unit.stage)
    if not stage.inputs and unit.instance > 1:
        raise UnitError(
            f"{unit}: stages.{unit.stage} in {config.path} is a head, which has one instance: each would read the whole source"
        )
    if stage.hosts and unit.instance > len(stage.hosts):
        raise UnitError(f"{unit}: stages.{unit.stage} in {config.path} has {len(stage.hosts)} instances on its hosts")
    if stage.listen and unit.instance > len(stage.listen):
        raise UnitError(
            f"{unit}: stages.{unit.stage}.listen in {config.path} has {len(stage.listen)} addresses: add one for instance "
            f"{unit.instance}"
        )
    return unit, config
