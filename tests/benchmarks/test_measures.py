"""What is made of what was seen: percentiles, shares of the work, a screen, a tally, CPU time."""

from __future__ import annotations

import os
import time
import tomllib
from pathlib import Path

import pytest

from benchmarks import payloads
from benchmarks.cases.monitor import visible
from benchmarks.cases.sharing import joined_after_s, span_by_ideal
from benchmarks.peers.by_hand import codec
from benchmarks.processes import cpu_s, with_descendants
from benchmarks.tally import Tally
from benchmarks.window import percentile, percentiles


def test_percentiles_are_by_the_nearest_rank() -> None:
    ordered = list(range(1, 101))
    assert [percentile(ordered, p) for p in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentiles([0.003, 0.001, 0.002]) == {"p50_us": pytest.approx(2000), "p99_us": pytest.approx(3000)}
    assert percentiles([]) == {}


def test_work_that_nobody_waits_for_is_ideal() -> None:
    quick = [(0.1 * n, 0.1) for n in range(10)]
    slow = [(0.0, 1.0)]
    assert span_by_ideal([quick, slow]) == pytest.approx(1.0)


def test_a_worker_that_keeps_the_others_waiting_is_not() -> None:
    quick = [(0.1 * n, 0.1) for n in range(10)]
    slow = [(0.0, 1.0), (1.0, 1.0)]
    assert span_by_ideal([quick, slow]) == pytest.approx(2.0 * (10 + 1) / 12)


def test_a_joiner_has_its_share_once_it_works_without_pauses() -> None:
    waiting = [(10 + n, 0.1) for n in range(5)]
    at_work = [(20 + 0.1 * n, 0.1) for n in range(30)]
    assert joined_after_s(waiting + at_work, opened_at=9.0) == pytest.approx(20 + 0.1 * 20 - 9)
    with pytest.raises(RuntimeError, match="5 calls"):
        joined_after_s(waiting, opened_at=9.0)


def test_stages_are_counted_by_their_names() -> None:
    screen = "╭ ● source ──╮   ╭ ● map01 ──╮\n map010 is none of them"
    assert visible(screen, ["source", "map01", "sink"]) == 2


def test_a_tally_is_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "tally"
    reader, writer = Tally.create(path), Tally(path)
    assert (reader.count, reader.first_at) == (0, 0.0)
    before = time.monotonic()
    writer.note(64, age_s=0.5)
    writer.note(128, age_s=0.25)
    assert (reader.count, reader.ages) == (128, 2)
    assert reader.ages_s(0, 2) == [0.5, 0.25]
    assert before <= reader.first_at <= time.monotonic()


def test_cpu_time_of_another_process_is_that_of_all_its_threads() -> None:
    assert cpu_s(os.getpid()) == pytest.approx(time.process_time(), abs=0.05)
    assert cpu_s(2**22 + 1) == 0.0  # above any pid


def test_a_process_is_among_its_descendants() -> None:
    assert os.getpid() in with_descendants([os.getppid()])


@pytest.mark.parametrize("payload", payloads.ALL, ids=lambda payload: payload.name)
def test_both_sides_send_the_same(payload: payloads.Payload) -> None:
    """The options of `generate` in a config make the map that the sources written by hand send."""
    options = tomllib.loads(f"options = {{ {payload.options()} }}")["options"]
    blob = {} if "size" not in options else {"blob": b"\0" * options["size"]}
    assert {**options["fields"], **blob} == payload.constant()


def test_payloads_are_as_large_as_they_are_called() -> None:
    dumps, _ = codec("cbor2")
    sizes = {p.name: len(dumps({"id": 100_000, **p.constant()})) for p in payloads.ALL}
    expected = {"90 B": 90, "16 B": 16, "1 kB": 1_000, "64 kB": 64_000, "1 MB": 1_000_000}
    assert {name: sizes[name] for name in expected} == {n: pytest.approx(s, rel=0.3) for n, s in expected.items()}
