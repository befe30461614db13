"""The state of a whole pipeline, from the last snapshots of its instances: what `zpipe monitor --json` prints.

Must not live here: sockets, the clock, files and layout.

- The *depth* of a link is what waits on it: unsent at its producers, under way, and queued at its consumers (`link`). What is in
  process is not part of the depth. Consumers that do not list their sessions have one queue for all links into them. It is split
  among the links in proportion to what their producers have under way, so that the parts add up to the queue.
- An instance of the config that was never heard is unheard until the monitor has listened for SILENT_INTERVALS and CONNECT_S, and
  as long again from the first snapshot on, since a pipeline that is started comes up one instance after the other. It is
  absent after that. While some are unheard, no bottleneck is named.
- An instance that was not heard for SILENT_INTERVALS is silent. What a silent or failed instance held is not counted: it belongs
  to its upstream, which sends it again. `stale_s` of a stage or link is the age of the oldest figure that is missing in it.
- Clocks of hosts may differ (`clocks`). Times that an instance says are given by the monitor's clock; ages since the origin of
  messages not at all where its clock and that of a source differ, since percentiles below zero are lost at the instance.
- Some figures need not be published (PROTOCOL.md 5.9). If an instance that has a part in such a figure does not publish it, the
  figure is None: a sum without that part would look like the whole.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from zpipe.config import InstanceKey, PipelineConfig
from zpipe.core.ledger import COUNTS, OTHERS
from zpipe.core.lifecycle import State
from zpipe.monitor.model.bottleneck import find_bottleneck
from zpipe.monitor.model.capacity import load_of, mean_shares
from zpipe.monitor.model.forecast import Forecast
from zpipe.monitor.model.halt import halt_of_stage
from zpipe.monitor.model.incarnation import CLOCK_OFF_S, SeenIncarnation, is_possible_time
from zpipe.monitor.model.link import LinkHistory, LinkName, common_moment, count_link, room, split

SILENT_INTERVALS = 3.0
CONNECT_S = 1.0
"""Time to find an instance, and for the subscription to reach it."""
ABSENT, SILENT, UNHEARD = "ABSENT", "SILENT", "UNHEARD"
STATES = (State.FAILED.value, SILENT, *(s.value for s in State if s is not State.FAILED))
"""In order: the worst and least advanced first. A stage is in the first of these that one of its instances is in."""

Snapshot = dict[str, Any]
N = TypeVar("N", int, float)


class PipelineModel:
    """Takes snapshots in any order of instances. The last of an instance counts, and of its incarnations the newest.

    listening_since  by default so long ago that every running instance would have been heard
    """

    def __init__(self, config: PipelineConfig, listening_since: float = float("-inf")) -> None:
        self._patience_s = SILENT_INTERVALS * config.interval_s + CONNECT_S
        self._unheard_until = listening_since + self._patience_s
        self._config = config
        # Instances of one machine have one clock.
        self._is_spread = any(stage.listen for stage in config.stages.values())
        self._seen: dict[str, dict[int, SeenIncarnation]] = {name: {} for name in config.stages}
        self._inputs = {
            stage.name: [LinkName(i.stage, i.outlet, stage.name) for i in stage.inputs]
            for stage in config.stages.values()
        }
        self._forecasts = {link: Forecast(link, config) for links in self._inputs.values() for link in links}
        self._refused: Mapping[InstanceKey, str] = {}
        self._now = 0.0
        self._last_bottleneck: str | None = None
        self._programs = {one.name for one in config.stages.values() if one.command}

    def add(self, snapshot: Snapshot, now: float | None = None) -> bool:
        """Takes a sound snapshot (`core/telemetry/snapshot.taken_in`) that came at `now` (default: when it was taken). False if
        it is passed over, because the config does not have its stage or its time is impossible."""
        if snapshot["stage"] not in self._config.stages:
            return False
        of_stage, instance = self._seen[snapshot["stage"]], snapshot["instance"]
        first = not self.heard
        taken_at = snapshot.get("at", 0.0)
        if not is_possible_time(taken_at):
            return False
        at = float(taken_at) if now is None else now
        if first and math.isfinite(self._unheard_until):
            self._unheard_until = max(self._unheard_until, at + self._patience_s)
        seen = of_stage.get(instance)
        if seen is None:
            seen = of_stage[instance] = SeenIncarnation()
            self._seen[snapshot["stage"]] = dict(sorted(of_stage.items()))
        elif seen.snapshot["incarnation"] != snapshot["incarnation"]:
            seen = of_stage[instance] = SeenIncarnation(replaced_another=True)
        seen.add(snapshot, at, self._config.interval_s)
        self._now = max(self._now, at)
        for link, forecast in self._forecasts.items():
            self._update_forecast(seen, link, forecast)
        return True

    def note_refused(self, refused: Mapping[InstanceKey, str]) -> None:
        """Why the monitor cannot hear instances, where that is known."""
        self._refused = refused

    def _update_forecast(self, seen: SeenIncarnation, link: LinkName, forecast: Forecast) -> None:
        """Passes what an instance at one end of a link has published to the forecast of that link."""
        stage = seen.snapshot["stage"]
        if stage == link.upstream:
            forecast.add_snapshot(seen)
        if stage in (link.upstream, link.consumer) and (up_to := self._common_moment(link)) > forecast.at:
            forecast.add_depth(up_to, self._link(link)["depth"], seen.heard_at - seen.published_at)

    @property
    def missing(self) -> list[str]:
        """Instances of the config that were never heard, as STAGE.N."""
        return [f"{name}.{n}" for name in self._config.stages for n in self._absent(name)]

    @property
    def awaited(self) -> list[str]:
        """`missing`, and consumers that others are in session with: these were started in addition to those of the config."""
        named = {
            (link.consumer, session.get("instance"))
            for known in self._seen.values()
            for seen in known.values()
            for link, row in seen.link_history.last.links.items()
            for session in row.get("consumers", ())
        }
        return self.missing + [f"{stage}.{n}" for stage, n in named if n not in self._seen.get(stage, {n})]

    @property
    def heard(self) -> bool:
        return any(self._seen.values())

    @property
    def over(self) -> bool:
        """Whether every instance has published that it is STOPPED."""
        return not self.missing and all(
            s.snapshot["state"] == State.STOPPED for known in self._seen.values() for s in known.values()
        )

    def as_json(self, at: float) -> dict[str, Any]:
        """The pipeline at `at`, with the keys that docs/monitor.md lists."""
        self._now = at
        links = [self._with_times(name, self._link(name)) for name in self._forecasts]
        stages = {name: self._stage(name) for name in self._config.stages}
        loads = {name: load_of(stage, self._live(name)) for name, stage in self._config.stages.items()}
        unheard = any(stage["unheard"] for stage in stages.values())
        bottleneck = None if unheard else find_bottleneck(stages, links, loads, self._last_bottleneck, self._programs)
        self._last_bottleneck = bottleneck["stage"] if bottleneck and bottleneck["kind"] != "source" else None
        return {
            "pipeline": self._config.name,
            "at": at,
            "stages": stages,
            "links": links,
            "bottleneck": bottleneck,
            "clocks": self._clocks(),
        }

    # ---- instances

    def _absent(self, stage: str) -> list[int]:
        return [n for n in range(1, self._config.stages[stage].instances + 1) if n not in self._seen[stage]]

    def _state(self, seen: SeenIncarnation) -> str:
        """The state that it published, or SILENT if it was not heard lately and had not said that it ended."""
        state: str = seen.snapshot["state"]
        silent = self._now - seen.heard_at > SILENT_INTERVALS * self._config.interval_s
        return SILENT if silent and state not in (State.STOPPED, State.FAILED) else state

    def _live(self, stage: str) -> list[SeenIncarnation]:
        """The instances that work now. What others hold will be sent again."""
        return [s for s in self._seen[stage].values() if self._state(s) not in (SILENT, State.STOPPED, State.FAILED)]

    # ---- clocks

    def _clocks(self) -> dict[str, float]:
        """By host (by instance where there are none): seconds by which its clock is ahead of the monitor's, where it is off."""
        found: dict[str, float] = {}
        for stage in self._seen if self._is_spread else ():
            for seen in self._live(stage):
                instance = seen.snapshot["instance"]
                if seen.clock_ahead_s:
                    found[self._config.host_of(stage, instance) or f"{stage}.{instance}"] = round(seen.clock_ahead_s, 3)
        return found

    def _without_clock_errors(self, seen: SeenIncarnation) -> Snapshot:
        """What it has published last, without what its clock has made wrong."""
        told, ahead_s = seen.snapshot, seen.clock_ahead_s
        if not self._is_spread:
            return told
        sources = [one.clock_ahead_s for head in self._config.heads for one in self._seen[head].values()]
        if any(abs(ahead_s - other) > CLOCK_OFF_S for other in sources):
            without = {key: dict(told[key]) for key in ("latency", "latency_histogram") if told.get(key)}
            for row in without.values():
                row.pop("since_origin", None)
            told = told | without
        if ahead_s and "at" in told:
            told = told | {"at": told["at"] - ahead_s}
            if crash := told.get("last_crash"):
                told["last_crash"] = crash | {"at": crash.get("at", 0.0) - ahead_s}
        return told

    # ---- stages

    def _stage(self, name: str) -> dict[str, Any]:
        seen, live = self._seen[name], self._live(name)
        states = {instance: self._state(one) for instance, one in seen.items()}
        never, unheard = self._absent(name), self._now < self._unheard_until
        all_, working = (
            [self._without_clock_errors(s) for s in seen.values()],
            [self._without_clock_errors(s) for s in live],
        )
        return {
            "state": min(states.values(), key=STATES.index, default=UNHEARD if unheard else ABSENT),
            "instances": all_,
            "absent": [] if unheard else never,
            "unheard": never if unheard else [],
            "silent": [instance for instance, state in states.items() if state == SILENT],
            "held_by": {f"{name}.{s['instance']}": s["held_by"] for s in working if s.get("held_by")},
            "stopped_by": {f"{name}.{s['instance']}": s["stopped_by"] for s in working if s.get("stopped_by")},
            "refusals": self._refusals(name, working),
            "stale_s": self._stale_s([name]),
            "live": len(live),
            "paused": sum(1 for one in working if one.get("paused")),
            "halted": halt_of_stage(working),
            "rate_in": _sum_if_known(s.rate("received") for s in live),
            "rate_out": _sum_if_known(s.rate("done") for s in live),
            "budget": mean_shares(budgets) if all(budgets := [s.get("budget") or {} for s in working]) else None,
            "latency": _slowest_latency([s.get("latency") or {} for s in working]),
            **{key: _sum(all_, key) for key in (*COUNTS[:-2], *OTHERS)},
            "restarts": _by_reason(all_, "restarts"),
            "worker_restarts": _by_reason(all_, "worker_restarts"),
            "last_crash": _last_crash(all_),
            # This is on its disk, whatever became of its process.
            "dead_stored": _sum_if_known(s.get("dead_stored") for s in all_),
            "in_process": _sum(working, "in_process"),
            "depth": _sum(working, "queued"),
            "depth_bytes": _sum_if_known(s.get("queued_bytes") for s in working if s["queued"]),
            "oldest_s": _max_if_known(s.get("oldest_s") for s in working if s["queued"]),
            "open_batch": sum(self._open_batch(one) for one in live),
            "limit": sum((one.get("limit") or {}).get("limit") or 0 for one in working) or None,
            "rss_bytes": _sum_if_known(s.get("rss_bytes") for s in working),
            "progress": None if self._config.stages[name].inputs else source_progress(all_),
        }

    def _refusals(self, name: str, working: Iterable[Snapshot]) -> dict[str, list[str]]:
        """By instance: what it says of connections that were refused, and why this monitor does not hear it."""
        said = {
            f"{name}.{one['instance']}": [str(row["reason"]) for row in one["refusals"]]
            for one in working
            if one.get("refusals")
        }
        for (stage, instance), why in self._refused.items():
            if stage == name:
                said.setdefault(f"{stage}.{instance}", []).append(why)
        return said

    def _open_batch(self, seen: SeenIncarnation) -> int:
        """Messages in its queue that wait for their batch to fill."""
        batch = self._config.stages[seen.snapshot["stage"]].batch
        return int(seen.snapshot["queued"] % batch.messages) if batch else 0

    def _stale_s(self, stages: Iterable[str]) -> float | None:
        """Seconds since the instance that has been silent longest was heard; None if none is silent."""
        silent = [s for name in stages for s in self._seen[name].values() if self._state(s) == SILENT]
        return max((self._now - seen.heard_at for seen in silent), default=None)

    # ---- links

    def _ends(self, stage: str) -> list[tuple[str, LinkHistory]]:
        return [(seen.incarnation, seen.link_history) for seen in self._live(stage)]

    def _common_moment(self, name: LinkName) -> float:
        ends = (*self._live(name.upstream), *self._live(name.consumer))
        return common_moment([seen.link_history for seen in ends], self._config.interval_s)

    def _link(self, name: LinkName) -> dict[str, Any]:
        """What is on the link, as of the latest moment up to which both of its ends have published."""
        upstream, downstream = self._live(name.upstream), self._live(name.consumer)
        producers, consumers = [seen.link(name) for seen in upstream], [seen.snapshot for seen in downstream]
        inputs = self._inputs[name.consumer]
        moment = self._common_moment(name)
        columns = count_link(name, self._ends(name.upstream), self._ends(name.consumer), moment)
        every = [columns["queued"]]
        if not all("sessions" in one for one in consumers):  # Programs in other languages need not list them.
            weights = [sum(s.under_way(other) for s in self._live(other.upstream)) for other in inputs]
            every = split(_sum(consumers, "queued"), weights)
            columns |= {"queued": every[inputs.index(name)], "under_way": 0, "unacked": 0, "remainder": 0}
        elif len(inputs) > 1:
            every = [
                count_link(other, self._ends(other.upstream), self._ends(name.consumer), moment)["queued"]
                for other in inputs
            ]
        return {
            "at": moment or None,
            "from": name.upstream,
            "to": name.consumer,
            "outlet": name.outlet,
            "depth": columns["unsent"] + columns["under_way"] + columns["queued"],
            "depth_bytes": _depth_bytes(producers, consumers, columns, every, inputs.index(name)),
            **columns,
            "open_batch": min(
                columns["queued"], split(sum(self._open_batch(s) for s in downstream), every)[inputs.index(name)]
            ),
            "credit": _sum_if_known(
                _sum(link["consumers"], "credit") if "consumers" in link else None for link in producers if link
            ),
            "oldest_s": _max_if_known(
                [s.get("oldest_s") for s in consumers if columns["queued"] and s["queued"]]
                + [link.get("oldest_s") for link in producers if link.get("unsent")]
            ),
            "stale_s": self._stale_s([name.upstream, name.consumer]),
        }

    def _with_times(self, name: LinkName, link: dict[str, Any]) -> dict[str, Any]:
        """The row of a link with the figures that say how it changes.

        bound    the depth at which its producers can add nothing more
        slope    messages a second by which the depth grows
        outputs  messages on the link for one that its upstream finishes
        """
        live = self._live(name.upstream)
        producers = [seen.link(name) for seen in live]
        unacked = self._config.stages[name.upstream].unacked
        done = sum(seen.done for seen in live)
        return {
            **link,
            "rate": self._rate(name),
            **self._forecasts[name].times(live, link["depth"], self._now),
            "bound": None if link["credit"] is None else link["depth"] + sum(room(row, unacked) for row in producers),
            "outputs": _sum(producers, "produced") / done if done else 1.0,
        }

    def _rate(self, name: LinkName) -> float | None:
        """Messages a second sent over it; None while there is no producer.

        While only one snapshot is known, it is the rate at which the consumers state that they receive, if this is their only
        link. Otherwise it is the rate at which the producers finish messages, times the outputs of one message.
        """
        producers, consumers = self._live(name.upstream), self._live(name.consumer)
        if not producers:
            return None
        measured = [seen.link_rate(name) for seen in producers]
        if None not in measured:
            return sum(rate or 0.0 for rate in measured)
        if len(self._inputs[name.consumer]) == 1 and consumers:
            return _sum_if_known(seen.rate("received") for seen in consumers)
        done = [(seen.rate("done"), seen.outputs(name)) for seen in producers]
        return _sum_if_known(None if rate is None else rate * outputs for rate, outputs in done)


def _sum(rows: Iterable[dict[str, Any]], key: str) -> int:
    return sum(row.get(key, 0) for row in rows)


def _sum_if_known(parts: Iterable[N | None], added: Callable[[list[N]], N] = sum) -> N | None:
    """Their sum; None if one of them is unknown."""
    found = list(parts)
    known = [one for one in found if one is not None]
    return added(known) if len(known) == len(found) else None


def _max_if_known(times: Iterable[float | None]) -> float | None:
    """The longest of them; None if one is unknown."""
    return _sum_if_known(times, lambda known: max(known, default=0.0))


def _depth_bytes(
    producers: list[dict[str, Any]], consumers: list[Snapshot], columns: dict[str, int], every: list[int], at: int
) -> int | None:
    """The bytes that wait on a link; None if an end where some of them wait does not publish its bytes.

    every  messages queued at the consumers from each of the links into them;  at: which of those this link is
    """
    unsent = _sum_if_known(row.get("unsent_bytes") for row in producers if row.get("unsent"))
    in_flight = _sum_if_known(
        row.get("in_flight_bytes") for row in producers if row.get("in_flight") and columns["under_way"]
    )
    queued = _sum_if_known(one.get("queued_bytes") for one in consumers if one["queued"] and columns["queued"])
    if unsent is None or in_flight is None or queued is None:
        return None
    under_way = in_flight * columns["under_way"] // max(columns["in_flight"], 1)
    return int(unsent + under_way + split(queued, every)[at])


def _slowest_latency(latencies: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Each percentile of the slowest instance, since those of all messages together do not follow from these."""
    slowest: dict[str, dict[str, float]] = {}
    for latency in latencies:
        for kind, percentiles in latency.items():
            row = slowest.setdefault(kind, {})
            for name, seconds in percentiles.items():
                row[name] = max(row.get(name, 0.0), seconds)
    return slowest


def _by_reason(snapshots: list[Snapshot], key: str) -> dict[str, int]:
    """Crashes, by what ended the process."""
    found: Counter[str] = Counter()
    for one in snapshots:
        found.update(one.get(key) or {})
    return dict(found)


def _last_crash(snapshots: list[Snapshot]) -> dict[str, Any] | None:
    """The latest of their crashes, and whose it was."""
    found = [{"instance": one["instance"], **one["last_crash"]} for one in snapshots if one.get("last_crash")]
    return max(found, key=lambda crash: crash.get("at", 0.0), default=None)


def source_progress(snapshots: list[Snapshot]) -> dict[str, int | None]:
    """How far a source is: messages finished, and in all (None: unknown), both with what earlier runs finished."""
    before = _sum(snapshots, "finished_before")
    total = _sum_if_known(s.get("total") if s.get("finished") is not None else None for s in snapshots)
    return {
        "finished": before + sum(s.get("finished") or 0 for s in snapshots),
        "total": before + total if snapshots and total is not None else None,
    }
