"""How many outputs a source, or a worker that passes outputs on early, may make now. Must not live here: telling them, which the
shell does.
"""

from __future__ import annotations

from zpipe.core.actions import LimitOutputs
from zpipe.core.downstream.downstream import Downstream
from zpipe.core.policy import StagePolicy
from zpipe.core.source_positions import SourcePositions


class OutputLimit:
    """An absolute limit, so that what is on its way from other threads needs no counting.

    It is raised in steps: waking a source's thread for one message at a time would cost more than the message. But one that
    is awake, and near its limit, is told all the room there is: so it waits when that is used up, not up to a step before.
    """

    def __init__(self, policy: StagePolicy, source: SourcePositions | None) -> None:
        self._source = source
        self._limit = 0
        quarter = min(policy.unacked.messages, policy.link.unsent_messages) // 4
        self._step = max(1, quarter) if source is not None else 1

    @property
    def left(self) -> int | None:
        """How many more messages the source may emit; None: there is no source."""
        return None if self._source is None else self._limit - self._source.emitted

    @property
    def low(self) -> bool:
        """The source is near its limit."""
        return self._source is not None and self._limit - self._source.emitted < self._step

    def update(self, downstream: Downstream, may_read: bool) -> list[LimitOutputs]:
        """The limit, if it is time to tell it. `may_read`: the source may be read at all."""
        room = downstream.room
        limit = min(room, 1)
        if self._source is not None:
            limit = self._source.emitted + (room if may_read else 0)
        raised = limit - self._limit
        awake = self._source is not None and 0 < self._limit - self._source.emitted < self._step
        if raised < 0 or raised >= self._step or (raised and (awake or not downstream.unsent)):
            self._limit = limit
            return [LimitOutputs(limit)]
        return []
