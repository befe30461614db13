"""The screens of drills as docs/drills.md shows them: with a folder that lasts in place of the temporary one."""

from __future__ import annotations

import re

SHOWN_FOLDER = "/srv/zpipe/drill"


def with_lasting_folder(screen: str, folder: str) -> str:
    """The screen with SHOWN_FOLDER in place of the temporary folder, also where a box wraps its name. The two are equally long,
    so nothing else moves."""
    assert len(folder) == len(SHOWN_FOLDER), folder
    screen = screen.replace(folder, SHOWN_FOLDER)
    for cut in range(1, len(folder)):
        wrapped = re.escape(folder[:cut]) + r"( *[┃│]?[^\n]*\n[^\n]*[┃│ ] ?)" + re.escape(folder[cut:])
        screen = re.sub(wrapped, rf"{SHOWN_FOLDER[:cut]}\1{SHOWN_FOLDER[cut:]}", screen)
    return screen
