"""The types of this folder's fixtures: a module of their own, since every folder has a `conftest`."""

from __future__ import annotations

from collections.abc import Callable

from zpipe.config import PipelineConfig

Read = Callable[..., PipelineConfig]
Problems = Callable[..., list[str]]
