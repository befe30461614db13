"""docs/drills.md shows no temporary folder, and its generator puts none into it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from drill_screens import SHOWN_FOLDER, with_lasting_folder

PAGE = Path(__file__).parents[2] / "docs" / "drills.md"
FOLDER = "/tmp/zp-cyda5i1q"


def test_the_page_shows_no_temporary_folder() -> None:
    text = PAGE.read_text()
    assert SHOWN_FOLDER in text
    assert "/tmp" not in text and not re.search(r"zp-\w", text)


def box(text: str, width: int) -> str:
    """As the screen draws it: in the last of three boxes, cut at its width."""
    rows = [text[at : at + width] for at in range(0, len(text), width)]
    return "\n".join(f"  │ 40/s │  ────▶┃ {row:{width}} ┃" for row in rows)


@pytest.mark.parametrize("width", range(len(FOLDER), 40))
def test_a_folder_is_replaced_wherever_a_box_wraps_it(width: int) -> None:
    text = f"the plugin: {FOLDER}/small/out.db: database is full"
    found = with_lasting_folder(f"{text}\n{box(text, width)}", FOLDER)
    assert found == "\n".join([text.replace(FOLDER, SHOWN_FOLDER), box(text.replace(FOLDER, SHOWN_FOLDER), width)])
