"""When what is queued is handed over, and how much of it. May live here: that decision, as pure functions of what is queued.

Messages of a batch that is not full yet stay in the queue: accepted, not given to the plugin, so they count as depth.
"""

from __future__ import annotations

from zpipe.core.policy import BatchPolicy


def ready_at(
    policy: BatchPolicy, queued_messages: int, queued_bytes: int, first_at: float, hurry: bool, now: float
) -> float | None:
    """When the next batch may be handed over: `now`, a later time, or None while nothing is queued.

    first_at  when the oldest queued message came; the timeout counts from it, not from the last batch
    hurry     nothing more can come (end of input, or upstream waits for our acks): waiting would not fill the batch
    """
    if queued_messages == 0:
        return None
    if hurry or queued_messages >= policy.messages or queued_bytes >= policy.bytes:
        return now
    return first_at + policy.timeout_s
