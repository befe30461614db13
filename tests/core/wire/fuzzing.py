"""Bytes that are nearly what the protocol asks for, made from a corpus that is kept: `python tests/core/wire/fuzzing.py SECONDS`
looks for more, and adds to `corpus` what is refused in a way that nothing there is, or breaks something.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cbor2

CORPUS = Path(__file__).with_name("corpus")
HEADS = bytes([0x00, 0x1B, 0x3B, 0x40, 0x5B, 0x5F, 0x60, 0x7B, 0x80, 0x84, 0x94, 0x9B, 0x9F, 0xA0, 0xBB, 0xBF])
HEADS += bytes([0xC1, 0xC2, 0xD8, 0xF4, 0xF6, 0xF7, 0xF9, 0xFB, 0xFF, 0xCF, 0xD3, 0xDD, 0xDF])
"""First bytes of values in CBOR and MessagePack: numbers of 64 bits, lengths that are claimed, tags, what has no end."""
NUMBERS = [0, 1, 23, 24, 255, 256, 65_535, (1 << 31) - 1, (1 << 32) - 1, (1 << 63) - 1, (1 << 63), (1 << 64) - 1]
VALUES = [
    *NUMBERS,
    -1,
    -(1 << 63),
    1 << 70,
    0.0,
    -1.5,
    1e308,
    float("inf"),
    float("nan"),
    True,
    False,
    None,
    "",
    "x" * 2000,
]
VALUES += [
    "\u202e\x1b[2J",
    b"",
    b"\xff" * 16,
    [],
    {},
    [[]],
    [1, 2, 3],
    {"a": {"b": []}},
    [{}] * 100,
    {"": None},
    [[1, 2, 3, 4, 5]],
]
MOST_BYTES = 100_000


def of(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target).glob("*.bin"))]


def mutate(given: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """A few changes, each of a kind that breaks readers."""
    made = bytearray(given)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        at = chance.randrange(len(made) + 1)
        end = min(len(made), at + chance.choice([1, 1, 2, 4, 16, 64]))
        match chance.randrange(9):
            case 0 if at < len(made):
                made[at] ^= 1 << chance.randrange(8)
            case 1:
                made[at:end] = bytes([chance.choice(HEADS)])
            case 2:
                made[at:end] = b""
            case 3:
                made[at:at] = made[at:end] * chance.choice([1, 2, 30, 200])
            case 4:
                made[at:at] = chance.randbytes(chance.choice([1, 2, 8]))
            case 5:
                head = bytes([chance.choice([0x1B, 0x3B, 0x5B, 0x7B, 0x9B, 0xBB, 0xCF, 0xFB])])
                made[at:end] = head + chance.choice(NUMBERS).to_bytes(8, "big")
            case 6:
                made[at:at] = bytes([chance.choice([0x81, 0x91])]) * chance.choice([1, 30, 31, 32, 500])
            case 7:
                other = chance.choice(others)
                cut = chance.randrange(len(other) + 1)
                made[at:end] = other[cut : cut + chance.choice([4, 16, 64, 1000])]
            case _:
                del made[at:]
    return bytes(made[:MOST_BYTES])


def change_value(given: bytes, chance: random.Random) -> bytes:
    """The same with one value, at any depth, in place of another: it stays CBOR, so that what looks at values gets to see it."""
    try:
        tree = cbor2.loads(given)
    except Exception:
        return given
    places: list[tuple[Any, Any]] = []
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in pairs:
            places.append((node, key))
            nodes.append(value)
    if places:
        node, key = chance.choice(places)
        if isinstance(node, dict) and chance.random() < 0.1:
            del node[key]
        else:
            node[key] = chance.choice(VALUES)
    return cbor2.dumps(tree)


def mutants(target: str, seed: int) -> Iterator[bytes]:
    """Those of the corpus as they are, then changed ones without end."""
    corpus, chance = of(target), random.Random(seed)
    yield from corpus
    while True:
        given = chance.choice(corpus)
        yield change_value(given, chance) if chance.random() < 0.4 else mutate(given, corpus, chance)


def keep(target: str, encoded: bytes) -> Path:
    path = CORPUS / target / f"{hashlib.sha256(encoded).hexdigest()[:12]}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded)
    return path


def explore(target: str, judge: Callable[[bytes], str], seconds: float, seed: int) -> None:
    """`judge` says what became of an input, in words; what it raises is a find."""
    known, end = {judge(encoded) for encoded in of(target)}, time.monotonic() + seconds
    for encoded in mutants(target, seed):
        if time.monotonic() > end:
            return
        try:
            became = judge(encoded)
        except Exception as error:
            print(f"{target}: {keep(target, encoded)}: {error!r}")
            continue
        if became not in known:
            known.add(became)
            keep(target, encoded)


if __name__ == "__main__":
    from test_fuzzing import TARGETS

    for name, judge in TARGETS.items():
        explore(name, judge, float(sys.argv[1]), random.randrange(1 << 32))
