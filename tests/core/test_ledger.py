from __future__ import annotations

import ast
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.ledger import COUNT_ROWS, COUNTS, Counts, Derivation, EachDerivation


class Share:
    def __init__(self) -> None:
        self.finished = 0

    def finish(self) -> None:
        self.finished += 1


def test_inputs_finish_when_it_is_closed_and_all_is_settled() -> None:
    shares = [Share(), Share()]
    derivation = Derivation([shares[0]])
    derivation.expect()
    derivation.expect()
    derivation.settle()
    derivation.add_inputs(shares[1:])
    derivation.close()
    assert [s.finished for s in shares] == [0, 0]
    derivation.settle()
    assert [s.finished for s in shares] == [1, 1]


def test_settled_before_it_is_closed_it_waits_for_the_close() -> None:
    share = Share()
    derivation = Derivation([share])
    derivation.expect()
    derivation.settle()
    assert not share.finished
    derivation.close()
    assert share.finished == 1


def test_without_outputs_the_close_finishes() -> None:
    share = Share()
    Derivation([share]).close()
    assert share.finished == 1


def test_what_cannot_be() -> None:
    with pytest.raises(AssertionError):
        Derivation([]).settle()
    closed = Derivation([])
    closed.close()
    with pytest.raises(AssertionError):
        closed.close()


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 12))
def test_inputs_finish_exactly_once_whatever_the_order(steps: list[bool], close_at: int) -> None:
    """True expects, False settles what is pending; after the close a task expects no more, but what was cut does."""
    share, pending, closed = Share(), 0, False
    derivation = Derivation([share])
    for n, expect in enumerate(steps):
        if n == close_at:
            derivation.close()
            closed = True
        if expect and (not closed or pending):
            derivation.expect()
            pending += 1
        elif pending:
            derivation.settle()
            pending -= 1
        assert share.finished == (closed and not pending)
    if not closed:
        derivation.close()
    for _ in range(pending):
        assert not share.finished
        derivation.settle()
    assert share.finished == 1


class Inputs:
    """Several messages; which of them have finished, and how often."""

    def __init__(self, finished: list[int], base: int, count: int) -> None:
        self.count = count
        self._finished = finished
        self._range = range(base, base + count)

    def finish(self) -> None:
        for n in self._range:
            self._finished[n] += 1

    def part(self, start: int, stop: int) -> Inputs:
        return Inputs(self._finished, self._range[start], stop - start)


@st.composite
def outputs(draw: st.DrawFn) -> tuple[list[int], list[range | list[int]], set[int]]:
    """Sizes of the inputs, the owners of each output section, and failed messages, which have no output."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    total = sum(sizes)
    failed = draw(st.sets(st.integers(0, total - 1), max_size=2))
    plain = draw(st.booleans())
    if plain:
        cuts = sorted(draw(st.sets(st.integers(1, max(total - 1, 1)), max_size=3)) | {0, total})
        runs = [range(a, b) for a, b in pairwise(cuts) if a < b and not failed & set(range(a, b))]
        return sizes, [*runs, *(runs if draw(st.booleans()) else [])], failed  # twice: over two links
    owner = st.integers(0, total - 1).filter(lambda n: n not in failed) if len(failed) < total else st.nothing()
    sections = (
        draw(st.lists(st.lists(owner, min_size=1, max_size=4).map(sorted), max_size=5)) if len(failed) < total else []
    )
    return sizes, list(sections), failed


@given(outputs(), st.randoms(use_true_random=False))
def test_each_input_finishes_once_when_all_of_its_own_outputs_are_settled(
    case: tuple[list[int], list[range | list[int]], set[int]], chance: random.Random
) -> None:
    sizes, sections, failed = case
    finished = [0] * sum(sizes)
    bases = [sum(sizes[:n]) for n in range(len(sizes))]
    each = EachDerivation([Inputs(finished, base, count) for base, count in zip(bases, sizes, strict=True)])
    for owners in sections:
        each.expect(len(owners), owners)
    each.close_but(failed)
    pieces = []
    for owners in sections:  # cut anywhere, as credit and acks of parts do
        at = chance.randint(0, len(owners))
        pieces += [piece for piece in (owners[:at], owners[at:]) if piece]
    chance.shuffle(pieces)
    while True:
        waiting = {n for piece in pieces for n in piece}
        assert finished == [int(n not in waiting and n not in failed) for n in range(len(finished))]
        if not pieces:
            break
        piece = pieces.pop()
        each.settle(len(piece), piece)


def test_the_identity_of_counts() -> None:
    counts = Counts(
        received=21, completed=1, filtered=2, dead=3, returned=4, in_process=5, queued=6, duplicates=9, retries=9
    )
    assert counts.off() == 0
    counts.queued -= 1
    assert counts.off() == 1


CORE = Path(__file__).parents[2] / "zpipe" / "core"


MODULES = sorted(CORE.rglob("*.py"))


def changed(path: Path, of: str) -> set[str]:
    """The attributes of `of` that a module counts up or down."""
    found = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    targets = [node.target for node in found if isinstance(node, ast.AugAssign)]
    return {one.attr for one in targets if isinstance(one, ast.Attribute) and ast.unparse(one.value).endswith(of)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(CORE)))
def test_the_terms_of_the_identity_change_in_the_ledger_alone(path: Path) -> None:
    assert path.name == "ledger.py" or not changed(path, "counts") & set(COUNTS)


def test_every_count_is_counted_somewhere() -> None:
    found = set().union(changed(CORE / "ledger.py", "self"), *(changed(path, "counts") for path in MODULES))
    assert found >= {row.name for row in COUNT_ROWS}


def test_whatever_happens_to_messages_the_identity_holds() -> None:
    counts = Counts()
    for step in (
        lambda: counts.receive(queued=9),
        lambda: counts.receive(in_process=4),
        lambda: counts.hand_back(2),
        lambda: counts.start(7),
        lambda: counts.finish(completed=5, filtered=3, dead=1),
    ):
        step()
        assert counts.off() == 0
    assert (counts.received, counts.done, counts.returned, counts.in_process, counts.queued) == (13, 9, 2, 2, 0)
