"""Plays a scenario and says what was wrong with it.

As a program: `python tests/core/pipeline_run.py FROM TO [KINDS]` plays those seeds and shortens what fails.
"""

from __future__ import annotations

import random
import sys
import time
import traceback
from collections import Counter

from random_scenario import Event, Expectation, Expected, Scenario, make

from zpipe.testing import Disk, Simulation

END_S = 900.0
"""Bounded by: retries, timeouts of peers one after another, slow stages. Batch timeouts of ten minutes are not waited for."""


def play(scenario: Scenario) -> list[str]:
    """The problems, in words. After a drain a second run continues, calm, to the end."""
    disks: dict[tuple[str, int], Disk] = {}
    drained = any(event.what == "drain" for event in scenario.events)
    problems = _play(scenario, disks, scenario.events)
    if not problems and drained:
        problems = [f"second run: {problem}" for problem in _play(scenario, disks, ())]
    return problems


def _play(scenario: Scenario, disks: dict[tuple[str, int], Disk], events: tuple[Event, ...]) -> list[str]:
    heads = {case.name: case for case in scenario.cases if not case.inputs}
    for name in heads:
        if disks.get((name, 1), Disk()).completed:
            disks[name, 1] = Disk()
    starts = {name: disks.get((name, 1), Disk()).position for name in heads}
    sim = start(scenario, disks)
    for event in events:
        sim.clock.later(event.at, lambda event=event: happen(sim, event))  # type: ignore[misc]
    try:
        over = sim.run(seconds=END_S)
    except Exception:
        return [*sim.problems, traceback.format_exc(limit=-6)]
    problems = list(sim.problems)
    if not over:
        return [*problems, *hang(sim)]
    ends = {name: sim.disks[name, 1].position for name in heads}
    for name, case in heads.items():
        if not sim.draining and (ends[name] != case.messages or not sim.disks[name, 1].completed):
            problems.append(f"source {name} is at {ends[name]} of {case.messages} at the end")
    expectation = Expectation(scenario.cases)
    required = expectation.of({name: (starts[name], ends[name]) for name in heads})
    possible = expectation.of({name: (starts[name], case.messages) for name, case in heads.items()})
    if scenario.ordered:
        problems += disordered(sim, required)
    violent = bool(events) or scenario.faults.any or any(case.poison for case in scenario.cases)
    return problems + compare(sim, required, possible, scenario.gentle or not violent)


def start(scenario: Scenario, disks: dict[tuple[str, int], Disk] | None = None) -> Simulation:
    largest = 200 + 60 * len(scenario.cases) + max(case.big_bytes for case in scenario.cases)
    if any(case.merge for case in scenario.cases):
        largest += 10_000
    return Simulation([case.spec() for case in scenario.cases], scenario.seed, scenario.faults, disks, largest, 8000)


def happen(sim: Simulation, event: Event) -> None:
    """Does the event, if there is something for it to happen to."""
    key = (event.stage, event.instance)
    node = sim.nodes.get(key)
    match event.what:
        case "drain":
            sim.drain()
        case "join":
            extra = (event.stage, sim.specs[event.stage].instances + 1)
            unheard = extra not in sim.nodes and extra not in sim.marks and not sim.is_booting(extra)
            if unheard and sim.nodes and sim.specs[event.stage].inputs:
                sim.boot(*extra)
        case _ if node is None:
            return
        case "kill":
            sim.kill(key)
            sim.boot_later(key, event.seconds)
        case "freeze":
            sim.freeze(key, event.seconds)
        case "pause":
            sim.pause(key, event.seconds)
        case "leave":
            sim.back_later(key, event.seconds)
            sim.leave(key)
        case "session":
            sessions = sim.network.sessions(node.incarnation)
            if sessions:
                sim.lose_session(sessions[len(sessions) // 2])
        case "line":
            others = sorted(other for other in sim.nodes if other[0] in node.upstreams)
            if others:
                sim.lose_line(key, others[len(others) // 2], event.seconds)


def compare(sim: Simulation, required: Expected, possible: Expected, exact: bool) -> list[str]:
    """What came out against what had to. An instance that left while nobody took its outputs has left them undelivered:
    then its inputs are done again."""
    problems = []
    exact &= not any(s.shutdown.leaving and (s.downstream.unsent or s.downstream.in_flight) for s in sim.stopped)
    stored = Counter((one.stage, one.id, one.path) for one in sim.stored)
    dead = Counter((stage, id) for stage, id, _ in sim.dead_letters)
    for what, got, least, most in (
        ("stored", stored, required.stored, possible.stored),
        ("dead", dead, required.dead, possible.dead),
    ):
        if lost := sorted(set(least) - set(got)):
            problems.append(f"{len(lost)} not {what}: {lost[:5]}")
        if extra := sorted(set(got) - set(most)):
            problems.append(f"{len(extra)} {what} that cannot exist: {extra[:5]}")
        if exact and got != least and not (lost or extra):
            problems.append(
                f"{what} not exactly once: {sorted((got - least).items())[:5]} {sorted((least - got).items())[:5]}"
            )
    for stage in sim.stopped:
        if stage.shutdown.leaving:  # it may have had nobody to deliver to
            continue
        if stage.counts.queued or stage.counts.in_process or stage.downstream.unsent or stage.downstream.in_flight:
            problems.append(f"{stage.me.incarnation} stopped holding something: {stage.counts}")
        if stage.source is not None and stage.source.finished != stage.source.emitted:
            problems.append(
                f"{stage.me.incarnation} stopped with {stage.source.finished} of {stage.source.emitted} finished"
            )
    return problems + (balance(sim) if exact else [])


def disordered(sim: Simulation, required: Expected) -> list[str]:
    """Sinks at which messages did not come in the order of their source."""
    problems = []
    for sink in {one.stage for one in sim.stored}:
        got = [(one.stage, one.id, one.path) for one in sim.stored if one.stage == sink]
        due = [one for one in required.stored if one[0] == sink]
        at = next((n for n, (g, d) in enumerate(zip(got, due, strict=False)) if g != d), None)
        if at is not None:
            problems.append(f"{sink} got {got[at]} where {due[at]} was due")
    return problems


def balance(sim: Simulation) -> list[str]:
    """Without kills and faults, what left a stage by its links is what came to the next ones."""
    problems = []
    for name in sim.specs:
        sent = sum(o.produced for s in sim.stopped for o in s.sessions.outlets if o.consumer == name)
        counts = [s.counts for s in sim.stopped if s.me.stage == name and s.source is None]
        came = sum(c.received - c.returned for c in counts)
        if counts and sent != came:
            problems.append(f"{sent} messages were sent to {name}, {came} came")
    return problems


def hang(sim: Simulation) -> list[str]:
    """Who holds what, when a run does not end."""
    lines = [f"not over at {sim.now:.1f}; stopped: {sorted(sim.marks)}"]
    for node in sim.nodes.values():
        stage = node.stage
        leaving = "leaving " if stage.shutdown.leaving else ""
        lines.append(
            f"{node.incarnation} {stage.state.value} {leaving}{stage.counts} waits for {stage.upstreams.waiting_for()}"
        )
        for u in stage.upstreams._upstreams.values():
            line = f"    from {u.name} {u.outlet!r}: {u.state.value}, connected {u.connected}, hello {u.hello_at}"
            if u.session is not None:
                m, b = u.session.messages, u.session.bytes
                line += f", {u.session.id} received {m.received} of {m.limit}, {b.received} of {b.limit} bytes, needs {b.need}"
                line += f", unfinished {[(d.sequence, d.unfinished) for d in u.session.deliveries.values()]}"
            lines.append(line)
        for o in stage.sessions.outlets:
            lines.append(
                f"    to {o.consumer} {o.name!r}: unsent {o.unsent_messages}, in flight {o.in_flight_messages},"
                f" end acked {o.end_acked}"
            )
            for s in o.sessions.values():
                line = f"        {s.id} ready {s.ready}, sent {s.sent_messages} of {s.limit_messages}"
                line += f", {s.sent_bytes} of {s.limit_bytes} bytes, released {s.released}"
                lines.append(line + f", in flight {list(s.flights)}, end {s.end_sequence}")
    return lines


def shorten(scenario: Scenario) -> Scenario:
    """The same failure with fewer events."""
    index = 0
    while index < len(scenario.events):
        shorter = scenario.without(index)
        if play(shorter):
            scenario = shorter
        else:
            index += 1
    return scenario


def hunt(first: int, last: int, kinds: str = "all", most: int = 10) -> int:
    """Plays seeds, prints what fails. Returns how many failed."""
    failed = 0
    began = time.monotonic()
    for seed in range(first, last):
        scenario = make(random.Random(seed), kinds)
        problems = play(scenario)
        if problems:
            failed += 1
            short = shorten(scenario)
            print(f"SEED {seed} {kinds}\n", short.faults, *short.cases, *short.events, sep="\n  ")
            print(*play(short)[:40], sep="\n  ! ", flush=True)
            if failed >= most:
                break
    print(f"{failed} of {seed + 1 - first} seeds from {first} failed, {time.monotonic() - began:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(hunt(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:4]) > 0)
