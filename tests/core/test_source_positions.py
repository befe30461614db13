from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.source_positions import SourcePositions


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_only_positions_whose_predecessors_are_finished_are_committed(counts: list[int], random: object) -> None:
    source = SourcePositions()
    runs = [source.emit(f"p{n}", count) for n, count in enumerate(counts)]
    order = list(range(len(runs)))
    random.shuffle(order)  # type: ignore[attr-defined]
    done: set[int] = set()
    for n in order:
        runs[n].finish()
        done.add(n)
        source.advance()
        head = next(i for i in range(len(runs) + 1) if i not in done)
        assert source.committed == (f"p{head - 1}" if head else None)
        assert source.finished == sum(counts[:head])
        assert source.behind == bool(head)
    assert source.emitted == source.finished == sum(counts)


def test_it_asks_for_a_position_once_and_for_completion_when_all_is_stored() -> None:
    source = SourcePositions()
    first, second = source.emit(1, 1), source.emit(2, 1)
    first.finish()
    source.advance()
    assert source.ask() == (1, 1)
    assert not source.behind
    source.end(exhausted=True)
    second.finish()
    source.advance()
    assert source.behind and source.ask() == (2, 2)
    source.stored(1, completed=False)
    assert not source.all_stored and not source.ask_completion()
    source.stored(2, completed=False)
    source.stored(1, completed=False)  # late
    assert source.all_stored
    assert source.ask_completion() and not source.ask_completion()
    assert not source.completed
    source.stored(2, completed=True)
    assert source.completed


def test_a_source_that_was_closed_is_never_complete() -> None:
    source = SourcePositions()
    source.end(exhausted=False)
    assert source.ended and source.all_stored and not source.ask_completion()


def test_an_empty_source_is_complete_at_once() -> None:
    source = SourcePositions()
    source.end(exhausted=True)
    assert source.ask_completion()


def test_each_message_of_a_run_is_told_once_and_the_run_is_finished_with_the_last() -> None:
    source = SourcePositions()
    run, later = source.emit_singly(3, ["a", "b", "c"]), source.emit_singly(4, ["d"])
    run.part(1, 3).finish()
    later.part(0, 1).finish()
    assert source.take_acked() == ["b", "c", "d"] and source.take_acked() == []
    source.advance()
    assert (source.committed, source.finished) == (None, 0)
    run.part(0, 1).finish()
    source.advance()
    assert (source.acked, source.committed, source.finished) == (["a"], 4, 4)
