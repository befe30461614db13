"""When something periodic is next due. Must not live here: what is done then."""

from __future__ import annotations

import math


def following(now: float, interval_s: float) -> float:
    """The next whole multiple of the interval after `now`. The instances of a machine share its monotonic clock, so they do what
    is periodic at the same instants: it wakes them together, and the snapshots of a link's two ends can be laid side by side."""
    at = (math.floor(now / interval_s) + 1) * interval_s
    # A quotient that was rounded down may give this very instant again.
    return at if at - now > 1e-6 * interval_s else at + interval_s
