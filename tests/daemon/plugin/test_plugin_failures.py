"""What an exception of a hook means, whatever it says and asks for."""

from __future__ import annotations

import math

import pytest

from zpipe.core.work.task import Verdict
from zpipe.daemon.plugin.failures import MAX_DELAY_S, failure_of
from zpipe.errors import OperatorError, Reject, Retry, Throttled
from zpipe.runtime.exception_text import REASON_CHARACTERS


@pytest.mark.parametrize(
    "error", [Reject("y" * 3_000_000), OperatorError("y" * 3_000_000), ValueError("y" * 3_000_000)]
)
def test_a_reason_is_of_bounded_length(error: Exception) -> None:
    assert len(failure_of(0, error).reason) <= REASON_CHARACTERS


@pytest.mark.parametrize(
    ("delay", "waits"),
    [
        (2, 2.0),
        (0.5, 0.5),
        (-1, 0.0),
        (10**400, MAX_DELAY_S),
        (1e308, MAX_DELAY_S),
        (math.inf, None),
        (math.nan, None),
        (None, None),
        ("5", None),
    ],
)
def test_a_delay_is_what_can_be_waited_for(delay: object, waits: float | None) -> None:
    failure = failure_of(3, Retry(delay))  # type: ignore[arg-type]
    assert (failure.index, failure.verdict, failure.delay_s) == (3, Verdict.RETRY, waits)


def test_an_answer_needs_no_traceback() -> None:
    for error, verdict in ((Reject("no"), Verdict.REJECT), (Throttled(1.0), Verdict.THROTTLED)):
        failure = failure_of(0, error)
        assert (failure.verdict, failure.traceback) == (verdict, "")
