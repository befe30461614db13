"""The record of the config that an instance runs with. The instance writes it beside its sockets, and commands read it there.

It has only what the commands need: no plugin options, which may hold secrets, no passwords, and no address of traces. Its digests
are made from the text of the file, so they contain no value of a ${VAR}. Does not belong here: opening files.
"""

from __future__ import annotations

import json
import tomllib
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from zpipe import __version__
from zpipe.config.pipeline_config import NatsSecurity, PipelineConfig, Use
from zpipe.config.plugin_options import fill
from zpipe.config.reading.mistakes import MistakeReport
from zpipe.hookspecs import Traits

T = TypeVar("T")
FORMAT = 1


@dataclass(frozen=True)
class _RecordFields:
    """What a record has besides the config.

    version  the version of zpipe
    at       when it was written, in seconds since the epoch
    state    the folder that has the state folders of all instances
    hash     a digest of the config file as it was read
    tables   a digest of each table of the file, by the name of the table ("telemetry", "stages.parse")
    """

    version: str
    stage: str
    instance: int
    at: float
    state: Path
    hash: str
    tables: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class ConfigRecord(_RecordFields):
    """The record of one instance."""

    config: PipelineConfig


def make(config: PipelineConfig, stage: str, instance: int, at: float, state: Path) -> ConfigRecord:
    return ConfigRecord(
        __version__, stage, instance, at, state, _digest(config.text), digests(config.text), config=config
    )


def write(record: ConfigRecord) -> str:
    stages = {
        name: replace(stage, options=None, use=tuple(Use(use.plugin) for use in stage.use), traits=Traits())
        for name, stage in record.config.stages.items()
    }
    public = replace(record.config, stages=stages, text="", traces="", nats=NatsSecurity())
    return json.dumps({"format": FORMAT, **asdict(replace(record, config=public))}, default=str)


def read(text: str | bytes) -> ConfigRecord:
    """Raises ValueError if this is no record, or not one that this version can read."""
    value = json.loads(text)
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        raise ValueError(f"is no record of format {FORMAT}")
    config = _config(json.dumps(value.pop("config", None)))
    head = _filled(_RecordFields, value)
    if head.stage not in config.stages:
        raise ValueError(f"names a stage {head.stage!r} that its config does not have")
    return ConfigRecord(**vars(head), config=config)


@lru_cache(maxsize=8)
def _config(text: str) -> PipelineConfig:
    """Cached, since most instances of a pipeline have the same config and reading one takes milliseconds."""
    return _filled(PipelineConfig, json.loads(text))


def _filled(cls: type[T], value: Any) -> T:
    report = MistakeReport("", {})
    made = fill(cls, value, (), report) if isinstance(value, dict) else None
    if not isinstance(made, cls):
        raise ValueError("; ".join(f"{one.key} {one.problem}" for one in report.mistakes) or "is no table")
    return made


def digests(text: str) -> dict[str, str]:
    """A digest of each table of a valid TOML text, by name. Comments and spaces do not change it."""
    raw = tomllib.loads(text)
    stages = raw.pop("stages", {})
    tables = {**raw, **{f"stages.{name}": table for name, table in stages.items()}}
    return {name: _digest(table) for name, table in tables.items()}


def options_digest(text: str, stage: str) -> str:
    return _digest(tomllib.loads(text)["stages"][stage].get("options"))


def _digest(value: Any) -> str:
    """A CRC-32 tells two versions of one table apart. `hashlib` brings OpenSSL, 4 MiB of memory in every daemon."""
    return f"{zlib.crc32(json.dumps(value, sort_keys=True, default=str).encode()):08x}"


def merged(records: Iterable[ConfigRecord]) -> PipelineConfig:
    """The config that a pipeline runs with: the newest record, and in it each stage as its own instances last recorded it."""
    oldest_first = sorted(records, key=lambda record: record.at)
    newest = oldest_first[-1].config
    own = {record.stage: record for record in oldest_first}
    stages = {name: own[name].config.stages[name] if name in own else stage for name, stage in newest.stages.items()}
    for name, record in own.items():  # also stages that the newest config no longer has, and what they read
        for wanted in (name, *(entry.stage for entry in record.config.stages[name].inputs)):
            stages.setdefault(wanted, record.config.stages[wanted])
    return replace(newest, stages=stages)


def differences(records: Iterable[ConfigRecord], text: str) -> list[str]:
    """The names of the tables in which the file differs from what runs."""
    known, there = sorted(records, key=lambda record: record.at), digests(text)

    def running(table: str) -> set[str | None]:
        """Of a stage's table, what its own instances run by, or else the newest record. Of any other, what all of them do."""
        own = [one for one in known if table == f"stages.{one.stage}"]
        return {one.tables.get(table) for one in own or (known[-1:] if table.startswith("stages.") else known)}

    names = dict.fromkeys([*there, *(name for one in reversed(known) for name in one.tables)])
    return [name for name in names if running(name) != {there.get(name)}]
