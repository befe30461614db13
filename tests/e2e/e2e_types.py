"""The types of this folder's fixtures: a module of their own, since every folder has a `conftest`."""

from __future__ import annotations

from collections.abc import Callable

from pipeline import Pipeline

MakePipeline = Callable[..., Pipeline]
