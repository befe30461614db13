"""N1: messages a second through three stages, and the CPU time of each, by payload, codec, worker and peer."""

from __future__ import annotations

from benchmarks.benchmark import Benchmark, Side
from benchmarks.figures import Comparison, Goal, at_most, ratio_at_least
from benchmarks.payloads import FLAT, HUGE, KILOBYTE, LARGE, NESTED, SMALL, Payload
from benchmarks.peers.by_hand import ByHand
from benchmarks.peers.codec_floor import floor
from benchmarks.peers.jetstream import JetStream
from benchmarks.peers.mp_queue import MultiprocessingQueue
from benchmarks.peers.rabbitmq import RabbitMQ
from benchmarks.peers.redis_streams import RedisStreams
from benchmarks.peers.zpipe import Zpipe
from benchmarks.window import Load, Peer, through

ZPIPE, CBOR2, ORMSGPACK = Zpipe(), ByHand(), ByHand("ormsgpack")
LISTS = ByHand(batch=100)
CBOR = Zpipe("zpipe, cbor", stage_lines='codec = "cbor"')
BATCHES = Zpipe(
    "zpipe, batch of 100",
    plugin='plugin = "python"\noptions = { function = "benchmarks.touch:touch_all" }',
    map_lines="batch = { messages = 100 }",
)
PROCESS = Zpipe("zpipe, process", map_lines='workers = { kind = "process" }')
ASYNC = Zpipe("zpipe, async", plugin='plugin = "./async_map.py"')
FLOOR_CBOR2, FLOOR_ORMSGPACK = floor("cbor2", FLAT), floor("ormsgpack", FLAT)


def _side(peer: Peer, payload: Payload = FLAT) -> Side:
    return Side(peer.name, lambda effort: through(peer, Load(payload), effort.warm_up_s, effort.window_s))


def _rate(what: str, ours: Peer, reference: Peer, goal: Goal | None = None) -> Comparison:
    return Comparison(what, "messages/s", (ours.name, "rate"), (reference.name, "rate"), goal)


def _cpu(what: str, ours: str, reference: str, goal: Goal | None = None) -> Comparison:
    return Comparison(what, "us CPU/message", (ours, "cpu_us"), (reference, "cpu_us"), goal)


def _flat() -> Benchmark:
    others: list[Peer] = [MultiprocessingQueue(), RedisStreams(), JetStream(), RabbitMQ()]
    goals = {"Redis streams": ratio_at_least(8)}
    peers: list[Peer] = [ZPIPE, CBOR2, ORMSGPACK, CBOR, *others]
    sides = [*map(_side, peers), FLOOR_CBOR2, FLOOR_ORMSGPACK]
    comparisons = [
        _rate("90 B", ZPIPE, CBOR2, ratio_at_least(2.2)),
        _cpu("90 B", ZPIPE.name, CBOR2.name, at_most(4.2)),
        _rate("90 B", ZPIPE, ORMSGPACK),
        _rate('90 B, codec = "cbor"', CBOR, CBOR2, ratio_at_least(1.3)),
        *(_rate("90 B", ZPIPE, peer, goals.get(peer.name)) for peer in others),
        _cpu("90 B", ZPIPE.name, FLOOR_CBOR2.name),
        _cpu("90 B", ZPIPE.name, FLOOR_ORMSGPACK.name),
    ]
    return Benchmark("N1.flat", "throughput of 90-byte maps, by peer", sides, comparisons)


def _of(name: str, payload: Payload, goal: Goal | None) -> Benchmark:
    sides = [_side(peer, payload) for peer in (ZPIPE, CBOR2, ORMSGPACK)]
    comparisons = [
        _rate(payload.name, ZPIPE, CBOR2, goal),
        _cpu(payload.name, ZPIPE.name, CBOR2.name),
        _rate(payload.name, ZPIPE, ORMSGPACK),
    ]
    return Benchmark(f"N1.{name}", f"throughput, {payload.name}", sides, comparisons)


BATCH = Benchmark(
    "N1.batch",
    "throughput of a map that takes batches of 100",
    [_side(peer) for peer in (BATCHES, CBOR2, LISTS)],
    [_rate("batches of 100", BATCHES, CBOR2), _rate("batches of 100", BATCHES, LISTS)],
)
WORKERS = Benchmark(
    "N1.workers",
    "throughput of a map in a worker process, and of an async one",
    [_side(peer) for peer in (PROCESS, ASYNC, CBOR2)],
    [
        _rate("worker process", PROCESS, CBOR2),
        _cpu("worker process", PROCESS.name, CBOR2.name),
        _rate("async", ASYNC, CBOR2),
        _cpu("async", ASYNC.name, CBOR2.name),
    ],
)
BENCHMARKS = (
    _flat(),
    _of("nested", NESTED, ratio_at_least(2)),
    _of("16B", SMALL, None),
    _of("1kB", KILOBYTE, ratio_at_least(1.5)),
    _of("64kB", LARGE, ratio_at_least(0.9)),
    _of("1MB", HUGE, ratio_at_least(0.9)),
    BATCH,
    WORKERS,
)
