"""That a playbook fails where it should, and shows where."""

from __future__ import annotations

import gc
import sys

import pytest
from playbook import Line, Placeholder, Playbook, at_least, below, containing, line

knock, answer, shows = line("knock"), line("answer"), line("shows")


class Door:
    """Answers each knock so many times, and counts the knocks."""

    def __init__(self) -> None:
        self.knocks = 0

    def handle(self, event: Line) -> list[Line]:
        self.knocks += 1
        if event.fields.get("with_what") == "an axe":
            raise ValueError("no such knock")
        return [answer("come in", number=n, knocks=self.knocks) for n in range(event.fields.get("times", 1))]

    def answer(self, question: Line) -> Line | None:
        return shows(knocks=self.knocks) if question.kind == "shows" else None


def difference(book: Playbook) -> list[str]:
    with pytest.raises(AssertionError) as caught:
        assert book
    return str(caught.value).splitlines()[1:]


def test_what_agrees_is_played_on_from_where_it_was() -> None:
    book = Playbook(Door())
    assert book << knock() >> answer("come in", number=0) >> shows(knocks=1)
    assert book << knock(times=0) << knock(times=2) >> answer("come in", number=0) >> answer("come in", knocks=3)
    assert book >> shows(knocks=3)


def test_a_field_that_differs_is_shown_in_its_place_without_those_not_asked_for() -> None:
    assert difference(
        Playbook(Door()) << knock() >> answer("come in", number=7) >> shows(knocks=2) << knock(times=0)
    ) == [
        "  << knock()",
        "- >> answer('come in', number=7)",
        "+ >> answer('come in', number=0)",
        "- >> shows(knocks=2)",
        "+ >> shows(knocks=1)",
        "  << knock(times=0)",
    ]


@pytest.mark.parametrize("then", [[], [knock(times=0)], [shows(knocks=1)]])
def test_what_came_and_was_not_expected_is_shown(then: list[Line]) -> None:
    book = Playbook(Door()) << knock()
    for one in then:
        book = book >> one if one.kind == "shows" else book << one
    assert "+ >> answer('come in', number=0, knocks=1)" in difference(book)


@pytest.mark.parametrize(
    "expected", [answer("go away"), answer("come in", "please"), answer(), answer("come in", name=1)]
)
def test_what_was_expected_and_did_not_come_is_shown(expected: Line) -> None:
    assert f"- >> {expected}" in difference(Playbook(Door()) << knock() >> expected)
    assert f"- >> {expected}" in difference(Playbook(Door()) << knock(times=0) >> expected)


def test_an_error_of_the_part_ends_the_script_and_is_shown() -> None:
    book = Playbook(Door()) << knock(times=0) << knock(with_what="an axe") << knock()
    assert difference(book) == [
        "  << knock(times=0)",
        "  << knock(with_what='an axe')",
        "+ !! ValueError: no such knock",
    ]


def test_a_placeholder_is_the_same_at_each_place() -> None:
    times, knocks = Placeholder(), Placeholder()
    book = Playbook(Door())
    assert book << knock(times=2) >> answer("come in", number=0) >> answer("come in", number=times, knocks=knocks)
    assert book << knock(times=times) >> answer("come in", knocks=2)  # as an event, what it stands for
    assert (times.value, knocks.value) == (1, 1)
    assert "- >> shows(knocks=1)" in difference(book >> shows(knocks=knocks))


def test_conditions_say_what_they_want() -> None:
    known = Placeholder()
    book = Playbook(Door())
    assert book << knock() >> answer(containing("come"), knocks=known) >> shows(knocks=at_least(known))
    assert "- >> shows(knocks=<below 1>)" in difference(book >> shows(knocks=below(known)))
    assert "- >> answer(<containing 'out'>)" in difference(book << knock() >> answer(containing("out")))


def test_a_playbook_that_is_never_played_fails_its_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody can catch is a warning of pytest, and warnings are errors here."""
    uncaught: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: uncaught.append(str(error.exc_value)))
    Playbook(Door()) << knock()
    gc.collect()
    assert uncaught == ["a playbook was written and never played: put `assert` before it"]
