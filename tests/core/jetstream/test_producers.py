"""Whether a link's input has ended, by what its producers have written into the bucket."""

from __future__ import annotations

from zpipe.core.jetstream.producers import FLUSHED, LEFT, OPEN, STOPPED, Producers, Standing


def of(run: str = "r1", expected: tuple[int, ...] = (1,)) -> Producers:
    return Producers("a", "", "b", run, expected)


def says(producers: Producers, number: int, state: str, life: str = "i1", run: str = "r1", live: bool = True) -> bool:
    return producers.hear(f"a.=.b.{number}", Standing(life, run, state).encode(), live)


def test_all_that_are_expected_are_waited_for() -> None:
    producers = of(expected=(1, 2))
    says(producers, 1, STOPPED)
    assert not producers.ended
    assert producers.waiting_for() == ["a.2"]
    says(producers, 2, FLUSHED)
    assert producers.ended
    assert not producers.stopped
    says(producers, 2, STOPPED)
    assert producers.stopped


def test_an_end_that_is_taken_back_is_none() -> None:
    producers = of()
    says(producers, 1, FLUSHED)
    says(producers, 1, OPEN)
    assert not producers.ended


def test_one_that_left_ends_nothing_and_is_not_waited_for() -> None:
    producers = of(expected=())
    says(producers, 1, LEFT)
    assert not producers.ended
    says(producers, 2, STOPPED)
    assert producers.stopped


def test_one_whose_entry_is_deleted_is_not_waited_for() -> None:
    producers = of(expected=(1, 2, 3))
    says(producers, 1, STOPPED)
    says(producers, 2, OPEN)
    assert not producers.hear("a.=.b.2", b"", live=False)
    assert producers.waiting_for() == ["a.2", "a.3"]
    assert producers.hear("a.=.b.2", b"", live=True) and producers.hear("a.=.b.3", b"", live=True)
    assert producers.stopped and not producers.waiting_for()
    assert not producers.hear("a.=.b.3", b"", live=True)
    says(producers, 2, OPEN, "i2")
    assert not producers.ended


def test_the_end_of_an_earlier_run_is_not_believed() -> None:
    producers = of()
    assert not says(producers, 1, STOPPED, run="r0", live=False)
    assert not producers.ended
    assert says(producers, 1, STOPPED, run="r1", live=False)
    assert producers.ended


def test_without_a_run_only_an_end_that_is_heard_of_is_believed() -> None:
    producers = of(run="", expected=())
    assert not says(producers, 1, STOPPED, run="", live=False)
    assert not producers.ended
    says(producers, 1, OPEN, run="", live=False)
    assert says(producers, 1, STOPPED, run="", live=False), "it was heard of before its end"
    assert producers.stopped


def test_what_is_read_again_only_goes_on_from_what_is_known() -> None:
    """A live entry that was missed is made good; an older one, of a server that lags, takes nothing back."""

    def reads(producers: Producers, state: str, life: str = "i1") -> bool:
        return producers.hear("a.=.b.1", Standing(life, "r1", state).encode(), live=False, again=True)

    known = of()
    assert reads(known, OPEN) and not known.ended, "nothing was known of it"
    assert reads(known, FLUSHED) and known.ended
    assert not reads(known, OPEN) and known.ended
    assert reads(known, STOPPED) and known.stopped
    for state in (OPEN, FLUSHED):
        assert not reads(known, state) and not reads(known, state, "i0")
    assert known.stopped
    restarted = of()
    says(restarted, 1, OPEN, life="i0")
    assert not reads(restarted, FLUSHED) and not restarted.ended, "it may be of the life before"
    assert reads(restarted, STOPPED) and restarted.stopped


def test_an_entry_that_is_none_changes_nothing() -> None:
    producers = of()
    for key, value in (
        ("a.=.b.1", b"{"),
        ("a.=.b.1", b"[]"),
        ("a.=.b.1", b'{"incarnation": 1, "run": "", "state": "open"}'),
        ("a.=.b.1", b'{"incarnation": "i", "run": "r1", "state": "gone"}'),
        ("a.=.b.x", Standing("i", "r1", STOPPED).encode()),
        ("c.=.b.1", Standing("i", "r1", STOPPED).encode()),
    ):
        assert not producers.hear(key, value, live=True)
    assert not producers.ended
