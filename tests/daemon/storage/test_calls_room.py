"""The journal of calls has its room on the disk before the first call."""

from __future__ import annotations

from pathlib import Path

import pytest

from zpipe.core.upstream.upstreams import SuspectedCalls
from zpipe.daemon.storage.call_journal import SLOT_BYTES, CallJournal
from zpipe.daemon.storage.last_life import LastLifeFiles
from zpipe.errors import OperatorError


def test_a_journal_takes_its_room_at_once(tmp_path: Path) -> None:
    """A page that has none is the end of the process when it is stored into."""
    path = tmp_path / "calls"
    CallJournal(path, 3)
    assert path.stat().st_blocks * 512 >= 3 * SLOT_BYTES


def test_a_folder_that_cannot_be_written_is_the_operators(tmp_path: Path) -> None:
    files = LastLifeFiles(tmp_path / "nowhere")
    none: SuspectedCalls = {}
    assert files.found({}, True).suspects == none
    with pytest.raises(
        OperatorError, match=r"cannot write .*nowhere/calls: No such file or directory; is its folder writable"
    ):
        files.begin(1)
