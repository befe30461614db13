"""Every pipeline in configs/ is right, and is named in the page about them. tests/services/test_configs.py runs them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from zpipe.config import load
from zpipe.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
FOUND = sorted(CONFIGS.glob("*.toml"))


@pytest.mark.parametrize("config", FOUND, ids=lambda path: path.stem)
def test_every_config_is_right(config: Path) -> None:
    load(config, env=os.environ | {"STDLIB": str(CONFIGS)})


def test_the_page_about_them_names_each() -> None:
    page = (CONFIGS / "README.md").read_text(encoding="utf-8")
    assert [config.name for config in FOUND if f"[`{config.name}`]({config.name})" not in page] == []


def test_thumbnails_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError) as caught:
        load(CONFIGS / "thumbnails.toml", env=dict(os.environ))
    assert [mistake.key for mistake in caught.value.mistakes] == ["stages.shrink.plugin", "stages.sheet.plugin"]
    assert all("pip install 'zpipe-stages[images]'" in mistake.problem for mistake in caught.value.mistakes)
