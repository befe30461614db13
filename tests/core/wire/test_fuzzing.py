"""Nothing that comes over a wire raises anything but PeerError, and what is taken in holds what it promises."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from itertools import islice

import fuzzing
import pytest
from monitor_samples import CHAIN, config

from zpipe.core import events
from zpipe.core.policy import MIB, Bound, StagePolicy
from zpipe.core.telemetry.snapshot import taken_in
from zpipe.core.wire import frames, section
from zpipe.errors import PeerError
from zpipe.monitor.export.checks import Thresholds, wrong
from zpipe.monitor.export.metrics import METRICS
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.model.run_ledger import RunLedger
from zpipe.monitor.table.pipeline_status import status
from zpipe.testing.simulated_plugin import Spec
from zpipe.testing.simulation import Simulation

EXAMPLES, MANY = 1500, 200_000
SLOW_S = 2.0
"""Of one input of at most 100 KB. None takes a hundredth of it; what grows without bound takes more."""
CONFIG = config(CHAIN)
MESSAGES = 40


def refused(error: PeerError) -> str:
    """Its kind: the field, or else the first words."""
    return f"{error.kind}.{error.field}" if error.field else " ".join(re.findall(r"[a-z]+", str(error))[:4])


def judge_frame(encoded: bytes) -> str:
    """Whatever is read can be written, and is then read as the same."""
    try:
        frame = frames.read(encoded)
    except PeerError as error:
        return refused(error)
    again = frames.read(frames.write(frame))
    assert repr(again) == repr(frame)
    return f"read {frame.kind}"


def judge_section(encoded: bytes) -> str:
    count = encoded[0] % 4 if encoded else 1
    try:
        columns = section.decode(encoded, count)
    except PeerError as error:
        return refused(error)
    assert all(len(column) == count for column in columns[:3])
    assert all(isinstance(one, str) for one in columns.ids)
    return f"read {count}, {'with' if columns.headers else 'without'} headers"


def judge_snapshot(encoded: bytes) -> str:
    """A monitor, a ledger and an exporter survive whatever an instance says of itself."""
    try:
        frame = frames.read(encoded)
    except PeerError as error:
        return refused(error)
    taken = taken_in(frame.body) if isinstance(frame, frames.Snapshot) else None
    if taken is None:
        return "no snapshot"
    model, ledger = PipelineModel(CONFIG), RunLedger(CONFIG)
    if not model.add(taken, 2e9):
        return "passed over"
    value = model.as_json(2e9 + 1.0)
    json.dumps(value, allow_nan=False)
    status(value, 80)
    wrong(value, Thresholds(depth=1, age_s=1.0, dead=0))
    for metric in METRICS:
        list(metric.samples(value))
    ledger.killed(taken)
    ledger.final(taken)
    ledger.as_json(1.0)
    return f"shown {taken['state']}"


class Neighbours:
    """A pipeline at work, of which one end says what it is given to say, by the connection that its session belongs to."""

    def __init__(self) -> None:
        policy = StagePolicy(queue=Bound(8, MIB), unacked=Bound(40, MIB))
        specs = [
            Spec("a", messages=MESSAGES, policy=policy),
            Spec("b", (("a", ""),), policy=policy),
            Spec("c", (("b", ""),), policy=policy),
        ]
        self.sim = Simulation(specs, 7)
        assert self.sim.run(lambda: len(self.sim.network.connections) == 2)
        self._session = next(iter(self.sim.nodes["a", 1].stage.sessions.outlets[0].sessions.values()))

    def judge(self, encoded: bytes) -> str:
        """By the consumer `b` to the feedback of `a`, and by its producer to its inbox. Identities hold after each."""
        session = self._session
        encoded = encoded.replace(bytes.fromhex("00112233445566778899aabbccddeeff"), session.id)
        said = "taken"
        for key, event in (
            (("a", 1), events.FeedbackReceived(session.route, encoded, "b")),
            (("b", 1), events.ParcelReceived(encoded, b"x" * 45)),
            (("b", 1), events.UpstreamReceived(("a", 1), encoded)),
        ):
            node = self.sim.nodes[key]
            try:
                node.tell(event)
            except PeerError as error:
                said = refused(error)
            node.turn()
        broken = [problem for problem in self.sim.problems if ": session." not in problem]
        assert broken == [], "a session that is broken off, with the reason, is what has to come of it"
        return said if not self.sim.problems else "a broken session"


def judge_in_session(encoded: bytes) -> str:
    return Neighbours().judge(encoded)


TARGETS: dict[str, Callable[[bytes], str]] = {
    "frames": judge_frame,
    "sections": judge_section,
    "snapshots": judge_snapshot,
    "sessions": judge_in_session,
}


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_and_what_is_near_it(target: str) -> None:
    corpus = fuzzing.of(target)
    assert len(corpus) > 5
    near = EXAMPLES if target != "sessions" else EXAMPLES // 10
    _check(target, len(corpus) + near, seed=16)


@pytest.mark.stress
@pytest.mark.parametrize("target", TARGETS)
def test_far_more_of_it(target: str) -> None:
    _check(target, MANY if target != "sessions" else MANY // 20, seed=random.randrange(1 << 32))


def _check(target: str, most: int, seed: int) -> None:
    judge = TARGETS[target]
    for encoded in islice(fuzzing.mutants(target, seed), most):
        began = time.process_time()
        try:
            judge(encoded)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {encoded[:2000].hex()}") from error
        assert time.process_time() - began < SLOW_S, encoded[:2000].hex()
