"""The image of this checkout, and the podman that runs it.

They are had only below `with-podman`, which `make test-containers` calls. Elsewhere the tests of them are deselected.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import needs
import pytest
from podman import Composition, build_image

NEEDED = (
    "root",
    "mounts",
    "podman",
    "podman-compose",
    "mmdebstrap",
    "crun",
    "catatonit",
    "netavark",
    "aardvark-dns",
    "nft",
)
MakeComposition = Callable[[str], Composition]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("ZPIPE_TEST_CONTAINERS"):
        return
    ours = [item for item in items if "image" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=ours)
    items[:] = [item for item in items if item not in set(ours)]


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> None:
    needs.skip_without(*NEEDED)
    build_image(tmp_path_factory.mktemp("base"))


@pytest.fixture
def make(image: None, tmp_path: Path) -> Iterator[MakeComposition]:
    """make("pipeline" or "stages"): not up yet."""
    made: list[Composition] = []

    def make_one(kind: str) -> Composition:
        made.append(Composition(tmp_path, kind))
        return made[-1]

    yield make_one
    for composition in made:
        composition.down()
