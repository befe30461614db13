"""The screen at every size: nothing that has to be read is lost, and nothing reaches over its edge."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitor_samples import CHAIN, UNSENT_BOUND, budget, config, link, snapshot
from rich.cells import cell_len

from zpipe.monitor.model.events import Events
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.screen.controls import LEAVING, LOOKING, MEANINGS, OPERATING, REPLAYING, Controls
from zpipe.monitor.screen.screen import KEYS, QUESTIONS, REPLAY_KEYS, Shown, Size, keys, screen
from zpipe.monitor.table.columns import plain, wrap
from zpipe.monitor.table.glyphs import ASCII, UNICODE
from zpipe.monitor.table.pipeline_status import RateHistory

REAL = [Size(80, 24), Size(60, 20), Size(40, 12), Size(200, 60)]
WHY = "no room on the disk of /var/lib/zpipe: 0 bytes are left, and 4,096 are needed to write a position"


def value(**of_sink: Any) -> dict[str, Any]:
    model = PipelineModel(config(CHAIN, {"map": 3}))
    for at in (100.0, 101.0):
        rows = [link("map", int(4000 + at), unsent=UNSENT_BOUND)]
        model.add(snapshot("read", rows, received=976, at=at, finished=500, total=2000, budget=budget(blocked=0.9)), at)
        for n in (1, 2):
            more = {"instance": n, "budget": budget(working=0.97), "rate_out": 1e4, "dead": 3}
            model.add(snapshot("map", [link("sink", 900)], received=976, at=at, **more), at)
        model.add(snapshot("sink", received=900, at=at, **of_sink), at)
    return model.as_json(102.0)


def drawn(
    shown: dict[str, Any], size: Size, controls: Controls, waits: str = "", ascii_only: bool = False
) -> list[str]:
    history, events = RateHistory(), Events()
    history.add(shown)
    events.note_silence(shown | {"at": 1e6})
    made = Shown(shown, history, events.recent, "12:00:00", waits)
    lines = [plain(line) for line in screen(made, controls, size, ASCII if ascii_only else UNICODE)]
    assert len(lines) == size.height
    assert max(map(len, lines), default=0) <= size.width
    return lines


def words(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


def scrolled(shown: dict[str, Any], size: Size, controls: Controls) -> str:
    """All that can be read by moving down."""
    seen: list[str] = []
    while True:
        *lines, last, _ = drawn(shown, size, controls)
        found = re.match(r"lines (\d+)-(\d+) of (\d+): up, down", last)
        if found is None:
            assert not seen
            return words([*lines, last])
        first, end, total = map(int, found.groups())
        assert first - 1 <= len(seen)
        seen[first - 1 :] = lines[-(end - first + 1) :]
        if end == total:
            return words(seen)
        controls.press("down", list(CHAIN))


@pytest.mark.parametrize("size", REAL)
def test_sentences_are_whole(size: Size) -> None:
    shown = value()
    text = words(drawn(shown, size, Controls()))
    verdict = shown["bottleneck"]
    assert words([f"{verdict['why']}; {verdict['advice']}"]) in text
    assert "map.3: not heard of" in text
    waits = "Waiting for pipeline 'p' to start: no instance is heard of yet (runtime folder /run/user/1000/zpipe)"
    assert waits in words(drawn(shown, size, Controls(), waits))


@pytest.mark.parametrize("size", REAL)
def test_a_reason_that_is_long_leaves_the_bottleneck_and_is_whole_in_the_details(size: Size) -> None:
    shown = value(held_by=WHY)
    verdict = shown["bottleneck"]
    assert words([f"{verdict['why']}; {verdict['advice']}"]) in words(drawn(shown, size, Controls()))
    controls = Controls(mode="details", selected="sink")
    assert f"sink.1 is held up: {WHY}" in scrolled(shown, size, controls)
    assert words([verdict["why"]]) in scrolled(shown, size, Controls(mode="details", selected=verdict["stage"]))


def test_who_was_not_heard_yet_is_not_marked_as_gone() -> None:
    model = PipelineModel(config(CHAIN, {"map": 2}), 100.0)
    model.add(snapshot("map"), 100.0)
    shown = model.as_json(100.5)
    lines = drawn(shown, Size(80, 24), Controls())
    assert sum(" unheard " in line for line in lines) == 2
    assert "map.2: not heard of yet" in lines
    assert "absent" not in words(lines) and "not running" not in words(lines)
    assert "map.2 is not heard of yet" in words(drawn(shown, Size(80, 24), Controls(mode="details", selected="map")))


@pytest.mark.parametrize("size", [*REAL, Size(30, 8)])
@pytest.mark.parametrize("replay", [False, True])
def test_help_is_whole_or_can_be_moved(size: Size, replay: bool) -> None:
    controls = Controls(replay=replay)
    controls.press("h", list(CHAIN))
    text = scrolled(value(), size, controls)
    for named, what in (*LOOKING, *(REPLAYING if replay else OPERATING), *LEAVING, *MEANINGS):
        assert named in text and words([what.split(",")[0]])[:20] in text, (named, text)
    assert controls.mode == "help"
    controls.press("x", list(CHAIN))
    assert controls.mode == "status"


@pytest.mark.parametrize("size", REAL)
def test_the_question_before_a_drain_is_whole(size: Size) -> None:
    controls = Controls()
    controls.press("d", list(CHAIN))
    assert QUESTIONS[0] in words(drawn(value(), size, controls))
    lines = drawn(value(), Size(20, 5), controls)
    assert QUESTIONS[1] in words(lines)
    assert words(drawn(value(), Size(14, 3), controls)).endswith(QUESTIONS[2])


def test_keys_are_in_one_line_and_help_and_quit_always() -> None:
    for bound in (KEYS, REPLAY_KEYS):
        assert keys(bound, 200) == "  ".join(bound)
        for width in range(20, 200):
            line = keys(bound, width)
            assert len(line) <= width and line.endswith("h help  q quit")
            assert width < 50 or all(word.split()[0] in line.split() for word in bound)


def test_an_answer_that_is_long_is_whole() -> None:
    controls = Controls(message="parse.1, parse.2, parse.3 does not answer: is it running?")
    for size in REAL:
        assert controls.message in words(drawn(value(), size, controls))


@settings(deadline=None, max_examples=300)
@given(
    st.integers(1, 130),
    st.integers(1, 45),
    st.sampled_from(["status", "details", "help", "confirm"]),
    st.sampled_from([None, "read", "map", "sink"]),
    st.integers(0, 1000),
    st.sampled_from(["", WHY, "災害" * 60, "\x1b[2J\x1b]0;title\x07\n\n\u202e"]),
    st.booleans(),
)
def test_no_size_breaks_it(
    width: int, height: int, mode: str, selected: str | None, scroll: int, why: str, ascii_only: bool
) -> None:
    controls = Controls(mode=mode, selected=selected, scroll=scroll, message=why if mode == "status" else "")
    shown = value(held_by=why, **({"limit": {"limit": 3, "reason": why}} if why else {}))
    for line in drawn(shown, Size(width, height), controls, ascii_only=ascii_only):
        assert line.isprintable()
        assert cell_len(line) <= max(width, 2)


def test_a_sentence_is_broken_by_what_its_characters_take() -> None:
    lines = [plain(line) for line in wrap("災害 " * 3, 10, indent="")]
    assert lines == ["災害 災害", "災害"]
    assert all(cell_len(plain(line)) <= 7 for line in wrap("災害災害災害", 7))
    assert [plain(line) for line in wrap("a\x1b[2Jb", 80)] == ["a\\u001b[2Jb"]
    assert [plain(line) for line in wrap("0123456789", 4)] == ["0123", "4567", "89"]
