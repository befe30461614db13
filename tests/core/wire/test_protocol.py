"""PROTOCOL.md, protocol.cddl, the golden vectors and the code say the same."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from cddl_verifier import Validator, schema_diagnostics

from zpipe.conform.own_stage import resolved
from zpipe.core import events
from zpipe.core.actions import OpenSession, Reply, SendParcel, Tell
from zpipe.core.buffer.orders import FoundBuffer
from zpipe.core.downstream.buffered_link import BufferedLink
from zpipe.core.downstream.downstream import Downstream
from zpipe.core.downstream.outlet import Outlet
from zpipe.core.downstream.outlet_sessions import HIGH_WATER_SLACK, OutletSessions
from zpipe.core.jetstream.events import Figures as StreamFigures
from zpipe.core.jetstream.producers import Producers
from zpipe.core.jetstream.stream_input import StreamInput
from zpipe.core.jetstream.stream_output import StreamOutput
from zpipe.core.ledger import COUNTS, Counts, Derivation
from zpipe.core.lifecycle import State
from zpipe.core.policy import Bound, BufferPolicy, LinkPolicy, StagePolicy, TapPolicy
from zpipe.core.stage import Stage
from zpipe.core.telemetry.snapshot import LINK_COUNTS, WHO, broken
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.upstream.upstreams import Identity, Upstreams
from zpipe.core.wire import cbor, frames, section
from zpipe.core.work.task import Chunk
from zpipe.daemon.service.status import process_figures
from zpipe.daemon.storage.last_life import LastLife
from zpipe.errors import PeerError
from zpipe.plugin_metrics import Metrics
from zpipe.testing import seeded_bytes

HERE = Path(__file__).parent
CORE = HERE.parents[2] / "zpipe" / "core"
CDDL = CORE / "protocol.cddl"
DOCUMENT = (CORE / "PROTOCOL.md").read_text(encoding="utf-8")
VALIDATOR = Validator(CDDL)
logging.getLogger("cddl_verifier").disabled = True  # it logs every refusal, a page each
KINDS = {c.kind: c for c in frames.Frame.__args__}
EXAMPLES = [
    (label, bytes.fromhex("".join(lines.split())))
    for label, lines in re.findall(r"^```hex (\w+)\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
]


SESSION = bytes.fromhex("00112233445566778899aabbccddeeff")
SECRET = bytes.fromhex("a0a1a2a3a4a5a6a7a8a9aaabacadaeaf")


def vectors(name: str) -> list[Any]:
    rows = json.loads((HERE / "vectors" / f"{name}.json").read_text(encoding="utf-8"))
    return [pytest.param(row, id=row["name"], marks=bug(row.get("bug"))) for row in rows]


def bug(what: str | None) -> list[Any]:
    """Vectors marked so show a bug of the core that is reported and open; strict, so that mending it shows."""
    return [pytest.mark.xfail(reason=f"CORE BUG: {what}")] if what else []


def plain(value: Any) -> Any:
    """JSON's stand-ins for bytes."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return bytes.fromhex(value["$bytes"]) if "$bytes" in value else {k: plain(v) for k, v in value.items()}
    return value


def as_map(frame: frames.Frame) -> dict[str, Any]:
    return {"kind": frame.kind, **asdict(frame)}


def faults(encoded: bytes, root: str) -> tuple[str, ...]:
    return VALIDATOR.validate(encoded, root_type=root).errors


# ---- golden vectors


@pytest.mark.parametrize("vector", vectors("frames"))
def test_frames_are_read_and_written_as_the_vectors_say(vector: dict[str, Any]) -> None:
    encoded = bytes.fromhex(vector["hex"])
    frame = frames.read(encoded)
    assert as_map(frame) == plain(vector["frame"])
    assert frames.write(frame) == encoded
    assert not faults(encoded, "frame")
    assert not faults(encoded, vector["frame"]["kind"])


@pytest.mark.parametrize("vector", vectors("readable"))
def test_other_writers_may_differ(vector: dict[str, Any]) -> None:
    encoded = bytes.fromhex(vector["hex"])
    assert as_map(frames.read(encoded)) == plain(vector["frame"])
    assert not faults(encoded, "frame")


@pytest.mark.parametrize("vector", vectors("sections"))
def test_sections_are_read_and_written_as_the_vectors_say(vector: dict[str, Any]) -> None:
    encoded = bytes.fromhex(vector["hex"])
    columns = plain(vector["section"])
    assert list(section.decode(encoded, len(columns[0]))) == columns
    assert section.encode(*columns) == encoded
    assert not faults(encoded, "section")


@pytest.mark.parametrize("vector", vectors("sections_msgpack"))
def test_sections_of_messagepack_are_read_and_written_as_the_vectors_say(vector: dict[str, Any]) -> None:
    encoded = bytes.fromhex(vector["hex"])
    columns = plain(vector["section"])
    assert list(section.decode(encoded, len(columns[0]))) == columns
    assert section.encode(*columns, "msgpack") == encoded
    assert faults(encoded, "section"), "it is not taken for CBOR"


@pytest.mark.parametrize("vector", vectors("refused"))
def test_what_is_no_frame_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(PeerError):
        frames.read(bytes.fromhex(vector["hex"]))


@pytest.mark.parametrize("vector", vectors("lenient"))
def test_what_a_writer_must_not_send_a_reader_may_accept(vector: dict[str, Any]) -> None:
    """Not a duty: this reader takes them, and another may refuse them. Each says why."""
    frames.read(bytes.fromhex(vector["hex"]))
    assert vector["why"]


@pytest.mark.parametrize("key", ["a", b"a"], ids=["text", "bytes"])
def test_keys_of_maps_are_text_or_byte_strings(key: Any) -> None:
    snapshot = frames.Snapshot({"x": {key: [1]}})
    assert frames.read(frames.write(snapshot)) == snapshot
    assert not faults(frames.write(snapshot), "frame")
    body = section.encode(["a"], [0.0], [{key: 1}], [{key: 1}])
    assert section.decode(body, 1)[2:] == ([{key: 1}], [{key: 1}])
    assert not faults(body, "section")


@pytest.mark.parametrize("vector", vectors("refused_sections") + vectors("refused_sections_msgpack"))
def test_what_is_no_section_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(PeerError):
        section.decode(bytes.fromhex(vector["hex"]), 1)


@pytest.mark.parametrize(
    ("name", "root"),
    [("refused", "frame"), ("lenient", "frame"), ("refused_sections", "section")],
    ids=["frames", "lenient", "sections"],
)
def test_the_schema_refuses_what_a_schema_can_tell(name: str, root: str) -> None:
    rows = json.loads((HERE / "vectors" / f"{name}.json").read_text(encoding="utf-8"))
    told = {row["name"]: not VALIDATOR.validate(bytes.fromhex(row["hex"]), root_type=root).valid for row in rows}
    assert told == {row["name"]: row["cddl"] for row in rows}


def test_every_kind_has_a_vector() -> None:
    rows = json.loads((HERE / "vectors" / "frames.json").read_text(encoding="utf-8"))
    assert {row["frame"]["kind"] for row in rows} == set(KINDS)


def test_a_frame_over_the_limit_is_refused_at_the_limit() -> None:
    padding = (
        frames.MAX_FRAME_BYTES - len(cbor.write({"kind": "snapshot", "body": {"x": b"0" * (1 << 16)}})) + (1 << 16)
    )
    fits = cbor.write({"kind": "snapshot", "body": {"x": b"0" * padding}})
    assert len(fits) == frames.MAX_FRAME_BYTES
    frames.read(fits)
    with pytest.raises(PeerError, match="over"):
        frames.read(cbor.write({"kind": "snapshot", "body": {"x": b"0" * (padding + 1)}}))


# ---- the documents


def test_the_schema_is_sound_and_has_every_kind_and_field() -> None:
    assert not schema_diagnostics(CDDL)
    text = re.sub(r";.*", "", CDDL.read_text(encoding="utf-8"))
    for kind, frame in KINDS.items():
        rule = re.search(rf"^{kind} = {{\n(.*?)^}}", text, re.MULTILINE | re.DOTALL)
        assert rule, kind
        keys = re.findall(r"^  (?:\? )?(\w+):", rule[1], re.MULTILINE)
        assert keys == ["kind", *(f.name for f in fields(frame))]
        assert f'kind: "{kind}"' in rule[1]
        assert "* tstr => any" in rule[1]
    root = re.search(r"^frame = (.*)$", text, re.MULTILINE)
    assert root and set(root[1].split(" / ")) == set(KINDS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_document_has_every_kind_and_field(kind: str) -> None:
    heading = re.search(rf"^### 5\.\d+ [^\n]*`{kind}`.*?(?=^##)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert heading, f"PROTOCOL.md has no section on {kind}"
    rows = re.findall(r"^\| `(\w+)` \|", heading[0], re.MULTILINE)
    missing = [f.name for f in fields(KINDS[kind]) if f.name not in rows]
    assert not missing


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_document_and_the_schema_say_what_may_be_missing(kind: str) -> None:
    [heading] = re.findall(rf"^### 5\.\d+ [^\n]*`{kind}`.*?(?=^##)", DOCUMENT, re.MULTILINE | re.DOTALL)
    which = f" of `{kind}`" if kind in ("request", "done") else ""  # two tables under one heading
    heading = heading.partition(f"| field{which} | type | missing |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| [^|\n]* \| ([^|\n]*) \|", heading, re.MULTILINE)
    words = {
        "": None,
        "empty": ("", b""),
        "none": ([],),
        "`cbor`": ("cbor", ["cbor"]),
        "false": (False,),
        "0": (0,),
        "1": (1,),
    }
    said = {name: words[word.strip()] for name, word in rows if word.strip()}
    missing = frames.MISSING.get(kind, {})
    assert said.keys() == missing.keys()
    assert all(value in (said[name] or ()) for name, value in missing.items())
    text = re.sub(r";.*", "", CDDL.read_text(encoding="utf-8"))
    rule = re.search(rf"^{kind} = {{\n(.*?)^}}", text, re.MULTILINE | re.DOTALL)
    assert rule and set(re.findall(r"^  \? (\w+):", rule[1], re.MULTILINE)) == set(missing)
    names = {one.name for one in fields(KINDS[kind])}
    assert missing.keys() <= names


def test_every_row_of_a_table_has_the_cells_of_its_head() -> None:
    outside = re.sub(r"^```.*?^```", "", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    tables = re.findall(r"(?:^\|.*\n)+", outside, re.MULTILINE)
    assert len(tables) > 20
    for table in tables:
        head, *rows = table.splitlines()
        assert [row for row in rows if row.count("|") != head.count("|")] == []


def test_the_document_has_the_constants_and_states_of_the_code() -> None:
    link = LinkPolicy()
    for name, value in {
        "version": f"{frames.VERSION}.{frames.MINOR}",
        "heartbeat": f"{link.heartbeat_s:g} s",
        "peer timeout": f"{link.peer_timeout_s:g} s",
        "ack delay": f"{link.ack_delay_s * 1000:g} ms",
        "frame": f"{frames.MAX_FRAME_BYTES} bytes",
        "text": f"{frames.MAX_TEXT_CHARACTERS} characters",
        "secret": f"{frames.SECRET_BYTES} bytes",
        "name": f"{frames.MAX_NAME_CHARACTERS} characters",
        "sections": f"{frames.MAX_ROWS}",
        "queue": f"{frames.MAX_QUEUE_MESSAGES} messages",
        "depth": f"{cbor.MAX_DEPTH}",
        "parcel": f"{link.parcel_messages} messages, {link.parcel_bytes} bytes",
        "message": f"{link.max_message_bytes} bytes",
        "tap lease": f"{TapPolicy().lease_s:g} s",
        "slack": f"{HIGH_WATER_SLACK}",
    }.items():
        assert f"\n| {name} | {value} |" in DOCUMENT
    states = [state.value for state in State]
    assert f"| `state` | text |  | {', '.join(states[:-1])} or {states[-1]} |" in DOCUMENT
    assert "state = " + " / ".join(f'"{state}"' for state in states) in CDDL.read_text(encoding="utf-8")
    for topic in frames.TOPICS:
        assert f"`{topic.decode()}`" in DOCUMENT


def test_the_examples_of_the_document_decode() -> None:
    assert len(EXAMPLES) >= 11
    for label, encoded in EXAMPLES:
        if label == "section":
            columns = section.decode(encoded, 2)
            assert section.encode(*columns) == encoded
            assert not faults(encoded, "section")
        else:
            frame = frames.read(encoded)
            assert frame.kind == label
            assert _written(frame) == encoded
            assert not faults(encoded, label)


def _written(frame: frames.Frame) -> bytes:
    if isinstance(frame, frames.Parcel):
        return frames.write_parcel(frame.session, frame.sequence, frame.sections)
    return frames.write(frame)


def test_the_example_session_is_what_the_core_does() -> None:
    """The producer's answers and parcels, and what the consumer makes of them, byte for byte."""
    examples = iter(EXAMPLES)
    policy = StagePolicy(queue=Bound(4, 65536), link=LinkPolicy(codec="cbor"))
    below = Downstream([Outlet("", "store", policy.link)], policy)
    producer = OutletSessions("demo", "read", "r1", below.links, policy, lambda size: SESSION)
    inlet = Inlet(policy.queue, policy.link, Counts())
    inlet.window = 4
    inbox = "ipc:///run/zpipe/demo.store.1/inbox-s1.sock"
    consumer = Upstreams(Identity("demo", "store", 1, "s1", inbox), SECRET, [("read", "")], inlet, policy)

    def expect(label: str, encoded: bytes) -> None:
        assert next(examples) == (label, encoded)

    def state(now: float) -> None:
        [(_, statement)] = inlet.statements(now)
        expect("statement", frames.write(statement))
        assert producer.statement(b"route", statement, now, "") == []

    consumer.connected(("read", 1), 0.0)
    [tell] = consumer.hellos(0.0)
    assert isinstance(tell, Tell)
    expect("hello", tell.frame)
    hello = frames.read(tell.frame)
    assert isinstance(hello, frames.Hello)
    opened, welcome = producer.hello(b"route", hello, 0.0, "")
    assert isinstance(opened, OpenSession) and opened.address == inbox
    assert isinstance(welcome, Reply)
    expect("welcome", welcome.frame)
    consumer.heard(("read", 1), frames.read(welcome.frame), 0.0)
    producer.ready(opened.session)
    state(0.0)
    body = section.encode(["read:0", "read:1"], [1700000000.0, 1700000000.5], [{"n": 0}, {"n": 1}], None)
    below.offer([Chunk("", 2, body)], Derivation([]))
    [parcel] = below.dispatch(0.0)
    assert isinstance(parcel, SendParcel)
    expect("parcel", parcel.header)
    expect("section", parcel.body)
    consumer.parcel(frames.read(parcel.header), parcel.body, 0.001)
    for piece in inlet.take(9, 9999):
        inlet.release(piece)
        piece.finish()
    state(0.01)
    [end] = below.say_end(0.0)
    assert isinstance(end, SendParcel)
    expect("parcel", end.header)
    consumer.parcel(frames.read(end.header), end.body, 0.02)
    state(0.03)
    assert below.ends_acked
    [confirm] = producer.heartbeat(1.0)
    assert isinstance(confirm, Reply)
    expect("confirm", confirm.frame)


def _section_5_9() -> str:
    return DOCUMENT.partition("### 5.9")[2].partition("### 5.10")[0]


def _keys_of_5_9(table: int) -> set[str]:
    tables = _section_5_9().split("\n|---|---|---|\n")[1:]
    rows = tables[table].partition("\n\n")[0].splitlines()
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_every_key_of_a_snapshot_that_readers_use_is_in_the_document() -> None:
    own = Metrics()
    own.counter("a").inc()
    own.gauge("b").set(1)
    own.histogram("c").observe(1)
    streamed = StreamOutput("js", ("p", "a", "", "c"), 1, "a1", "", 10, "cbor")
    figures = process_figures("", None, 0, "", False, (0, 0.0), LastLife(), {}, (), [], own.figures())
    stage = Stage(
        Identity("p", "a", 1, "a1"),
        [("x", "")],
        [("", "b"), ("", "c")],
        StagePolicy(),
        0.0,
        seeded_bytes("random"),
        process_figures=lambda: figures,
        outgoing=[_buffered("b"), streamed],
        incoming=[_stream_input()],
    )
    said = stage.snapshot(1.0)
    required = {*COUNTS, *WHO, "instance", "state", "links"}
    assert said.keys() - required == _keys_of_5_9(0)
    row = {key: value for one in said["links"] for key, value in one.items()}
    text, [session] = _section_5_9(), said["sessions"]
    inside = {*row["buffer"], *row["jetstream"], *session, *session["stream"]}
    assert broken(said) == [] and [key for key in inside if f"`{key}`" not in text] == []
    assert row.keys() - {"outlet", "to", *LINK_COUNTS} == _keys_of_5_9(1)
    text = DOCUMENT.partition("### 5.9")[2].partition("| key |")[0]
    assert all(f"`{key}`" in text for key in (*required, "outlet", "to", *LINK_COUNTS))


def _buffered(consumer: str) -> BufferedLink:
    found = FoundBuffer("4f1d" * 8)
    return BufferedLink("", consumer, "disk", LinkPolicy(), BufferPolicy(), StagePolicy().unacked, found)


def _stream_input() -> StreamInput:
    made = StreamInput("js", ("p", "x", "", "a"), Producers("x", "", "a", "", ()), 10, 1, 2.0, 1 << 20, 1.0)
    made.heard(StreamFigures(0, 1, 0, 0, 0, 0, 0, all_delivered=False), 0.0)
    return made


def test_a_snapshot_of_a_stage_is_what_the_schema_says() -> None:
    names = seeded_bytes("random")
    links = [("", "store"), ("", "keep")]
    me = Identity("demo", "read", 1, "r1")
    stage = Stage(me, [], links, StagePolicy(), 0.0, names, outgoing=[_buffered("keep")])
    stage.handle(events.Opened(), 0.0)
    stage.turn(0.0)
    body = stage.snapshot(1.0)
    assert not faults(cbor.write(body), "snapshot-body")
    assert not faults(frames.write(frames.Snapshot(body)), "frame")


def _section(title: str) -> str:
    return DOCUMENT.partition(f"\n## {title}")[2].partition("\n## ")[0]


def _first_column(table: str) -> list[str]:
    """Names in the first column of the table whose header begins so."""
    rows = DOCUMENT.partition(f"\n| {table} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_the_document_has_what_a_program_is_told() -> None:
    text = (CORE.parent / "daemon" / "keeper.py").read_text(encoding="utf-8")
    assert sorted(_first_column("variable")) == sorted(set(re.findall(r'"(ZPIPE_\w+)":', text)))
    assert sorted(_first_column("key of `ZPIPE_CONFIG`")) == sorted(resolved("map", Path("x"), 1, 1))


def test_a_stage_of_level_1_says_every_field_that_may_not_be_missing() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (`.*`) \|$", _section("17. Levels"), re.MULTILINE)
    said = {kind: re.findall(r"`(\w+)`", names) for kind, names in rows}
    assert said.keys() == KINDS.keys() - {"request", "done", "snapshot", "tap"}
    for kind, names in said.items():
        every = [one.name for one in fields(KINDS[kind])]
        assert set(names) <= set(every)
        assert set(every) - set(names) <= frames.MISSING.get(kind, {}).keys()
    assert len(said["statement"]) == 8, "the session, six numbers, and whether STOPPED was seen"


def test_the_document_has_every_request() -> None:
    [row] = re.findall(r"^\| `what` \|.*$", DOCUMENT, re.MULTILINE)
    text = (CORE / "stage.py").read_text(encoding="utf-8")
    known = {name.partition(":")[0] for name in re.findall(r"`([\w:.-]+)` (?:\(|,)|`(?:pause|resume)`", row)} - {""}
    arms = re.findall(r"^ +case ((?:\"[\w-]+\"(?: \| )?)+)", text, re.MULTILINE)
    said = {name for arm in arms for name in re.findall(r"[\w-]+", arm)}
    assert known | {"pause", "resume"} == said | {"tap", "ended"}
