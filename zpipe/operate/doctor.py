"""What stands in a pipeline's way, as seen from this machine: names, ways to the other hosts, keys, versions, clocks, services of
plugins, limits, folders, disks, NATS clusters. Each finding says its cure. Does not belong here: units (the command adds them),
and mending anything."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from zpipe import __version__, folders
from zpipe.config import Address, PipelineConfig, parse_address
from zpipe.config.memory_estimate import estimate_memory
from zpipe.config.pipeline_config import JetStreamLink
from zpipe.core.wire.peer_address import as_ip
from zpipe.errors import OperatorError, TargetError
from zpipe.jetstream import examination
from zpipe.jetstream.access import Access
from zpipe.jetstream.names import LinkNames, version
from zpipe.operate import buffer_disks
from zpipe.operate.watch import Watch
from zpipe.runtime import this_host
from zpipe.runtime.places import Places
from zpipe.transport import keyring

Verdict = Literal["ok", "warning", "wrong"]
CONNECT_S = 2.0
SAFE_NATS = (2, 10, 23)
NATS_PAYLOAD_BYTES = 2**20
CLOCKS_APART_S = 1.0
"""Clocks that NTP keeps differ by some milliseconds."""
PORTS = {
    "http": 80,
    "https": 443,
    "redis": 6379,
    "rediss": 6379,
    "amqp": 5672,
    "amqps": 5671,
    "nats": 4222,
    "tls": 4222,
    "kafka": 9092,
    "mqtt": 1883,
    "mqtts": 8883,
    "postgresql": 5432,
    "mysql": 3306,
    "mariadb": 3306,
    "mssql": 1433,
    "oracle": 1521,
}
"""The ports of URLs that name none."""
MINUTES_FROM_S = 120.0
LEAST_DESCRIPTORS = 1024
LEAST_BYTES, FEW_BYTES = 32 * 2**20, 1024 * 2**20
"""Free room on a disk: with less than the first an instance soon has to wait; less than the second is worth a warning."""


class Finding(NamedTuple):
    """What one look has found. `cure` is empty where there is nothing to do."""

    area: str
    verdict: Verdict
    what: str
    cure: str = ""


def examine(config: PipelineConfig, env: Mapping[str, str], listen_s: float) -> Iterator[Finding]:
    """All looks, one after the other. Blocks; `listen_s` for what instances say.

    env  the environment of the instances, which says which host of the pipeline this machine is
    """
    try:
        places = Places(config, env)
    except TargetError as error:
        what = str(error).rpartition(": ")[0]
        yield Finding("this host", "wrong", what, "say which of them this is by --host, or $ZPIPE_HOST")
        return  # most of what follows differs by host
    yield from _names(config, places.host)
    keys = list(_keys(config, env, places.host))
    yield from keys
    if not any(one.verdict == "wrong" and one.area == "this host" for one in keys):
        yield from _peers(config, places, listen_s)
    yield from _clusters(config)
    yield from _services(config, places.host)
    yield from _limits(config, places.host)
    yield from _folders(places, env)
    for one in buffer_disks.examine(config, places):
        cure = "lower `buffer.bytes`, or give the state folder a larger disk ($ZPIPE_STATE_DIR)"
        if one.problem:
            yield Finding(
                "disks", "warning" if one.free_bytes else "wrong", f"disk buffers: {one.whose} {one.problem}", cure
            )
        else:
            fits = f"{one.whose} may need {one.needed_bytes >> 20:,} of {one.free_bytes >> 20:,} MiB"
            yield Finding("disks", "ok", f"disk buffers: {fits}")


def _names(config: PipelineConfig, host: str) -> Iterator[Finding]:
    for name, one in config.hosts.items():
        if not one.address or not any(name in stage.hosts for stage in config.stages.values()):
            continue
        try:
            found = socket.getaddrinfo(one.address.strip("[]"), None, type=socket.SOCK_STREAM)
        except OSError as error:
            cure = f"a line in /etc/hosts, or in the DNS; or an IP address as [hosts.{name}] address"
            yield Finding("names", "wrong", f"{name}: {one.address} has no address: {error.strerror}", cure)
            continue
        addresses = ", ".join(dict.fromkeys(str(where[0]) for *_, where in found))
        if name == host and as_ip(one.address) and not this_host.is_own(one.address):
            cure = (
                f"give this machine the address, or correct [hosts.{name}] address; $ZPIPE_HOST says which host this is"
            )
            yield Finding("names", "wrong", f"{name} is this host, and {one.address} is no address of it", cure)
        else:
            yield Finding("names", "ok", f"{name} is {addresses}")


def _keys(config: PipelineConfig, env: Mapping[str, str], host: str) -> Iterator[Finding]:
    if not config.hosts:
        return
    if not config.has_keys:
        if len(config.hosts) > 1:
            cure = "take it out of the config, and give each host a key: `zpipe keys new`"
            yield Finding("keys", "warning", "insecure = true: whoever reaches a port can take part", cure)
        return
    try:
        pair = keyring.pair_from(this_host.own_key(config, env, host), host)
    except OperatorError as error:
        what, _, cure = str(error).partition(": ")
        yield Finding("this host", "wrong", what, cure)
        return
    assert pair is not None
    if pair.public in config.hosts[host].keys:
        yield Finding("keys", "ok", f"this is {host}, its key is {pair.public}")
    else:
        known = ", ".join(config.hosts[host].keys) or "none"
        cure = f"zpipe keys trust '{host} = {pair.public}', here and on each other host"
        yield Finding("keys", "wrong", f"the key of {host} here is {pair.public}, and the config trusts {known}", cure)
    for name, one in config.hosts.items():
        used = any(name in stage.hosts for stage in config.stages.values())
        if not one.keys:
            cure = f"`zpipe keys list` on {name} shows it: zpipe keys trust '{name} = KEY'"
            yield Finding("keys", "wrong" if used else "warning", f"no key of {name} is trusted here", cure)


def _peers(config: PipelineConfig, places: Places, listen_s: float) -> Iterator[Finding]:
    """What the instances say, and why those of other hosts that say nothing cannot be heard."""
    try:
        watch = Watch(config, places, ask_unheard=True)
    except OperatorError as error:
        yield Finding("this host", "wrong", str(error))
        return
    skews: dict[str, float] = {}
    try:
        until = time.monotonic() + listen_s
        while time.monotonic() < until and not set(config.instances) <= watch.snapshots.keys():
            for snapshot in watch.poll(0.1):
                if "at" in snapshot:  # the least of several is the truest: the others were on their way for longer
                    host = config.host_of(snapshot["stage"], snapshot["instance"])
                    skew = time.time() - float(snapshot["at"])
                    skews[host] = min(skews.get(host, skew), skew, key=abs)
        refused = watch.refused
    finally:
        watch.close()
    yield from _heard(config, places, watch.snapshots, skews)
    for stage, instance in config.instances:
        if (stage, instance) in watch.snapshots:
            continue
        name, host = f"{stage}.{instance}", places.other_host(stage, instance)
        if (stage, instance) in refused:
            what, _, cure = refused[stage, instance].partition(": ")
            yield Finding("reach", "wrong", f"{name} on {host}: {what}", cure or f"`zpipe doctor` on {host} says more")
        elif host and config.has_keys and not config.hosts[host].keys:
            what = f"{name} on {host} is not asked, since no key of {host} is trusted here"
            yield Finding("reach", "wrong", what, f"zpipe keys trust '{host} = KEY'")
        elif host and config.stages[stage].listen:
            yield _unheard(name, host, config.stages[stage].listen[instance - 1])
        elif places.is_local(stage, instance) and places.alive(stage, instance):
            yield _running_unheard(name, is_program=bool(config.stages[stage].command))
        else:
            yield Finding("reach", "warning", f"{name} does not run", "start it")


def _running_unheard(name: str, is_program: bool) -> Finding:
    """An instance that holds its lock and was not heard of."""
    if is_program:
        cure = "see its log. A program need not publish any (PROTOCOL.md, section 17); then nothing here can say how it does"
        return Finding("reach", "warning", f"{name} runs and publishes no snapshot", cure)
    return Finding("reach", "wrong", f"{name} runs and says nothing", "see its log; it may be stopped by a signal")


def _heard(
    config: PipelineConfig,
    places: Places,
    snapshots: Mapping[tuple[str, int], dict[str, Any]],
    skews: Mapping[str, float],
) -> Iterator[Finding]:
    mine, told = f"zpipe {__version__}", set()
    for (stage, instance), snapshot in snapshots.items():
        name, version = f"{stage}.{instance}", snapshot.get("version")
        yield Finding("reach", "ok", f"{name} is {snapshot['state']}")
        if version and version != mine:
            yield Finding(
                "versions", "warning", f"{name} runs {version}, and this is {mine}", "install the same everywhere"
            )
        for row in snapshot.get("refusals") or ():
            if row["reason"] not in told:
                told.add(row["reason"])
                what, _, cure = row["reason"].partition(": ")
                there = places.other_host(stage, instance)  # the reason calls that one "here" and "this host"
                yield Finding("keys", "wrong", f"{name}" + f" on {there} says" * bool(there) + f": {what}", cure)
    for host, skew in skews.items():
        where = host or "another process"
        if abs(skew) > CLOCKS_APART_S:
            way = "behind" if skew > 0 else "ahead of"
            cure = "have both kept by NTP (timedatectl set-ntp true). Only times since a message's origin are wrong"
            apart = f"{abs(skew):.0f} s" if abs(skew) < MINUTES_FROM_S else f"{abs(skew) / 60:.0f} min"
            yield Finding("clocks", "warning", f"the clock of {where} is {apart} {way} this one", cure)
        elif host not in ("", places.host):
            yield Finding("clocks", "ok", f"the clock of {host} is right to {abs(skew):.1f} s")


def _unheard(name: str, host: str, listen: str) -> Finding:
    address = parse_address(listen)
    where = f"{address.host}:{address.port}"
    try:
        socket.create_connection((address.host.strip("[]"), address.port), CONNECT_S).close()
    except ConnectionRefusedError:
        cure = f"start it; if it runs, a firewall on {host} refuses {where}"
        return Finding("reach", "warning", f"{name} does not run: nobody listens at {where} on {host}", cure)
    except OSError as error:
        why, cure = _unreached(error, host, address)
        return Finding("reach", "wrong", f"{name} on {host} cannot be reached at {where}: {why}", cure)
    cure = f"see the log of {name} on {host}, and `zpipe doctor` there"
    return Finding("reach", "wrong", f"{name} on {host}: somebody listens at {where}, and sends no snapshot", cure)


def _unreached(error: OSError, host: str, address: Address) -> tuple[str, str]:
    """Why no connection was made, and the cure."""
    if isinstance(error, socket.gaierror):
        cure = f"a line in /etc/hosts, or in the DNS; or an IP address as [hosts.{host}] address"
        return f"{address.host} has no address ({error.strerror})", cure
    if isinstance(error, TimeoutError):
        return "no answer", f"is {host} up? Let tcp {address.port} to {address.port + 2} through its firewall"
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN):
        way = f"`ip route get {address.host.strip('[]')}` shows the way there"
        cure = f"is {host} up, and on this network? {way}; correct it, or [hosts.{host}] address"
        return "no route" if error.errno != errno.ENETDOWN else "the network is down", cure
    if error.errno in (errno.EPERM, errno.EACCES):
        return str(error.strerror), f"let this machine's own firewall send to tcp {address.port} to {address.port + 2}"
    cure = (
        f"`nc -vz {address.host.strip('[]')} {address.port}` shows the same: what is between this machine and {host}?"
    )
    return str(error.strerror or error), cure


def _clusters(config: PipelineConfig) -> Iterator[Finding]:
    """The NATS clusters of JetStream links: whether they can be used, and what they may lose."""
    links: dict[tuple[str, ...], list[tuple[LinkNames, JetStreamLink]]] = {}
    for stage in config.stages.values():
        for entry in stage.inputs if stage.link is not None else ():
            assert stage.link is not None
            name = LinkNames(config.name, entry.stage, entry.outlet, stage.name)
            links.setdefault(stage.link.servers, []).append((name, stage.link))
    for servers, named in links.items():
        where = ", ".join(servers)
        facts = examination.examine(Access(servers, config.nats), [name for name, _ in named])
        if facts.problem:
            yield Finding("nats", "wrong", f"the cluster cannot be reached: {facts.problem}", facts.cure)
            continue
        yield from _cluster(where, facts)
        for name, link in named:
            yield from _stream(name, link, facts)


def _cluster(where: str, facts: examination.ClusterFacts) -> Iterator[Finding]:
    if facts.jetstream_problem:
        what = f"JetStream of {facts.server} cannot be used: {facts.jetstream_problem}"
        yield Finding("nats", "wrong", what, facts.jetstream_cure)
    else:
        yield Finding("nats", "ok", f"{facts.server} has JetStream, version {facts.version}")
    found = version(facts.version)
    if found is None or found < SAFE_NATS:
        what = f"version {facts.version} may lose a whole stream when servers crash (nats-server #6888)"
        yield Finding("nats", "warning", what, f"bring the servers to {'.'.join(map(str, SAFE_NATS))} or newer")
    if facts.max_payload < NATS_PAYLOAD_BYTES:
        what = f"it takes {facts.max_payload} bytes a message, and a parcel may have {NATS_PAYLOAD_BYTES}"
        yield Finding("nats", "wrong", what, "max_payload: 1MB in the servers' configuration")
    loss = "until then a loss of power takes what was acknowledged and not synced, if it takes most servers at once"
    cure = "jetstream { sync_interval: always } in the servers' configuration; each parcel then costs a sync"
    lazy = {server: words for server, words in facts.sync.items() if words != "always"}
    if lazy:
        shown = ", ".join(f"{server} {words}" for server, words in lazy.items())
        yield Finding("nats", "warning", f"servers sync later than they acknowledge ({shown}): {loss}", cure)
    elif facts.sync:
        yield Finding("nats", "ok", f"{len(facts.sync)} servers of {where} sync before they acknowledge")
    else:
        what = f"when the servers sync is told to their system account alone; by default each two minutes, and {loss}"
        yield Finding("nats", "warning", what, cure)


def _stream(name: LinkNames, link: JetStreamLink, facts: examination.ClusterFacts) -> Iterator[Finding]:
    if link.replicas < 3:
        what = f"{name.text}: {link.replicas} of 3 replicas: it does not outlive every loss of one server"
        yield Finding("nats", "warning", what, "replicas = 3")
    for stream in facts.streams:
        if stream.link == name and stream.missing:
            what = f"{name.text}: its stream is not whole on {', '.join(stream.missing)}"
            yield Finding("nats", "warning", what, "start these servers, and wait until they have caught up")


def _services(config: PipelineConfig, host: str) -> Iterator[Finding]:
    """Whether somebody listens where plugins say that they connect to. What they say to each other is the plugin's own."""
    here = dict.fromkeys(stage for stage, _ in config.instances_on(host))
    for stage in here:
        for service in config.stages[stage].traits.services:
            where = _host_and_port(service)
            if where is None:
                continue
            shown = f"{where[0]}:{where[1]}"
            try:
                socket.create_connection(where, CONNECT_S).close()
            except OSError as error:
                why = "no answer" if isinstance(error, TimeoutError) else error.strerror
                cure = (
                    "is it up, and is this its address? A stage waits for it at its start, or its messages are retried"
                )
                yield Finding("services", "wrong", f"{stage}: the service at {shown} cannot be reached: {why}", cure)
            else:
                yield Finding("services", "ok", f"{stage}: somebody listens at {shown}")


def _host_and_port(service: str) -> tuple[str, int] | None:
    """None for what is not reached over the network. Nothing else of a URL is shown: it may have a password."""
    try:
        url = urlsplit(service if "://" in service else f"//{service}")
        port = url.port or PORTS.get(url.scheme)
    except ValueError:
        return None
    return (url.hostname, port) if url.hostname and port else None


def _limits(config: PipelineConfig, host: str) -> Iterator[Finding]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < LEAST_DESCRIPTORS:
        cure = "ulimit -Hn 16384, or LimitNOFILE= in a unit"
        yield Finding(
            "limits", "wrong", f"a process may have {hard} file descriptors: too few for its neighbours", cure
        )
    else:
        yield Finding(
            "limits",
            "ok",
            f"a process may have {'any number of' if hard == resource.RLIM_INFINITY else hard} file descriptors",
        )
    here = [stage for stage, _ in config.instances_on(host)]
    needed = sum(row.instance_bytes * here.count(row.stage) for row in estimate_memory(config))
    free = _free_memory()
    if here and free is not None and needed > free:
        what = f"the instances of this host may take {needed >> 20:,} MiB at the worst, and {free >> 20:,} MiB are free"
        yield Finding("limits", "warning", what, "lower `queue` and `unacked`, by `zpipe check`; or add memory")
    elif here:
        yield Finding("limits", "ok", f"memory: {needed >> 20:,} MiB at the worst")


def _free_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _folders(places: Places, env: Mapping[str, str]) -> Iterator[Finding]:
    for what, folder in (("sockets", places.root), ("state", places.state("s", 1).parent)):
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if not places.of_system and not os.access(nearest, os.W_OK | os.X_OK):
            error = folders.denied(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "write in")
            yield Finding("folders", "wrong", f"{what}: {error}", "or set $ZPIPE_RUNTIME_DIR and $ZPIPE_STATE_DIR")
            continue
        free = shutil.disk_usage(nearest).free
        cure = f"make room on the disk of {nearest}"
        if free < LEAST_BYTES:
            yield Finding("disks", "wrong", f"{what}: {free >> 20} MiB are free for {folder}", cure)
        elif what == "state" and free < FEW_BYTES:
            yield Finding("disks", "warning", f"{what}: {free >> 20} MiB are free for {folder}", cure)
        else:
            yield Finding("disks", "ok", f"{what}: {free >> 30} GiB are free for {folder}")
