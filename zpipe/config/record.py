"""What an instance runs by, as it leaves it beside its sockets for the commands that ask it.

May live here: making a record of a config, reading one back, and where a file differs from it. It opens no files.

A record has what the commands need and no more: no options, which are the plugin's and may hold secrets, and no address of
traces. The digests are of the file's own text, so no value of a ${VAR} is in them either.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from zpipe import __version__
from zpipe.config.mistakes import Mistakes
from zpipe.config.options import fill
from zpipe.config.pipeline import PipelineConfig
from zpipe.hookspecs import Traits

T = TypeVar("T")
FORMAT = 1


@dataclass(frozen=True)
class _Head:
    """What a record has besides the config.

    version  of zpipe
    at       when it was written, in seconds since the epoch
    state    the folder that all instances share for what outlives them
    hash     SHA-256 of the file as it was read
    tables   of each table of the file: a digest, by its name ("telemetry", "stages.parse")
    """

    version: str
    stage: str
    instance: int
    at: float
    state: Path
    hash: str
    tables: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Record(_Head):
    """One instance's own."""

    config: PipelineConfig


def make(config: PipelineConfig, stage: str, instance: int, at: float, state: Path) -> Record:
    whole = hashlib.sha256(config.text.encode()).hexdigest()
    return Record(__version__, stage, instance, at, state, whole, digests(config.text), config=config)


def write(record: Record) -> str:
    stages = {name: replace(stage, options=None, traits=Traits()) for name, stage in record.config.stages.items()}
    public = replace(record.config, stages=stages, text="", traces="")
    return json.dumps({"format": FORMAT, **asdict(replace(record, config=public))}, default=str)


def read(text: str | bytes) -> Record:
    """Raises ValueError for what is no record that this version can read."""
    value = json.loads(text)
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        raise ValueError(f"is no record of format {FORMAT}")
    config = _config(json.dumps(value.pop("config", None)))
    head = _filled(_Head, value)
    if head.stage not in config.stages:
        raise ValueError(f"names a stage {head.stage!r} that its config does not have")
    return Record(**vars(head), config=config)


@lru_cache(maxsize=8)
def _config(text: str) -> PipelineConfig:
    """Most instances of a pipeline run by the same config, and reading one takes milliseconds."""
    return _filled(PipelineConfig, json.loads(text))


def _filled(cls: type[T], value: Any) -> T:
    report = Mistakes("", {})
    made = fill(cls, value, (), report) if isinstance(value, dict) else None
    if not isinstance(made, cls):
        raise ValueError("; ".join(f"{one.key} {one.problem}" for one in report.mistakes) or "is no table")
    return made


def digests(text: str) -> dict[str, str]:
    """Of each table of a config that is valid TOML. Comments and blanks do not count."""
    raw = tomllib.loads(text)
    stages = raw.pop("stages", {})
    tables = {**raw, **{f"stages.{name}": table for name, table in stages.items()}}
    return {name: _digest(table) for name, table in tables.items()}


def options_digest(text: str, stage: str) -> str:
    return _digest(tomllib.loads(text)["stages"][stage].get("options"))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def merged(records: Iterable[Record]) -> PipelineConfig:
    """What a pipeline runs by: the newest record, and for each stage the newest of its own instances."""
    oldest_first = sorted(records, key=lambda record: record.at)
    newest = oldest_first[-1].config
    own = {record.stage: record for record in oldest_first}
    stages = {name: own[name].config.stages[name] if name in own else stage for name, stage in newest.stages.items()}
    for name, record in own.items():  # a stage that the newest config has no more, and what it reads
        for wanted in (name, *(entry.stage for entry in record.config.stages[name].inputs)):
            stages.setdefault(wanted, record.config.stages[wanted])
    return replace(newest, stages=stages)


def differences(records: Iterable[Record], text: str) -> list[str]:
    """Names of the tables in which the file says something else than what runs."""
    oldest_first = sorted(records, key=lambda record: record.at)
    there = digests(text)
    running: dict[str, set[str | None]] = {name: {one} for name, one in oldest_first[-1].tables.items()}
    own: dict[str, set[str | None]] = {}
    for record in oldest_first:
        table = f"stages.{record.stage}"
        own.setdefault(table, set()).add(record.tables.get(table))
        for name in record.tables.keys() | there.keys():
            if not name.startswith("stages."):
                running.setdefault(name, set()).add(record.tables.get(name))
    running |= own
    names: Mapping[str, None] = dict.fromkeys([*there, *running])
    return [name for name in names if running.get(name, {None}) != {there.get(name)}]
