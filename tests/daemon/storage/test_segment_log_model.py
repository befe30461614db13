"""Histories of a disk buffer that chance makes: whatever happens, what was acked can be read, and nothing is wrong."""

from __future__ import annotations

import errno
import random

import pytest
from buffer_lives import Lives
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zpipe.core.policy import BufferPolicy

CALLS = ("sync", "write", "open", "truncate", "remove", "rename", "sync_folder", "all", "space", "read")
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS)

STEPS = st.one_of(
    st.tuples(st.just("offer"), st.integers(1, 12), st.integers(1, 120)),
    st.tuples(st.just("offer"), st.integers(1, 3), st.integers(1, 20)),
    st.tuples(st.just("offer"), st.integers(1, 4), st.integers(300, 3000)),
    st.tuples(st.just("turn"), st.just(0), st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 30), st.just(0)),
    st.tuples(st.just("send"), st.integers(1, 20), st.just(0)),
    st.tuples(st.just("take"), st.integers(1, 20), st.just(0)),
    st.tuples(st.just("lose_consumers"), st.just(0), st.just(0)),
    st.tuples(st.just("fail"), st.integers(0, len(CALLS) - 1), st.integers(0, len(ERRORS) - 1)),
    st.tuples(st.just("fail"), st.just(0), st.just(0)),
    st.tuples(st.just("fill"), st.integers(0, 600), st.just(0)),
    st.tuples(st.just("spoil"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("works"), st.just(0), st.just(0)),
    st.tuples(st.just("power"), st.just(0), st.just(0)),
    st.tuples(st.just("kill"), st.just(0), st.just(0)),
    st.tuples(st.just("close"), st.just(0), st.just(0)),
)


@st.composite
def policies(draw: st.DrawFn) -> BufferPolicy:
    return BufferPolicy(
        bytes=draw(st.sampled_from((1 << 40, 6_000, 2_500))),
        messages=draw(st.sampled_from((1_000_000, 40, 7))),
        sync_s=draw(st.sampled_from((0.0, 0.05))),
        ahead_bytes=draw(st.sampled_from((4 << 20, 2000, 100))),
    )


class SmallSegments(BufferPolicy):
    """Of some records, so that a short history has many of them."""

    @property
    def segment_bytes(self) -> int:
        return 1000


class LargerSegments(BufferPolicy):
    """Of some pages, so that one of these is missing in the middle."""

    @property
    def segment_bytes(self) -> int:
        return 20_000


def live(policy: BufferPolicy, steps: list[tuple[str, int, int]], seed: int) -> None:
    chance = random.Random(seed)
    segments = SmallSegments if seed % 3 else LargerSegments
    lives = Lives(segments(policy.bytes, policy.messages, policy.sync_s, policy.ahead_bytes))
    for step, a, b in steps:
        match step:
            case "offer":
                if lives.buffer.room >= a:
                    lives.offer(a, min(b, policy.bytes // 20))  # one that is larger than the bound may pass it
            case "turn":
                lives.turn()
            case "wait":
                lives.wait(a / 10)
            case "send":
                lives.send(a)
            case "take":
                lives.take(a, chance)
            case "lose_consumers":
                lives.lose_consumers()
            case "fail":
                lives.fail(CALLS[a], ERRORS[b])
            case "fill":
                lives.disk.capacity = lives.disk.used + a
            case "spoil":
                lives.spoil_pages(chance, a)
            case "works":
                lives.disk.failing.clear()
                lives.disk.bad_pages.clear()
                lives.disk.capacity = 1 << 40
            case "power":
                lives.lose_power(chance)
            case "kill":
                lives.kill()
            case "close":
                lives.close()
    lives.settle_down(chance)
    lives.wait(2)
    left = [path for path in lives.disk.files if path.suffix == ".seg"]
    assert len(left) <= 2, f"{len(left)} segments are left of which nothing is needed"
    assert lives.buffer.room > 0, "an empty buffer takes nothing"


HISTORIES = st.lists(STEPS, min_size=3, max_size=40)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(policies(), HISTORIES, st.integers(0, 1 << 30))
def test_what_was_acked_can_be_read_whatever_happens(
    policy: BufferPolicy, steps: list[tuple[str, int, int]], seed: int
) -> None:
    live(policy, steps, seed)


@pytest.mark.stress
@settings(max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(policies(), HISTORIES, st.integers(0, 1 << 30))
def test_what_was_acked_can_be_read_in_a_hundred_thousand_histories(
    policy: BufferPolicy, steps: list[tuple[str, int, int]], seed: int
) -> None:
    live(policy, steps, seed)
