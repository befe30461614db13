"""Every pipeline in configs/ is right, and is named in the page about them. tests/services/test_configs.py runs them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zpipe.config import load

CONFIGS = Path(__file__).parents[2] / "configs"
FOUND = sorted(CONFIGS.glob("*.toml"))


@pytest.mark.parametrize("config", FOUND, ids=lambda path: path.stem)
def test_every_config_is_right(config: Path) -> None:
    load(config, env=os.environ | {"STDLIB": str(CONFIGS)})


def test_the_page_about_them_names_each() -> None:
    page = (CONFIGS / "README.md").read_text(encoding="utf-8")
    assert [config.name for config in FOUND if f"[`{config.name}`]({config.name})" not in page] == []
