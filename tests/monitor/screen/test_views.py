"""The views: every size, nothing cut that has to be read, and the facts that a view is for."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
from monitor_samples import config
from screens import SIZES, STATES, letters, load, many, orders, played, twenty

from zpipe.core.policy import BufferPolicy
from zpipe.monitor.model.history import Depth
from zpipe.monitor.screen.app import VIEWS
from zpipe.monitor.screen.header import SentenceRoom, header, sentence
from zpipe.monitor.screen.pane import Choice, Pane, Shown, View, share_bar
from zpipe.monitor.screen.views.letters_view import folded, letters_of, reason_key
from zpipe.monitor.screen.views.links_view import plot_lines, scale
from zpipe.monitor.screen.views.stage_view import histogram_lines, merged_histogram
from zpipe.monitor.table.columns import plain, width_of, wrap
from zpipe.monitor.table.glyphs import ASCII, UNICODE


@lru_cache(maxsize=20)
def state(name: str) -> Shown:
    return STATES[name]()._replace(letters=letters())


def texts(pane: Pane | None) -> list[str]:
    return [] if pane is None else [plain(line) for line in (*pane.head, *pane.lines)]


def seen(view: View) -> str:
    return "\n".join([*texts(view.main), *texts(view.side), *texts(view.below)])


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("size", SIZES)
def test_every_view_keeps_within_its_width_and_names_every_stage(name: str, size: tuple[int, int]) -> None:
    shown, (width, height) = state(name), size
    for number, view in VIEWS.items():
        made = view(shown, Choice(number), width, height - 6)
        for line in (*made.main.head, *made.main.lines, *(made.below.lines if made.below else [])):
            room = width - (made.side_width if line not in (made.below.lines if made.below else []) else 0)
            assert number in (5,) or width_of(line) <= room, (number, plain(line))
        if number in (1, 2):
            text = seen(made)
            for stage in shown.value["stages"]:
                assert stage in text, (number, stage)
    for line in (*header(shown, width, height), *sentence(shown, width, height)):
        assert width_of(line) <= width


@pytest.mark.parametrize("name", STATES)
def test_the_sentence_is_whole_on_every_size(name: str) -> None:
    shown = state(name)
    bottleneck = shown.value["bottleneck"]
    for width, height in SIZES:
        text = " ".join(" ".join(plain(line) for line in sentence(shown, width, height)).split())
        assert text
        if bottleneck:
            assert " ".join(f"{bottleneck['why']}; {bottleneck['advice']}".split()) in text


def test_twenty_stages_are_drawn_at_every_size() -> None:
    shown = state("twenty")
    for width, height in SIZES:
        view = VIEWS[1](shown, Choice(), width, height - 6)
        assert "▶" in seen(view), (width, height)
        regions = {region.key for region in view.main.regions}
        assert regions == {f"stage:{name}" for name in shown.value["stages"]}


def test_twenty_stages_say_their_rates_where_there_is_room() -> None:
    made = seen(VIEWS[1](state("twenty"), Choice(), 120, 34))
    for stage in state("twenty").value["stages"]:
        assert f"● {stage} " in made, stage
    assert len(re.findall(r"\d+/s", made)) == len(state("twenty").value["stages"])


LONG = "enrich-with-a-name-that-has-40-characters"


@pytest.mark.parametrize(("instances", "number"), [(1, ""), (12, " 11/12")])
@pytest.mark.parametrize("size", SIZES)
def test_a_long_name_leaves_room_for_how_many_run(size: tuple[int, int], instances: int, number: str) -> None:
    made = config({"read": [], LONG: ["read"], "sink": [LONG]}, {LONG: instances})

    def change(one: dict[str, Any], second: int) -> dict[str, Any] | None:
        return None if one["stage"] == LONG and one["instance"] == 1 and second > 3 else one

    text = seen(VIEWS[1](played(made, change, seconds=12), Choice(), size[0], size[1] - 6))
    assert re.search(rf"{LONG}{number}( [^0-9]|$)", text, re.MULTILINE), text
    assert ("92/s" in text) == (instances > 1), "those that are left say their rate"


def test_what_stands_below_the_sentence_does_not_move_while_its_figures_change() -> None:
    room, value = SentenceRoom(), {"bottleneck": {"stage": "work", "kind": "working"}}
    other = {"bottleneck": {"stage": "work", "kind": "held"}}
    lines = [[(f"line {n}", "")] for n in range(4)]
    assert [len(room.fill(value, lines[:n], (80, 24))) for n in (2, 3, 2, 1)] == [2, 3, 3, 3]
    assert len(room.fill(value, lines[:2], (120, 40))) == 2, "another window"
    assert [len(room.fill(one, lines[:n], (80, 24))) for one, n in ((value, 3), (other, 1))] == [3, 1]


@pytest.mark.parametrize("size", [*SIZES, (80, 16)])
def test_a_long_sentence_is_whole(size: tuple[int, int]) -> None:
    shown = state("load")
    why = " ".join(f"word-{n}" for n in range(40))
    value = shown.value | {"bottleneck": shown.value["bottleneck"] | {"why": why}}
    text = " ".join(plain(line).strip() for line in sentence(shown._replace(value=value), *size))
    assert f"{why}; {shown.value['bottleneck']['advice']}" in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 50)])
def test_boxes_say_alike_what_they_say(width: int, height: int) -> None:
    """All of them their share with its percentage, or none; and a reason whole, or not at all."""
    for name in ("load", "twenty"):
        text = seen(VIEWS[1](state(name), Choice(), width, height - 6))
        with_rate = len(re.findall(r"\d/s", text))
        assert with_rate in (0, *(n * len(state(name).value["stages"]) for n in (1, 2))) or "│ in " in text, text
    made = seen(VIEWS[1](state("disk-full"), Choice(), width, height - 6))
    assert ("orders.db:" in made) == bool(re.search(r"\broom\b", made)), made


def test_a_filter_makes_a_list_of_the_stages_that_it_lets_through() -> None:
    view = VIEWS[1](state("twenty"), Choice(filters={1: "video"}), 80, 20)
    assert view.main.keys() == ["stage:video-split", "stage:video-model", "stage:video-clean"]


def test_what_holds_the_pipeline_up_is_marked_in_its_box() -> None:
    assert "the limit" in seen(VIEWS[1](state("load"), Choice(), 120, 34))
    held = seen(VIEWS[1](state("disk-full"), Choice(), 120, 34))
    assert "held" in held and "orders.db:" in held
    assert "paused" in seen(VIEWS[1](state("paused"), Choice(), 120, 34))
    assert "silent" in seen(VIEWS[1](state("down"), Choice(), 120, 34))


def test_a_link_carries_its_depth() -> None:
    depth = next(link["depth"] for link in state("load").value["links"] if link["to"] == "parse")
    assert depth > 1000
    assert f"{depth / 1000:.1f}k" in seen(VIEWS[1](state("load"), Choice(), 120, 34))


def test_64_instances_have_a_row_each_with_what_they_do() -> None:
    shown = many()
    view = VIEWS[3](shown, Choice(3, stage="work"), 80, 20)
    rows = [line for line in texts(view.main) if " work." in line]
    assert len(rows) == 64
    assert "80% busy" in next(row for row in rows if "work.3 " in row)
    assert "running" in rows[0] and "90% idle" in rows[0]
    busiest = VIEWS[3](shown, Choice(3, stage="work", sort={3: 2}), 80, 20).main.keys()
    assert busiest[0] == "instance:work.3"


def test_a_stage_says_its_percentiles_workers_and_options() -> None:
    text = seen(VIEWS[3](state("load"), Choice(3, stage="check"), 120, 34))
    for said in ("p50 2.0ms", "p99 9.0ms", "workers 1 thread", "plugin python", "since its start"):
        assert said in text, said
    opened = Choice(3, stage="check", unfolded={"instance:check.1"})
    assert "received" in seen(VIEWS[3](state("load"), opened, 120, 34))


def test_few_instances_leave_room_for_percentiles_in_a_low_window() -> None:
    text = seen(VIEWS[3](state("load"), Choice(3, stage="check"), 80, 18))
    for said in ("p99 9.0ms", "workers 1 thread", "since its start", "check.2", "plugin python"):
        assert said in text, said
    assert len(texts(VIEWS[3](state("load"), Choice(3, stage="check"), 80, 18).main)) <= 18
    crowd = VIEWS[3](many(), Choice(3, stage="work"), 80, 18).main
    assert len(crowd.head) <= 4


def test_metrics_of_plugins_stand_in_their_stage_and_in_each_instance() -> None:
    def change(one: dict[str, Any], second: int) -> dict[str, Any]:
        if one["stage"] == "check":
            one["plugin_counters"] = {"rows": 1000 * one["instance"], "misses\x1b[31m": 2}
            one["plugin_gauges"] = {"cache_entries": 40.0 + one["instance"]}
            row = {"messages": 100, "sum_s": 2.0, "buckets": [[0.015625, 98], [0.5, 2]]}
            one["plugin_histograms"] = {"call_s": row, "never_s": {"messages": 0, "sum_s": 0.0, "buckets": []}}
        return one

    shown = played(orders(), change)
    text = seen(VIEWS[3](shown, Choice(3, stage="check"), 120, 34))
    for said in ("metrics of its plugin", "rows 3.0k", "cache_entries 41 to 42", "never_s 0"):
        assert said in text, said
    assert "call_s 200 values, mean 0.02, p99 up to 0.5" in text
    assert "\x1b" not in text
    opened = seen(VIEWS[3](shown, Choice(3, stage="check", unfolded={"instance:check.2"}), 200, 34))
    assert "metrics of its plugin: rows 2.0k," in opened
    assert "metrics of its plugin" not in seen(VIEWS[3](shown, Choice(3, stage="parse"), 120, 34))


def test_the_histogram_adds_up_the_instances() -> None:
    one = {"latency_histogram": {"in_stage": {"buckets": [[0.002, 5], [0.008, 1]]}}}
    buckets = merged_histogram([one, one, {}])
    assert buckets == [(0.002, 10), (0.008, 2)]
    assert "█" in plain(histogram_lines(buckets, 80, False)[0])
    assert plain(histogram_lines(buckets, 80, True)[0]).isascii()


def test_the_plot_shows_both_ends_and_the_bound() -> None:
    shown = state("load")
    view = VIEWS[4](shown, Choice(4, link="read->parse"), 120, 34)
    text = seen(view)
    assert "read → parse" in text and "at the receiver 900" in text and "now" in text
    assert view.below is not None
    styles = {style for line in view.below.lines for _, style in line}
    assert {"accent", "warm", "bad"} <= styles
    assert plain(plot_lines([], None, 80, 10, shown)[0]).strip() == "nothing is known of it yet"


@pytest.mark.parametrize("rows", range(3, 40, 4))
@pytest.mark.parametrize("most", [1, 2, 7, 23, 99, 100, 101, 1234, 2048, 65_000, 1_000_000])
def test_the_axis_of_a_plot_has_round_numbers(most: int, rows: int) -> None:
    top, ticks = scale(most, rows)
    assert top >= most and ticks[-1] == top <= 2.5 * most
    assert ticks == [ticks[0] * n for n in range(1, len(ticks) + 1)] and len(ticks) <= max(rows, 2)
    first = f"{ticks[0]:.0e}"
    assert float(first) == ticks[0] and first[0] in "125", "1, 2 or 5 and zeros"


def test_the_time_axis_has_round_numbers_and_does_not_move() -> None:
    for seconds, said in ((30, "60s ago"), (59, "60s ago"), (61, "2m ago"), (700, "15m ago")):
        depths = [Depth(float(at), at, 0) for at in range(0, seconds, 7)] + [Depth(float(seconds), 1, 0)]
        last = plain(plot_lines(depths, 4000.0, 100, 12, state("load"))[-1])
        assert said in last and last.endswith("now"), last


def test_letters_are_folded_by_reason_and_unfold() -> None:
    shown = state("load")
    groups = folded(shown.letters.rows)
    assert [(stage, len(of)) for stage, _, of in groups] == [("check", 10), ("check", 20)]
    key = reason_key("check", "KeyError: 'customer'")
    assert len(letters_of(shown, key)) == 20
    closed = VIEWS[5](shown, Choice(5), 80, 20).main.keys()
    opened = VIEWS[5](shown, Choice(5, unfolded={key}), 80, 20).main.keys()
    assert len(closed) == 2 and len(opened) == 22
    listed = seen(VIEWS[5](shown, Choice(5, unfolded={key}), 80, 20))
    assert re.search(r"check\.\d/10 +read:1000 +\S+ 2 tries", listed), listed
    assert [row["letter"] for row in letters_of(shown, "letter:check.2/5")] == ["check.2/5"]


def test_names_and_paths_are_not_broken_at_hyphens() -> None:
    for line in wrap("the stage video-model waits for video-split-in-two and video-clean", 24):
        assert not plain(line).endswith("-"), line


def test_events_stand_newest_first_and_are_filtered() -> None:
    shown = state("down")
    text = texts(VIEWS[6](shown, Choice(6), 80, 20).main)
    assert "store.1 is silent" in text[1]
    assert "store" not in "\n".join(texts(VIEWS[6](shown, Choice(6, filters={6: "parse"}), 80, 20).main)[1:])


def test_without_unicode_there_are_only_plain_characters() -> None:
    for shown in (load(ASCII), twenty(ASCII)):
        shown = shown._replace(letters=letters())
        for width, height in SIZES:
            for number, view in VIEWS.items():
                made = view(shown, Choice(number, unfolded={"instance:check.1"}), width, height - 6)
                assert seen(made).isascii(), (number, [line for line in seen(made).splitlines() if not line.isascii()])
            top = "".join(plain(line) for line in (*header(shown, width, height), *sentence(shown, width, height)))
            assert top.isascii()


def test_a_share_that_is_there_has_a_cell() -> None:
    bar = share_bar({"working": 0.9, "blocked": 0.03, "waiting": 0.07}, 10, UNICODE)
    assert "".join(text for text, _ in bar) == "█████████▚"
    assert share_bar(None, 5, UNICODE) == [("     ", "")]


def test_figures_that_change_move_nothing() -> None:
    """The boxes of a pipeline stand still while its figures change."""
    first = VIEWS[1](state("load"), Choice(), 120, 34).main.regions
    for name in ("idle", "storm", "paused"):
        other = VIEWS[1](state(name), Choice(), 120, 34).main.regions
        assert [region[1:] for region in first] == [region[1:] for region in other], name


def test_a_link_with_a_disk_buffer_shows_what_is_in_it() -> None:
    made = config({"read": [], "sink": ["read"]})
    buffer = {
        "stored": 4000, "disk_bytes": 9_000_000, "sync_s": 0.004, "lost": 3, "bad": 1, "trouble": "the disk is full",
        "messages_bound": 10_000, "bytes_bound": 1 << 30,
    }  # fmt: skip

    def change(one: dict[str, Any], second: int) -> dict[str, Any]:
        for link in one["links"]:
            link |= {"unsent": 4000, "produced": link["produced"] + 4000, "buffer": buffer}
        return one

    shown = played(made, change, seconds=12)
    text = seen(VIEWS[4](shown, Choice(), 160, 40))
    assert "read.1 4.0k stored" in text
    assert "sync 4.0ms" in text and "3 lost, 1 damaged places, the disk is full" in text
    assert shown.value["links"][0]["full_in_s"] is None, "its bound is that of the buffer"


def test_a_stage_shows_how_much_its_disk_buffer_may_hold() -> None:
    made = config({"read": [], "sink": ["read"]})
    read = replace(made.stages["read"], buffer=BufferPolicy(bytes=10 << 30))
    shown = played(replace(made, stages={**made.stages, "read": read}), seconds=3)
    assert "disk buffer 10 GiB" in seen(VIEWS[3](shown, Choice(3, stage="read"), 120, 34))
    assert "disk buffer" not in seen(VIEWS[3](shown, Choice(3, stage="sink"), 120, 34))


def test_a_link_through_a_stream_shows_what_is_in_it_and_why_it_takes_nothing() -> None:
    made = config({"read": [], "sink": ["read"]})
    stream = {"messages": 4000, "parcels": 12, "bytes": 9_000_000, "pending": 10, "ack_pending": 2}

    def change(one: dict[str, Any], second: int) -> dict[str, Any]:
        for link in one["links"]:
            link["jetstream"] = {"connected": True, "trouble": "the stream is full: maximum bytes exceeded"}
        if one["stage"] == "sink":
            row = {"from": "read", "outlet": "", "instance": 0, "incarnation": "x", "received": 0, "unacked": 0}
            one["sessions"] = [{**row, "stream": stream}]
        return one

    text = seen(VIEWS[4](played(made, change, seconds=12), Choice(), 160, 40))
    assert "stream    4.0k messages in 12 parcels, 8.6 MiB, 2 with consumers;  the stream is full" in text
