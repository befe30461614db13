"""Limiters against a service on a virtual clock: how much of it they use, how they share it, how they come back."""

from __future__ import annotations

import random

import pytest
from simulated_service import SERVICE_S, Scene

from zpipe.core.policy import LimitPolicy

CAPACITY = 40
POLICY = LimitPolicy("aimd", start=10, max=200)
SEEDS = range(2)


def best(instances: int, seed: int, until: float, capacity: int = CAPACITY) -> float:
    """Successes a second of the best fixed limit, from 10 s on."""
    scene = Scene(instances, LimitPolicy("fixed", max=capacity // instances), seed, capacity=capacity)
    scene.run(until)
    rate = sum(scene.rates(10, until))
    assert rate == pytest.approx(capacity // instances * instances / SERVICE_S, rel=0.02)
    return rate


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("instances", [1, 2, 4])
def test_instances_settle_near_the_best_fixed_limit_and_share(instances: int, seed: int) -> None:
    scene = Scene(instances, POLICY, seed, capacity=CAPACITY)
    scene.run(30)
    rates = scene.rates(10, 30)
    assert sum(rates) > 0.93 * best(instances, seed, 30)
    assert max(rates) < 2 * min(rates)
    refused = sum(at > 10 for caller in scene.callers for at in caller.refused)
    assert refused < 0.1 * sum(rates) * 20


@pytest.mark.parametrize(("instances", "capacity"), [(1, 4), (1, 8), (4, 8), (8, 100)])
def test_small_and_large_services(instances: int, capacity: int) -> None:
    scene = Scene(instances, POLICY, 1, capacity=capacity)
    scene.run(40)
    rates = scene.rates(10, 40)
    assert sum(rates) > 0.9 * best(instances, 1, 40, capacity)
    assert max(rates) < 3 * min(rates)


def test_who_comes_late_gets_a_share() -> None:
    """Of a service so small that a tenth of it is no whole place."""
    scene = Scene(2, POLICY, 1, capacity=8)
    late = scene.callers[1]
    late.limiter.under_way = 1000  # it starts nothing
    scene.run(20)
    assert not late.done
    late.limiter.under_way = 0
    late.turn()
    scene.run(60)
    assert max(scene.rates(40, 60)) < 2 * min(scene.rates(40, 60))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", ["throttled", "failed"])
@pytest.mark.parametrize("instances", [1, 2, 4])
def test_after_an_outage_it_is_back_within_ten_round_trips(instances: int, how: str, seed: int) -> None:
    scene = Scene(instances, POLICY, seed, capacity=CAPACITY)
    scene.run(20)
    scene.service.down = how
    scene.run(40)
    tried = sum(20.1 < at < 40 for caller in scene.callers for at in caller.refused)
    assert tried < instances * 20 / SERVICE_S  # no more than a call a round trip
    assert all(caller.limiter.limit == 1 for caller in scene.callers)
    scene.service.down = ""
    back = 40 + 10 * SERVICE_S
    scene.run(back + 1)
    assert sum(scene.rates(back, back + 1)) > 0.9 * CAPACITY / SERVICE_S


def test_nobody_asks_a_service_that_is_away_before_it_said() -> None:
    """While others are served, Retry-After is the message's own business; when none is, it is the stage's."""
    scene = Scene(1, POLICY, 1, retry_after_s=5.0, capacity=CAPACITY)
    scene.run(20)
    assert scene.rates(10, 20)[0] > 0.9 * CAPACITY / SERVICE_S
    scene.service.down = "throttled"
    scene.run(50)
    assert len([at for at in scene.callers[0].refused if at > 21]) <= 6
    scene.service.down = ""
    scene.run(57)
    assert scene.rates(56, 57)[0] > 0.9 * CAPACITY / SERVICE_S


@pytest.mark.parametrize("seed", SEEDS)
def test_a_service_that_only_becomes_slower_is_not_overrun(seed: int) -> None:
    scene = Scene(1, POLICY, seed, capacity=CAPACITY, queueing=True)
    scene.run(10)
    scene.callers[0].most = 0  # slow start goes too far once
    scene.run(120)
    (rate,) = scene.rates(10, 120)
    assert rate > 0.95 * CAPACITY / SERVICE_S
    limiter = scene.callers[0].limiter
    assert limiter.limit is not None and limiter.limit < 2 * CAPACITY
    assert scene.callers[0].most < 2 * CAPACITY


def test_several_instances_at_such_a_service_stay_below_their_max() -> None:
    scene = Scene(4, POLICY, 1, capacity=CAPACITY, queueing=True)
    scene.run(60)
    assert sum(scene.rates(10, 60)) > 0.95 * CAPACITY / SERVICE_S
    assert sum(caller.limiter.limit or 0 for caller in scene.callers) < 10 * CAPACITY


def test_a_service_that_became_slower_for_good_is_used_in_full_again() -> None:
    scene = Scene(1, POLICY, 1, capacity=CAPACITY)
    scene.run(20)
    scene.service.seconds = lambda chance: chance.uniform(0.7, 1.3) * 3 * SERVICE_S
    scene.run(60)
    assert scene.rates(40, 60)[0] > 0.9 * CAPACITY / (3 * SERVICE_S)


def test_chance_is_not_taken_for_a_slow_service() -> None:
    """Service times of which one in fifty is four times the mean."""
    scene = Scene(1, POLICY, 1, capacity=CAPACITY, seconds=lambda chance: chance.expovariate(1 / SERVICE_S))
    scene.run(40)
    assert scene.rates(10, 40)[0] > 0.85 * CAPACITY / SERVICE_S


def test_bad_messages_do_not_lower_the_limit() -> None:
    scene = Scene(1, POLICY, 1, capacity=CAPACITY)
    chance = random.Random(1)
    call = scene.service.call
    scene.service.call = lambda answer: call(  # type: ignore[method-assign]
        lambda how, seconds: answer(how or ("failed" if chance.random() < 0.1 else ""), seconds)
    )
    scene.run(40)
    assert scene.rates(10, 40)[0] > 0.9 * 0.93 * CAPACITY / SERVICE_S


@pytest.mark.parametrize("kind", ["aimd", "fixed"])
def test_a_rate_is_kept_and_used(kind: str) -> None:
    policy = LimitPolicy("aimd", 10, 200, rate=100.0) if kind == "aimd" else LimitPolicy("fixed", 10, None, rate=100.0)
    scene = Scene(1, policy, 1, capacity=CAPACITY)
    scene.run(20)
    assert scene.rates(5, 20)[0] == pytest.approx(100, rel=0.02)
    if kind == "aimd":
        assert scene.callers[0].limiter.limit == 10, "what is not used does not grow"
