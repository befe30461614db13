"""What an exception of a process hook means for its message. Must not live here: what becomes of the message."""

from __future__ import annotations

import math

from zpipe.core.work.task import Failure, Verdict
from zpipe.errors import Answer, OperatorError, Reject, Retry, Throttled
from zpipe.runtime.exception_text import reason_of, text_of, traceback_of

MAX_DELAY_S = 86_400.0
"""A plugin, or the service it calls, may ask for any delay; waiting for more than a day is a mistake."""


def failure_of(index: int, error: BaseException) -> Failure:
    """The failure of message `index`. An Answer is on purpose, so it needs no traceback. An OperatorError is the end of the
    stage."""
    if isinstance(error, OperatorError):
        return Failure(index, text_of(error), verdict=Verdict.FAIL)
    if not isinstance(error, Answer):
        return Failure(index, reason_of(error), traceback_of(error))
    reason = text_of(error)
    match error:
        case Reject():
            return Failure(index, reason, verdict=Verdict.REJECT)
        case Throttled():
            return Failure(index, reason, verdict=Verdict.THROTTLED, delay_s=seconds(error.retry_after))
        case Retry():
            return Failure(index, reason, delay_s=seconds(error.delay))
    return Failure(index, reason_of(error), traceback_of(error))


def seconds(delay: object) -> float | None:
    """The delay that a plugin asks for, within [0, MAX_DELAY_S]. None if that is no number: then zpipe chooses one."""
    if isinstance(delay, int) or (isinstance(delay, float) and math.isfinite(delay)):
        return float(min(max(delay, 0), MAX_DELAY_S))
    return None
