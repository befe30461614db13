from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from monitor_samples import CHAIN, config, consumer, link, snapshot

from zpipe.monitor.model.events import Events
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.screen.controls import SPEEDS, Command, Controls
from zpipe.monitor.screen.terminal import KEYS, split_keys

STAGES = ["read", "map", "sink"]


def test_a_stage_is_chosen_and_paused() -> None:
    controls = Controls()
    assert controls.press("p", STAGES) is None
    assert "choose the stage" in controls.message
    controls.press("down", STAGES)
    controls.press("j", STAGES)
    assert controls.press("p", STAGES) == Command("pause", "map")
    assert controls.press("r", STAGES) == Command("resume", "map")
    controls.press("up", STAGES)
    controls.press("k", STAGES)
    assert controls.selected == "read"


def test_a_drain_asks_first() -> None:
    controls = Controls()
    assert controls.press("d", STAGES) is None
    assert controls.press("q", STAGES) is None
    assert not controls.over
    assert controls.press("d", STAGES) is None
    assert controls.press("y", STAGES) == Command("drain")
    assert controls.mode == "status"


def test_a_recording_cannot_be_asked_for_anything_but_its_time() -> None:
    controls = Controls(replay=True, selected="map")
    for key in ("p", "r", "d"):
        assert controls.press(key, STAGES) is None
        assert "recording" in controls.message
    assert controls.press("right", STAGES) == Command("step", amount=1)
    assert not controls.playing
    assert controls.press("home", STAGES) == Command("seek", amount=0.0)
    controls.press(" ", STAGES)
    assert controls.playing
    for _ in range(20):
        controls.press("+", STAGES)
    assert controls.speed == SPEEDS[-1]


@given(st.lists(st.sampled_from([*KEYS.values(), *"pqrdshjky +-?x"])), st.booleans())
def test_no_sequence_of_keys_drains_without_a_yes_or_breaks_it(keys: list[str], replay: bool) -> None:
    controls = Controls(replay=replay)
    before = ""
    for key in keys:
        command = controls.press(key, STAGES)
        if command is not None and command.what == "drain":
            assert (before, key) == ("confirm", "y")
            assert not replay
        before = controls.mode
        assert controls.mode in ("status", "details", "help", "confirm")
        assert controls.selected in (None, *STAGES)
        assert controls.scroll >= 0


def test_keys_are_told_apart() -> None:
    assert list(split_keys("j\x1b[A\x1bOBq")) == ["j", "up", "down", "q"]
    assert list(split_keys("\x1b")) == ["escape"]
    assert list(split_keys("\x1b[5~\r")) == ["pageup", "enter"]
    assert list(split_keys("\x1b[15~s\x1b[1;5C")) == ["s"]


@given(st.text())
def test_whatever_is_typed_ends(text: str) -> None:
    assert len(list(split_keys(text))) <= len(text)


# Events


def test_what_changed_is_said_once() -> None:
    events = Events()
    before = snapshot("map", [link("sink", 10, consumers=[consumer(1)])], limit={"limit": 8})
    after = snapshot(
        "map",
        [link("sink", 20, redelivered=4)],
        received=3,
        dead=2,
        paused=True,
        limit={"limit": 4, "reason": "throttled"},
        malformed=1,
    )
    events.add(before, 1.0)
    assert not events.recent
    events.add(after, 2.0)
    assert [event.text for event in events.recent] == [
        "map.1 is paused",
        "map.1 redelivered 4 to sink",
        "map.1 lost sink.1",
        "map.1 limit 8 -> 4 (throttled)",
        "map.1 2 dead letters, 2 in all",
        "map.1 1 frame that broke the protocol, 1 in all",
    ]
    events.add(after, 3.0)
    assert len(events.recent) == 6
    events.add(after | {"incarnation": "i2", "dead": 0}, 4.0)
    assert events.recent[-1].text == "map.1 was restarted: incarnation i2"


def test_dead_letters_in_a_row_are_one_event() -> None:
    events = Events()
    for n in range(5):
        events.add(snapshot("map", received=20, dead=n), float(n))
    assert [(event.at, event.text) for event in events.recent] == [(4.0, "map.1 4 dead letters, 4 in all")]
    events.add(snapshot("map", received=20, dead=4, paused=True), 5.0)
    events.add(snapshot("map", received=20, dead=5, paused=True), 6.0)
    assert [event.text for event in events.recent][1:] == ["map.1 is paused", "map.1 1 dead letter, 5 in all"]


def test_what_goes_on_beside_something_else_that_does_is_one_event_each() -> None:
    events = Events()
    for n, limit in enumerate((4, 5, 6, 3, 4)):
        reason = "throttled" if limit == 3 else "growing"
        events.add(snapshot("map", received=20, dead=n), float(n))
        events.add(snapshot("sink", limit={"limit": limit, "reason": reason}), n + 0.5)
    assert [event.text for event in events.recent] == [
        "map.1 4 dead letters, 4 in all",
        "sink.1 limit 3 -> 4 (growing), 4 changes in a row",
    ]
    events.add(snapshot("sink", limit={"limit": 5, "reason": "throttled"}), 9.0)
    assert events.recent[-1].text == "sink.1 limit 4 -> 5, 5 changes in a row"


def test_silence_and_its_end_are_events() -> None:
    model, events = PipelineModel(config(CHAIN)), Events()
    model.add(snapshot("map", at=0.0))
    for at in (1.0, 10.0, 11.0):
        events.note_silence(model.as_json(at))
    model.add(snapshot("map", at=12.0))
    events.note_silence(model.as_json(12.0))
    assert [(event.at, event.text) for event in events.recent] == [
        (10.0, "map.1 is silent"),
        (12.0, "map.1 is heard again"),
    ]
