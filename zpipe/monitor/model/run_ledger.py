"""The ledger of a run: what became of every message, from the last snapshot of each instance.

Must not live here: sockets, the clock and files.

A killed incarnation is counted by the last snapshot that it published. What it did after that is unknown, but no message is lost:

- what it had queued or in process went back to those above it, so it counts as returned;
- of its links only what was acked counts as sent: what was in flight or unsent comes again from those above;
- an instance that left and gave up what nobody took from it (`abandoned`) is counted the same way;
- what it did after its last snapshot is in no column of its own. Where the other end of a link knows of it, the difference
  is said to be `unknown`, so that the sums add up: messages that somebody acked and no account of the stage has, and
  messages that a killed producer had sent and no account of it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from zpipe.config import PipelineConfig
from zpipe.core.ledger import COUNTS
from zpipe.core.lifecycle import State
from zpipe.core.telemetry.snapshot import at_rest, broken, stored_in
from zpipe.monitor.model.link import buffer_faults

Snapshot = dict[str, Any]
LinkKey = tuple[str, str, str]
"""(from, outlet, to)"""

RARE = ("replayed", "unrouted")
"""Keys that a stage's row has only if they are not 0."""
STAGE_KEYS = (*COUNTS, "produced", "redelivered", "duplicates", *RARE)
LINK_KEYS = ("sent", "acked", "dead", "returned", "in_flight", "unsent")


class RunLedger:
    """Takes each incarnation's last snapshot, by `final` or by `killed`. `restarts` is for the caller to count.

    expected  instances that must give a final account; by default those of the config
    here      those that this run has, where others of the pipeline run on other hosts: they are expected, and only their stages
              and what leaves these is in the ledger
    """

    def __init__(
        self,
        config: PipelineConfig,
        expected: set[tuple[str, int]] | None = None,
        here: Collection[tuple[str, int]] | None = None,
    ) -> None:
        self.restarts: dict[str, int] = Counter()
        self._config = config
        mine = set(config.instances if here is None else here)
        self._expected = mine if expected is None else expected
        self._is_whole = mine >= set(config.instances)
        self._stages = [name for name in config.stages if self._is_whole or any(name == stage for stage, _ in mine)]
        self._finals: dict[tuple[str, int, str], Snapshot] = {}
        self._killed: dict[tuple[str, int, str], Snapshot] = {}

    def final(self, snapshot: Snapshot) -> None:
        """The last snapshot of an incarnation that ended by itself, or that still runs when the ledger is drawn up."""
        key = _key(snapshot)
        self._killed.pop(key, None)
        self._finals[key] = snapshot

    def killed(self, snapshot: Snapshot) -> None:
        """The last snapshot of an incarnation that has gone. One that had STOPPED, by this or its final one, ended in order."""
        key = _key(snapshot)
        if snapshot["state"] == State.STOPPED:
            self.final(snapshot)
        if key in self._finals and self._finals[key]["state"] == State.STOPPED:
            return
        self._finals.pop(key, None)
        self._killed[key] = snapshot

    def _was_cut_short(self, snapshot: Snapshot) -> bool:
        """Whether what it held in the end comes again from those above it, so that it is no part of the account."""
        return _key(snapshot) in self._killed or _gave_up(snapshot)

    def remarks(self, ledger: dict[str, Any]) -> list[str]:
        """What has to be said of a ledger (of `as_json`) that balances all the same: where its columns do not tell all."""
        found = [
            f"stored: {link['stored']} messages from {link['from']} to {link['to']} are in the disk buffer, for the next run"
            for link in ledger["links"]
            if link.get("stored")
        ]
        found += buffer_faults(self._finals.values())
        unknown = [f"{name} {row['unknown']}" for name, row in ledger["stages"].items() if row.get("unknown")]
        unknown += [
            f"{link['from']} -> {link['to']} {link['unknown']}" for link in ledger["links"] if link.get("unknown")
        ]
        if not unknown:
            return found
        lives = ", ".join(ledger.get("killed", ())) or "lives that were over before"
        return [
            *found,
            f"unknown: {', '.join(unknown)} messages, which {lives} finished and had not said so yet; none is lost",
        ]

    @property
    def balanced(self) -> bool:
        return not self.problems()

    def problems(self) -> list[str]:
        """Why the ledger does not balance: who holds what, in words. Empty when it balances."""
        found = []
        last = {(stage, instance): snapshot for (stage, instance, _), snapshot in self._finals.items()}
        missing = sorted(self._expected - set(last))
        found += [f"{stage}.{instance} gave no final account" for stage, instance in missing]
        for snapshot in self._finals.values():
            found += _problems_of(snapshot)
        return found

    def as_json(self, seconds: float) -> dict[str, Any]:
        """What `zpipe run --json` and `zpipe drain --json` print. `problems` and `killed` only if there are any."""
        problems = self.problems()
        stages, links = {name: self._stage(name) for name in self._stages}, self._links()
        if not problems and self._is_whole:  # while something still moves, the two ends of a link differ anyway
            self._add_unknown(stages, links)
        ledger: dict[str, Any] = {
            "pipeline": self._config.name,
            "balanced": not problems,
            "seconds": round(seconds, 3),
            "stages": stages,
            "links": [
                {"from": upstream, "to": consumer, **({"outlet": outlet} if outlet else {}), **row}
                for (upstream, outlet, consumer), row in links.items()
            ],
        }
        if self._killed:
            ledger["killed"] = [f"{stage}.{instance}:{life}" for stage, instance, life in self._killed]
        if problems:
            ledger["problems"] = problems
        return ledger

    def _stage(self, stage: str) -> dict[str, int]:
        row = dict.fromkeys(STAGE_KEYS, 0)
        for snapshot in (*self._finals.values(), *self._killed.values()):
            if snapshot["stage"] == stage:
                _add(row, snapshot, killed=self._was_cut_short(snapshot))
        rare = {key: number for key in RARE if (number := row.pop(key))}
        return {**row, "restarts": self.restarts[stage], **rare}

    def _add_unknown(self, stages: dict[str, dict[str, int]], links: dict[LinkKey, dict[str, int]]) -> None:
        """Where the two ends of a link differ. More at the consumer's end is what a killed producer had sent, or what
        consumers did twice, since it was sent again; so it is said of links from stages that were killed only."""
        all_lives = (*self._finals.values(), *self._killed.values())
        killed = {snapshot["stage"] for snapshot in all_lives if self._was_cut_short(snapshot)}
        for name, row in stages.items():
            into = {link: counts for link, counts in links.items() if link[2] == name}
            acked = sum(counts["acked"] + counts.get("dead", 0) for counts in into.values())
            less = acked - (row["completed"] + row["filtered"] + row["dead"] - row.get("replayed", 0))
            suspects = [counts for link, counts in into.items() if link[0] in killed]
            if into and less > 0:
                row["unknown"] = less
            elif less < 0 and len(suspects) == 1:
                suspects[0]["unknown"] = -less

    def _links(self) -> dict[LinkKey, dict[str, int]]:
        """sent = acked + dead + returned + in_flight: what was sent over a link ended well, as a dead letter of the consumer,
        or was handed back unstarted (and sent again, which counts again). `stored`, where there is any: left in a disk buffer."""
        rows = {
            (stage, outlet, consumer): dict.fromkeys(LINK_KEYS, 0)
            for stage in self._stages
            for outlet, consumer in self._config.consumers(stage)
        }
        for snapshot in (*self._killed.values(), *self._finals.values()):
            stage, killed = snapshot["stage"], self._was_cut_short(snapshot)
            for link in snapshot["links"]:
                row = rows.get((stage, link.get("outlet", ""), link["to"]), Counter())
                for key in ("acked",) if killed else ("acked", "in_flight", "unsent", "returned"):
                    row[key] += link.get(key, 0)
                if not killed and (stored := stored_in(link)):
                    row["stored"] = row.get("stored", 0) + stored
                    row["unsent"] -= stored
            for link in snapshot.get("inputs", ()) if not killed else ():
                row = rows.get((link.get("from"), link.get("outlet", ""), stage), Counter())
                row["dead"] += link.get("dead", 0)
        for row in rows.values():
            row["sent"] = row["acked"] + row["returned"] + row["in_flight"]
            row["acked"] -= row["dead"]
            for key in ("dead", "returned"):  # only where there are any
                if not row[key]:
                    del row[key]
        return rows


def _key(snapshot: Snapshot) -> tuple[str, int, str]:
    return snapshot["stage"], snapshot["instance"], snapshot["incarnation"]


def _add(row: dict[str, int], snapshot: Snapshot, killed: bool) -> None:
    for name in COUNTS:
        row["returned" if killed and name in ("in_process", "queued") else name] += snapshot[name]
    for name in ("duplicates", *RARE):
        row[name] += snapshot.get(name, 0)
    for link in snapshot["links"]:
        row["produced"] += link["acked" if killed else "produced"]
        row["redelivered"] += link.get("redelivered", 0)


def _problems_of(snapshot: Snapshot) -> list[str]:
    name = f"{snapshot['stage']}.{snapshot['instance']}"
    found = [f"{name}: {problem}" for problem in broken(snapshot)]
    holdings = _holdings(snapshot)
    waiting = f", waits for {', '.join(snapshot['waiting_for'])}" if snapshot.get("waiting_for") else ""
    why = [snapshot.get("stopped_by"), snapshot.get("held_by"), "it is paused" if snapshot.get("paused") else ""]
    stopped_by = "".join(f"; {reason}" for reason in why if reason)
    if snapshot["state"] != State.STOPPED:
        found.append(f"{name} is {snapshot['state']}, holds {holdings or 'nothing'}{waiting}{stopped_by}")
    elif not at_rest(snapshot) and not _gave_up(snapshot):
        found.append(f"{name} stopped, but holds {holdings}")
    finished = snapshot.get("finished")
    if finished is not None and finished != snapshot["received"]:
        found.append(f"{name} read {snapshot['received']} messages, of which {finished} are finished")
    return found


def _gave_up(snapshot: Snapshot) -> bool:
    return bool(snapshot.get("abandoned")) and not at_rest(snapshot)


def _holdings(snapshot: Snapshot) -> str:
    held = [
        f"{snapshot[key]} {word}" for key, word in (("queued", "queued"), ("in_process", "in process")) if snapshot[key]
    ]
    for link in snapshot["links"]:
        if link["in_flight"]:
            held.append(f"{link['in_flight']} in flight to {link['to']}")
        if link["unsent"]:
            held.append(f"{link['unsent']} unsent to {link['to']}")
    return ", ".join(held)
