"""The types of this folder's fixtures: a module of their own, since every folder has a `conftest`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Call = Callable[..., Result]
Write = Callable[..., Path]
