"""plugins/CATALOG.md is what the plugins say of themselves, and they say what a user has to know."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from zpipe.config import load
from zpipe.config.loading import report_for
from zpipe.config.plugin_options import Option
from zpipe.config.topology import advise

ROOT = Path(__file__).parents[2]
WITHOUT_FAULTS = {"discard", "generate"}
"""Nothing can go wrong in these."""


def load_catalog() -> Any:
    spec = importlib.util.spec_from_file_location("catalog_page", ROOT / "plugins" / "catalog_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


CATALOG = load_catalog()
PAGES = CATALOG.pages()


def test_the_catalogue_is_that_of_the_code() -> None:
    assert (ROOT / "plugins" / "CATALOG.md").read_text(encoding="utf-8") == CATALOG.as_markdown(), "make catalog"


def test_every_plugin_of_the_project_is_in_it() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    assert {page.name for page in PAGES} == set(declared["zpipe.plugins"])


def without_help(options: Iterable[Option], within: str = "") -> list[str]:
    found = [within + option.name for option in options if not option.help and not option.type.startswith('"')]
    return found + [name for option in options for name in without_help(option.options, f"{within}{option.name}.")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_says_what_a_user_has_to_know(page: Any) -> None:
    module = sys.modules[CATALOG.first_party()[page.name]]
    assert module.__doc__.startswith(f"`{page.name}`: "), "the first paragraph says what it does"
    assert page.summary.endswith(".")
    assert [name for options in page.options.values() for name in without_help(options)] == []
    if page.name not in WITHOUT_FAULTS:
        assert "\n\n| fault |" in page.text
        assert re.search(r"redeliver|\*\*Resume", page.text, re.IGNORECASE)


EXAMPLES = [
    pytest.param(text, id=f"{page.name}-{number}")
    for page in PAGES
    for number, text in enumerate(re.findall(r"^```toml\n(.*?)^```$", page.text, re.MULTILINE | re.DOTALL))
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_config_without_a_mistake_or_a_warning(example: str, tmp_path: Path) -> None:
    """With a stage for each that it reads from and does not show, and a sink where nothing reads from it."""
    stages = tomllib.loads(example)["stages"]
    read = {
        name.partition(".")[0]
        for stage in stages.values()
        for name in [stage.get("input", [])]
        if isinstance(name, str)
    }
    more = "".join(f'[stages.{name}]\nplugin = "generate"\n' for name in sorted(read - stages.keys()))
    heads = [name for name, stage in stages.items() if "input" not in stage and name not in read]
    more += "".join(f'[stages.{name}_end]\nplugin = "discard"\ninput = "{name}"\n' for name in heads)
    env = dict.fromkeys(re.findall(r"\$\{(\w+)\}", example), "mailto://a.example")
    path = tmp_path / "p.toml"
    config = load(path, text=f'[pipeline]\nname = "p"\n{more}{example}', env=env)
    report = report_for(config, str(path), env)
    advise(config, report)
    assert report.mistakes == []
