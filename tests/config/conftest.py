"""Configs as real files, with plugins that are files beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from config_types import Problems, Read

from zpipe.config import PipelineConfig, load
from zpipe.errors import ConfigError

SOURCE = """
from zpipe import hookimpl

@hookimpl
def zpipe_source(context):
    yield 0, None

@hookimpl
def zpipe_outlets():
    return ("errors", "rest")
"""
ODD_OUTLETS = """
from zpipe import hookimpl

@hookimpl
def zpipe_process(message, context):
    return message.payload

@hookimpl
def zpipe_outlets():
    return ("dead",)
"""
STEP = """
from zpipe import hookimpl

@hookimpl
def zpipe_process(message, context):
    return message.payload
"""
LATER = """
from zpipe import hookimpl

@hookimpl
async def zpipe_process(message):
    return message.payload
"""
BATCHES = """
from zpipe import hookimpl

@hookimpl
def zpipe_process_batch(messages, context):
    return None
"""
TYPED = """
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, Literal

from zpipe import hookimpl

class Colour(Enum):
    RED = "red"
    DARK_BLUE = "dark-blue"

class Level(IntEnum):
    low = 1
    high = 2

@dataclass
class Server:
    host: str
    port: int = 80

@dataclass
class Options:
    name: str
    count: int = 1
    rate: float | None = None
    loud: bool = False
    path: Path = Path(".")
    tags: list[str] = field(default_factory=list)
    sizes: tuple[int, ...] = ()
    pair: tuple[str, int] = ("", 0)
    colour: Colour = Colour.RED
    level: Level | None = None
    weights: dict[str, float] = field(default_factory=dict)
    either: int | list[str] = 0
    mode: Literal["fast", "safe", 3] = "safe"
    server: Server | None = None
    extra: Any = None

    def __post_init__(self):
        if self.name == "nobody":
            raise ValueError("nobody is not a name")

@hookimpl
def zpipe_options():
    return Options

@hookimpl
def zpipe_process(message, context):
    return message.payload
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    for name, text in {
        "source": SOURCE,
        "step": STEP,
        "batches": BATCHES,
        "typed": TYPED,
        "later": LATER,
        "odd_outlets": ODD_OUTLETS,
    }.items():
        (tmp_path / f"{name}.py").write_text(text)

    def write(text: str) -> Path:
        path = tmp_path / "pipeline.toml"
        path.write_text(text)
        return path

    return write


ENV = {"ZPIPE_RUNTIME_DIR": "/run/z"}


@pytest.fixture
def read(write: Callable[[str], Path]) -> Read:
    """Loads a text as a config."""

    def read(text: str, env: Mapping[str, str] = ENV) -> PipelineConfig:
        return load(write(text), env=env)

    return read


@pytest.fixture
def problems(read: Read, tmp_path: Path) -> Problems:
    """The mistakes of a text as they are printed, without the name of the file; none for a right one."""

    def problems(text: str, env: Mapping[str, str] = ENV) -> list[str]:
        try:
            read(text, env)
        except ConfigError as error:
            return [str(mistake).removeprefix(f"{tmp_path}/pipeline.toml:") for mistake in error.mistakes]
        return []

    return problems
