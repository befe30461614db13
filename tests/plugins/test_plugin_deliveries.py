"""What is owed to a broker that gives messages again, and is killed while it is told that they are finished."""

from __future__ import annotations

from zpipe_plugins.brokers.deliveries import Deliveries


def pay(deliveries: Deliveries[int]) -> dict[str, list[int]]:
    """What is acknowledged now."""
    owed = deliveries.owed()
    deliveries.paid(owed)
    return owed


def test_it_is_acknowledged_once_it_is_finished() -> None:
    deliveries = Deliveries[int]()
    assert deliveries.take("a", 1, again=False) and deliveries.take("b", 2, again=False)
    assert not pay(deliveries)
    deliveries.finish(["b"])
    assert pay(deliveries) == {"b": [2]}
    assert not pay(deliveries) and deliveries.in_hand() == [1]


def test_what_comes_again_on_another_connection_is_not_taken_twice() -> None:
    deliveries = Deliveries[int]()
    deliveries.take("a", 7, again=False)
    deliveries.disconnected()
    assert not deliveries.take("a", 1, again=True)
    deliveries.finish(["a"])
    assert pay(deliveries) == {"a": [1]}


def test_what_comes_again_after_a_time_has_its_newest_handle() -> None:
    deliveries = Deliveries[int](times_out=True)
    deliveries.take("a", 1, again=True)
    assert not deliveries.take("a", 2, again=True)
    deliveries.finish(["a"])
    assert pay(deliveries) == {"a": [2]}


def test_copies_are_acknowledged_once_all_are_finished() -> None:
    deliveries = Deliveries[int]()
    assert deliveries.take("a", 1, again=False) and deliveries.take("a", 2, again=False)
    deliveries.finish(["a"])
    assert not pay(deliveries)
    deliveries.finish(["a"])
    assert pay(deliveries) == {"a": [1, 2]}


def test_copies_that_another_instance_was_given_before_are_all_acknowledged() -> None:
    """A sink that is killed publishes again what was not confirmed. Then its reader is killed, too, and the next has both."""
    deliveries = Deliveries[int]()
    assert deliveries.take("a", 1, again=True) and deliveries.take("a", 2, again=True)
    deliveries.finish(["a", "a"])
    assert pay(deliveries) == {"a": [1, 2]}


def test_a_copy_does_not_wait_for_one_that_the_broker_knows_to_be_finished() -> None:
    """The connection was lost after the broker had got the acknowledgement, so that one never comes again."""
    deliveries = Deliveries[int]()
    deliveries.take("a", 7, again=False)
    deliveries.finish(["a"])
    deliveries.disconnected()
    assert not pay(deliveries)
    assert deliveries.take("a", 1, again=False)
    assert not pay(deliveries)
    deliveries.finish(["a"])
    assert pay(deliveries) == {"a": [1]}
    assert deliveries.take("a", 2, again=True) is False, "had it come again after all"
    assert pay(deliveries) == {"a": [2]}


def test_a_copy_that_is_not_finished_is_not_acknowledged_with_one_that_is() -> None:
    deliveries = Deliveries[int]()
    deliveries.take("a", 1, again=False)
    deliveries.finish(["a"])
    deliveries.take("a", 2, again=False)
    assert not pay(deliveries)
    deliveries.finish(["a"])
    assert pay(deliveries) == {"a": [1, 2]}


def test_what_is_finished_while_others_are_acknowledged_is_acknowledged_next() -> None:
    deliveries = Deliveries[int]()
    deliveries.take("a", 1, again=False)
    deliveries.finish(["a"])
    owed = deliveries.owed()
    deliveries.take("a", 2, again=False)
    deliveries.finish(["a"])
    deliveries.paid(owed)
    assert pay(deliveries) == {"a": [2]}
