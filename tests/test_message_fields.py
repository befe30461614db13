"""A message keeps every field that it has, on every road that it takes. A new field needs a value in SAMPLE."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from zpipe.core.policy import LinkPolicy
from zpipe.core.processing.replays import Replays
from zpipe.core.wire import cbor, frames, section
from zpipe.core.wire.section import Columns, Section
from zpipe.core.work.delivery import Delivery, Slice
from zpipe.core.work.stored_dead_letter import MESSAGE, StoredDeadLetter
from zpipe.core.work.task import CallHistory, Chunk, DeadLetter, Task
from zpipe.daemon.plugin.outputs import check_message
from zpipe.daemon.plugin.task_run import StageLinks, TaskRun
from zpipe.daemon.storage import dead_letter_store
from zpipe.daemon.storage.last_life import LastLife
from zpipe.errors import PeerError
from zpipe.fixture import as_row
from zpipe.messages import Message
from zpipe.monitor.messages.dead_letter_page import whole
from zpipe.monitor.messages.redaction import Redaction
from zpipe.monitor.messages.tapped_messages import TappedMessages
from zpipe.runtime import dead_letter_table
from zpipe.testing import load_fixture

SAMPLE: dict[str, Any] = {
    "payload": {"n": 1},
    "id": "read:7",
    "origin": 1.5e9,
    "headers": {"trace": "x"},
    "outlet": "errors",
    "position": 7,
    "attempt": 3,
    "source": "read",
}
OF_LINK = {"outlet", "position", "attempt", "source"}
"""These say where a message is, and are new in every stage."""
TRAVEL = set(Message.__slots__) - OF_LINK


def sample(**changed: Any) -> Message:
    return Message(**(SAMPLE | changed))


def carried(message: Message, but: set[str] = frozenset()) -> dict[str, Any]:
    """Its fields that travel, but for some."""
    return {name: getattr(message, name) for name in TRAVEL - but}


def section_of(*messages: Message) -> Section:
    """A section as a producer makes it of a plugin's messages."""
    run = TaskRun(task_of(section.encode(["in"], [1.0], [None], None), 1), False, LinkPolicy(), StageLinks(["errors"]))
    [blank] = messages_in(run)
    for message in messages:
        assert not list(run.take(0, blank, message))
    [chunk] = run.result().chunks
    return Section(chunk.body, chunk.messages)


def task_of(body: bytes, count: int) -> Task:
    whole = Section(body, count)
    return Task(1, [Slice(Delivery([whole], lambda _: None), whole, 0, 0, count, 0.0)], CallHistory(), False)


def messages_in(run: TaskRun) -> list[Message]:
    return [one for group in run.groups() if run.decode(group) for one in run.messages(group)]


def messages_of(chunks: list[Chunk]) -> list[Message]:
    return [one for chunk in chunks for one in section.decode(chunk.body, chunk.messages).messages()]


def test_the_sample_has_another_value_than_the_default_in_every_field() -> None:
    assert SAMPLE.keys() == set(Message.__slots__)
    plain = Message(None)
    assert not [name for name in SAMPLE if getattr(sample(), name) == getattr(plain, name)]


def test_what_a_plugin_gives_is_what_the_next_one_gets() -> None:
    [found] = section_of(sample()).columns().messages()
    assert carried(found) == carried(sample())


def test_what_an_output_leaves_out_is_as_in_the_message_that_it_was_made_from() -> None:
    body = section_of(sample(), sample(id="read:8")).body()
    run = TaskRun(task_of(body, 2), False, LinkPolicy(), StageLinks())
    first, _ = messages_in(run)
    assert not list(run.take(0, first, "a payload"))
    assert not list(run.take(0, first, Message("a message")))
    assert not list(run.take(0, first, iter(["of many"])))
    run.fail(1, ValueError("no"))  # so that the outputs that stay are copied
    outputs = messages_of(run.result().chunks)
    assert [one.payload for one in outputs] == ["a payload", "a message", "of many"]
    assert all(carried(one, {"payload", "id"}) == carried(sample(), {"payload", "id"}) for one in outputs)
    run = TaskRun(task_of(body, 2), False, LinkPolicy(), StageLinks())
    run.take_plain(*run.groups(), ["first", "second"])
    assert [carried(one, {"payload", "id"}) for one in messages_of(run.result().chunks)] == [
        carried(sample(), {"payload", "id"})
    ] * 2


def test_messages_with_and_without_a_field_share_a_section() -> None:
    with_all, plain = section_of(sample()).body(), section.encode(*section.plain(["read:8"], [1.0], [None]))
    task = task_of(with_all, 1)
    task.slices += task_of(plain, 1).slices
    run = TaskRun(task, False, LinkPolicy(), StageLinks())
    before = [carried(one) for one in messages_in(run)]
    run.take_plain(*run.groups(), [SAMPLE["payload"], None])
    assert [carried(one) for one in messages_of(run.result().chunks)] == before
    assert before == [carried(sample()), carried(Message(None, "read:8", 1.0))]


def test_parts_of_a_section_keep_every_field() -> None:
    whole = section_of(*(sample(id=f"read:{n}") for n in range(3)))
    part = whole.cut(1, 3)
    again = section.decode(part.body(), 2).messages()
    assert [carried(one) for one in again] == [carried(sample(id=f"read:{n}")) for n in (1, 2)]


def test_a_dead_letter_is_replayed_sent_and_shown_with_every_field() -> None:
    [piece] = task_of(section_of(sample(id="read:0"), sample()).body(), 2).slices
    piece.delivery.source = "parse.errors"
    letter = DeadLetter("no", "", CallHistory(attempts=1), piece.part(1, 2))
    row = dead_letter_store.letter_row(letter, "work", LastLife())
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(dead_letter_table.SCHEMA)
        dead_letter_table.add(connection, row, "life")
        connection.execute("UPDATE dead_letters SET replay_rate = 1.0")
        [marked] = dead_letter_table.marked(connection, 9, 9999, ())
        names = [name for name in StoredDeadLetter._fields if name != "instance"]
        stored = dict(
            zip(names, connection.execute(f"SELECT {', '.join(names)} FROM dead_letters").fetchone(), strict=True)
        )
    revived = dead_letter_store.revived(marked)
    [again] = section.decode(revived.body, 1).messages()
    assert carried(again) == carried(sample())
    replays = Replays()
    replays.add([revived], 0.0)
    [taken] = replays.take(1)
    [message] = messages_in(TaskRun(Task(1, [taken], CallHistory(), False), False, LinkPolicy(), StageLinks()))
    assert message.source == "parse.errors"
    body = dead_letter_store.message_of(row, LinkPolicy())
    assert body is not None
    [sent] = section.decode(body, 1).messages()
    assert carried(sent, {"payload", "id"}) == carried(sample(), {"payload", "id"})
    stored |= {name: cbor.read(stored[name]) for name in ("payload", "headers")}
    shown = whole(StoredDeadLetter(instance=1, **stored))
    assert {name: shown[name] for name in TRAVEL} == carried(sample())
    assert shown["source"] == "parse.errors"
    assert stored["kind"] == MESSAGE


@pytest.mark.parametrize("hidden", [[], ["not there"]])
def test_a_tap_shows_every_field(hidden: list[str]) -> None:
    body = section_of(sample()).body()
    frame = frames.Tap("p", "read", 1, "read", "errors", "map", 1, 1, 1, 3, len(body), body)
    [seen] = TappedMessages(None, [], Redaction(hidden), 10.0, 0.0).take(frame, 2e9, 0.0)
    assert carried(seen.message) == carried(sample())
    assert (seen.message.outlet, seen.message.attempt) == ("errors", 3)
    line = json.loads(seen.as_json())
    assert {name: line[name] for name in TRAVEL} == carried(sample())


def test_a_fixture_keeps_every_field(tmp_path: Path) -> None:
    path = tmp_path / "f.ndjson"
    path.write_text(json.dumps(as_row(sample())), encoding="utf-8")
    [read] = load_fixture(path)
    assert carried(read) == carried(sample())
    assert (read.outlet, read.attempt) == ("errors", 3)


@pytest.mark.parametrize("name", sorted(TRAVEL - {"payload"}))
def test_a_field_of_another_type_is_refused_where_it_is_made(name: str) -> None:
    wrong = copy(sample())
    setattr(wrong, name, b"x")
    with pytest.raises(TypeError):
        check_message(wrong)


@pytest.mark.parametrize("name", sorted(set(Columns._fields) - {"payloads"}))
def test_a_field_of_another_type_is_refused_where_it_arrives(name: str) -> None:
    columns = section_of(sample()).columns()._replace(**{name: [b"x"]})
    with pytest.raises(PeerError):
        section.decode(cbor.write(list(columns)), 1)
