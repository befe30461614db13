"""Connections that were refused for their keys, here or by the other end: what was wrong and how to mend it, for the log and for
snapshots. Must not live here: deciding who may connect, which `transport/curve` does.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Mapping
from typing import Any

from zpipe.config import PipelineConfig
from zpipe.core.actions import LogEvent
from zpipe.core.wire.peer_address import same_host
from zpipe.daemon.service.limited_log import LimitedLog
from zpipe.transport.curve import SOMEBODY, Refusal

FORGET_S = 10.0
"""A refused peer tries again every second. One that has not tried for so long has gone, and its refusal is forgotten."""
REPEATED = 3
"""So many handshakes from one address that were broken off without a reason are worth a line in the log."""
TRYING_S = 5.0
"""A client that expects another key here is refused only after so long: it may trust a second key, which it tries next, while
this host changes its own."""
MOST = 20
"""Refusals that are remembered: strangers can cause any number."""
SILENT_TIMEOUTS = 2.0
"""An upstream instance is called silent after so many peer timeouts: one that is started again is back sooner."""
SHOWN = ("hello.refused", "upstream.refuses")
"""Events of the core that are refusals, too: the peer's key may connect, but its hello is not accepted."""


class Refusals:
    """Used by the loop's thread.

    host  the name of this host;  key: its public key;  stage: the stage of this instance
    """

    def __init__(self, config: PipelineConfig, host: str, key: str, stage: str, log: LimitedLog) -> None:
        self._config = config
        self._host = host
        self._key = key
        self._stage = stage
        self._log = log
        self._patience_s = SILENT_TIMEOUTS * config.peer_timeout_s
        self._dropped: dict[str, str] = {}
        self._broken_off: list[tuple[str, float]] = []
        self._trying: dict[str, tuple[float, float]] = {}
        self._seen: dict[tuple[str, str], tuple[int, float]] = {}

    def trust(self, config: PipelineConfig) -> None:
        """Other keys are trusted from now on. Remembers whose the dropped ones were, to name the host that still uses one."""
        new = {key for host in config.hosts.values() for key in host.keys}
        old = {key: host.name for host in self._config.hosts.values() for key in host.keys}
        self._dropped = {**self._dropped, **old}
        self._dropped = {key: name for key, name in self._dropped.items() if key not in new}
        self._config = config

    def note(self, refusal: Refusal, now: float) -> None:
        if refusal.problem == "broken off" and not refusal.by_peer and not self._is_repeated(refusal.where, now):
            return
        if refusal.problem == "wrong server key" and not refusal.by_peer and not self._lasts(refusal.where, now):
            return
        reason = self._of_peer(refusal) if refusal.by_peer else self._here(refusal)
        event = "peer.refuses" if refusal.by_peer else "peer.refused"
        self._log.write(LogEvent(event, {"peer": refusal.where, "reason": reason}), now)
        self._remember(refusal.where, reason, now)

    def _is_repeated(self, where: str, now: float) -> bool:
        """A peer without a key tries again each second. A command that was ended meanwhile, or a port scan, does not."""
        recent = [(one, at) for one, at in self._broken_off if now - at <= FORGET_S]
        self._broken_off = [*recent[-MOST:], (where, now)]
        return sum(one == where for one, _ in self._broken_off) >= REPEATED

    def _lasts(self, where: str, now: float) -> bool:
        """Whether somebody there has tried in vain for so long that this will not end by itself."""
        since, last = self._trying.pop(where, (now, now))
        since = since if now - last <= FORGET_S else now
        self._trying[where] = (since, now)
        if len(self._trying) > MOST:
            del self._trying[next(iter(self._trying))]
        return now - since >= TRYING_S

    def note_event(self, event: LogEvent, now: float) -> None:
        """Remembers an event of the core if it is a refusal. It is logged already."""
        if event.event in SHOWN:
            peer = str(event.fields.get("consumer") or event.fields.get("upstream") or "")
            self._remember(peer, str(event.fields.get("reason")), now)

    def note_flood(self, peer: str, now: float) -> None:
        """The peer's connection was ended for the frames that came by it."""
        said = "what is wrong with them is in the log here (peer.malformed, hello.refused)"
        reason = f"{peer} sends frames that break the protocol, or that no session is open for: its connection was ended; {said}"
        self._log.write(LogEvent("peer.flood", {"peer": peer, "reason": reason}), now)
        self._remember(peer, reason, now)

    def figures(self, unreached: Mapping[tuple[str, int], tuple[str, float]]) -> list[dict[str, Any]]:
        """For the snapshot, the newest last.

        unreached  upstream instances that are waited for and not connected: the address, and for how many seconds
        """
        now = time.monotonic()
        self._seen = {key: seen for key, seen in self._seen.items() if now - seen[1] <= FORGET_S}
        found = [
            {"peer": peer, "reason": reason, "times": times, "last_s": round(now - at, 3)}
            for (peer, reason), (times, at) in self._seen.items()
        ]
        found = [*self._without_keys(), *found]
        return [*self._silent(unreached, {str(row["peer"]) for row in found}), *found]

    def _silent(
        self, unreached: Mapping[tuple[str, int], tuple[str, float]], refused: Container[str]
    ) -> Iterator[dict[str, Any]]:
        """A row for each silent upstream instance on another host. Left out are those on this host, where marks on disk tell what
        has stopped, and those on a host that is `refused`: there the keys are in the way, and starting the instance would not
        help."""
        for (stage, instance), (address, seconds) in unreached.items():
            host = self._config.host_of(stage, instance)
            if host in ("", self._host) or host in refused or seconds < self._patience_s:
                continue
            where = address.removeprefix("tcp://")
            cure = f"start it; if it has ended for good, `zpipe drain` on {host} ends what waits for it here"
            reason = f"{stage}.{instance} on {host} is silent, nothing is connected at {where}: {cure}"
            yield {"peer": f"{stage}.{instance}", "reason": reason, "times": 0, "last_s": round(seconds, 3)}

    def _remember(self, peer: str, reason: str, now: float) -> None:
        times, _ = self._seen.pop((peer, reason), (0, 0.0))
        self._seen[peer, reason] = (times + 1, now)
        if len(self._seen) > MOST:
            del self._seen[next(iter(self._seen))]

    def _without_keys(self) -> list[dict[str, Any]]:
        """A row for each neighbour's host of which no key is trusted: no connection to or from it is possible."""
        if not self._config.has_keys:
            return []
        neighbours = [entry.stage for entry in self._config.stages[self._stage].inputs]
        neighbours += [consumer for _, consumer in self._config.consumers(self._stage)]
        hosts = dict.fromkeys(host for name in neighbours for host in self._config.stages[name].hosts)
        return [
            {"peer": host, "reason": self._trust(host), "times": 1, "last_s": 0.0}
            for host in hosts
            if host != self._host and not self._config.hosts[host].keys
        ]

    def _trust(self, host: str) -> str:
        cure = f"`zpipe keys list` on {host} shows it; run `zpipe keys trust '{host} = KEY'` here"
        return f"no key of {host} is trusted here: {cure}"

    def _of_peer(self, refusal: Refusal) -> str:
        """Why the other end has refused this host."""
        peer, me = refusal.where, self._host
        match refusal.problem:
            case "unknown key":
                cure = f"run `zpipe keys trust '{me} = {self._key}'` on {peer}, and reload there (SIGHUP)"
                return f"{peer} does not know this host's key, or has dropped it: {cure}"
            case "key of another":
                return (
                    f"{peer} takes no messages from this host's key: by its config no stage on {me} is before that one; "
                    "compare the two configs"
                )
            case "no keys":
                has, has_not = ("this host", peer) if refusal.key else (peer, "this host")
                return f"{has} asks for a key and {has_not} has none: is `insecure` the same in both configs?"
            case "wrong server key":
                cure = (
                    f"`zpipe keys list` on {peer} shows its key; run `zpipe keys trust '{peer} = KEY'` here, and reload"
                )
                return f"{peer} does not have the key that is trusted for it here ({refusal.key}): {cure}"
            case _:
                return f"{peer} broke off the handshake"

    def _here(self, refusal: Refusal) -> str:
        """Why somebody was refused here."""
        who = self._named(refusal.where)
        match refusal.problem:
            case "unknown key" if refusal.key in self._dropped:
                return f"{who} still uses a key of {self._dropped[refusal.key]} that was dropped ({refusal.key})"
            case "unknown key":
                name = self._by_address(refusal.where)
                cure = f"run `zpipe keys trust '{name or 'HOST'} = {refusal.key}'` here, and reload (SIGHUP)"
                if not name:
                    others = " or ".join(sorted(self._config.hosts.keys() - {self._host}))
                    cure = f"{cure}; HOST is its name in [hosts] ({others})"
                return f"{who} has a key that is not trusted here: if it is to take part, {cure}"
            case "key of another":
                before = ", ".join(entry.stage for entry in self._config.stages[self._stage].inputs)
                return f"{who} has the key of a host on which no stage before {self._stage!r} runs ({before}): nothing is taken"
            case "no keys":
                return f"{who} has shown no key: is `insecure` in its config?"
            case "wrong server key":
                cure = f"run `zpipe keys trust '{self._host} = {self._key}'` there"
                return f"{who} expects another key of {self._host} than it has: {cure}"
            case "too many":
                return f"{who} has more connections open than all others: its newest is ended, since no more can be served here"
            case "no end":
                return f"{who} has sent a message that never ends: its connection is ended"
            case "broken off":
                return f"{who} broke off before it had shown a key: its config has `insecure`, or it is no zpipe"

    def _by_address(self, where: str) -> str:
        found = [name for name, host in self._config.hosts.items() if host.address and same_host(host.address, where)]
        return found[0] if len(found) == 1 else ""

    def _named(self, where: str) -> str:
        if where in self._config.hosts:
            return where
        if where == SOMEBODY:
            return where
        name = self._by_address(where)
        return f"somebody at {where}" + f" ({name})" * bool(name)
