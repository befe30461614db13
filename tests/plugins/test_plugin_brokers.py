"""What the plugins of brokers say before they reach one, and the parts that they share. tests/services has the rest."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from zpipe import Reject, plugin_loading
from zpipe.config import load
from zpipe.errors import ConfigError
from zpipe.messages import BadRecord, Message
from zpipe_plugins.brokers import kafka, mqtt
from zpipe_plugins.brokers.bodies import WRITE, ReadOptions, item, reader
from zpipe_plugins.brokers.templates import filler, parts_of
from zpipe_plugins.jsontext import value_of

SOURCES = {
    "kafka": ('servers = ["h:1"], topics = ["t"]', "confluent_kafka", "topics = []"),
    "mqtt": ('url = "mqtt://h", topics = ["a/#"]', "paho", 'url = "h:1883"'),
    "nats": ('servers = ["nats://h:1"], stream = "s"', "nats", 'ack_wait = "10ms"'),
    "rabbitmq": ('queue = "q"', "aio_pika", "prefetch = 0"),
    "redis_stream": ('stream = "s", group = "g"', "redis", 'claim_idle = "10ms"'),
}
"""Options that suffice for a source, the module that it needs, and an option that is wrong."""
SINKS = {
    "kafka": ('servers = ["h:1"], topic = "t", key = "{id}"', 'timeout = "1ms"'),
    "mqtt": ('url = "mqtt://h", topic = "a/{kind}"', 'topic = "a/#"'),
    "nats": ('servers = ["nats://h:1"], subject = "a.{kind}"', 'subject = "a *"'),
    "rabbitmq": ('routing_key = "q"', 'timeout = "0s"'),
    "redis_stream": ('stream = "s"', "maxlen = 0"),
}


def config(folder: Path, plugin: str, source: str, sink: str) -> Path:
    path = folder / "p.toml"
    path.write_text(
        f'[pipeline]\nname = "p"\n[stages.take]\nplugin = "{plugin}"\noptions = {{ {source} }}\n'
        f'[stages.put]\nplugin = "{plugin}"\ninput = "take"\noptions = {{ {sink} }}\n'
    )
    return path


def _replaced(options: str, wrong: str) -> str:
    """The options with this one in the place of that of its name."""
    name = wrong.split(" = ", maxsplit=1)[0]
    return ", ".join([*(one for one in options.split(", ") if not one.startswith(f"{name} = ")), wrong])


def problem(path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        load(path, env={})
    return str(raised.value)


@pytest.mark.parametrize("plugin", SOURCES)
def test_a_source_and_a_sink_have_options_of_their_own(tmp_path: Path, plugin: str) -> None:
    found = load(config(tmp_path, plugin, SOURCES[plugin][0], SINKS[plugin][0]), env={})
    take, put = found.stages["take"], found.stages["put"]
    assert take.traits.divides and take.traits.needs_network and not take.traits.is_sink
    assert put.traits.is_sink and put.traits.needs_network and type(put.options) is not type(take.options)


@pytest.mark.parametrize("plugin", SOURCES)
def test_wrong_options_are_told_with_what_is_allowed(tmp_path: Path, plugin: str) -> None:
    (source, _, wrong), (sink, wrong_sink) = SOURCES[plugin], SINKS[plugin]
    said = problem(config(tmp_path, plugin, _replaced(source, wrong), _replaced(sink, wrong_sink)))
    assert len(said.splitlines()) == 2 and said.count("allowed ") + said.count("must ") == 2, said
    assert "did you mean 'format'?" in problem(config(tmp_path, plugin, source, f"{sink}, formt = 1"))
    assert 'a secret, by "${VAR}"' in problem(config(tmp_path, plugin, f'{source}, password = "x"', sink))


@pytest.mark.parametrize("plugin", SOURCES)
def test_a_library_that_is_not_installed(tmp_path: Path, plugin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find, library = importlib.util.find_spec, SOURCES[plugin][1]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else find(name))
    said = problem(config(tmp_path, plugin, SOURCES[plugin][0], SINKS[plugin][0]))
    assert said.count(f"it needs {library}, which is not installed: pip install 'zpipe-stages[{plugin}]'") == 2


def test_a_module_is_imported_only_when_it_is_used() -> None:
    import subprocess
    import sys

    names = {module for _, module, _ in SOURCES.values()}
    script = (
        "import sys; from pathlib import Path; from zpipe import plugin_loading\n"
        "from zpipe_plugins.service_plugin import ServiceOptions\n"
        f"for name in {list(SOURCES)!r}: plugin_loading.load(name, Path()).problems(ServiceOptions(), Path())\n"
        f"print({names!r} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr


# Bodies and templates


def test_bodies() -> None:
    plain = {"word": "räksmörgås", "n": 1}
    for form, payload in (("json", plain), ("text", "räksmörgås"), ("bytes", b"\xff\x00")):
        body = WRITE[form](payload)
        assert reader(ReadOptions(format=form))(body, dict) == payload  # type: ignore[arg-type]
    assert reader(ReadOptions(meta="about"))(b'{"n":1}', lambda: {"topic": "t"}) == {"n": 1, "about": {"topic": "t"}}
    assert reader(ReadOptions(meta="about"))(b"[1]", lambda: {"topic": "t"}) == {"body": [1], "about": {"topic": "t"}}


@pytest.mark.parametrize(
    ("form", "body"), [("json", b"{"), ("json", b"\xff"), ("json", b"[" * 100_000), ("text", b"\xff")]
)
def test_a_body_that_cannot_be_read_is_a_bad_record(form: Any, body: bytes) -> None:
    found = reader(ReadOptions(format=form))(body, dict)
    assert type(found) is BadRecord and found.raw == body and f"is not {form}" in found.reason
    assert item("7", found, {"h": "1"}) == ("7", found), "so that it becomes a dead letter of the source"


@pytest.mark.parametrize("body", [b' {"a": 1}\n', b'\xef\xbb\xbf{"a": 1}', '{"a": 1}'.encode("utf-16"), b'{"a": 1}'])
def test_json_is_read_in_whatever_form_it_may_have(body: bytes) -> None:
    assert value_of(body) == {"a": 1}


@pytest.mark.parametrize("body", [b"", b"{", b'{"a": 1} 2', b'{"a": 1}}', b"\xff", b"nope"])
def test_what_is_no_json_is_said_as_json_says_it(body: bytes) -> None:
    with pytest.raises(ValueError) as expected:
        json.loads(body)
    with pytest.raises(ValueError, match=re.escape(str(expected.value))):
        value_of(body)


class FakeConsumer:
    """Gives the messages of a list, and keeps the offsets that are stored."""

    def __init__(self, messages: list[tuple[str, int, int]]) -> None:
        self.messages, self.stored = messages, dict[tuple[str, int], int]()

    def consume(self, count: int, wait_s: float) -> list[Any]:
        found, self.messages = self.messages, []
        return [FakeMessage(*one) for one in found]

    def store_offsets(self, offsets: list[Any]) -> None:
        self.stored |= {(one.topic, one.partition): one.offset for one in offsets}

    def close(self) -> None:
        pass


class FakeMessage:
    def __init__(self, topic: str, partition: int, offset: int) -> None:
        self.topic, self.partition, self.offset = (lambda: topic), (lambda: partition), (lambda: offset)
        self.value, self.headers, self.error = (lambda: b"1"), (lambda: None), (lambda: None)


def test_kafka_commits_what_was_read_up_to_a_position(make_context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time the partition a:0 is given by another, from before what was read of it."""
    places = [("a", 0, 5), ("a", 0, 6), ("b:c", 1, 2), ("a", 0, 8), ("a", 0, 6), ("a", 0, 7)]
    consumer = FakeConsumer(places)
    context = make_context(kafka.SourceOptions(servers=["h:1"], topics=["a"], end_after=0.01))
    source = kafka.KafkaSource()
    monkeypatch.setattr(source, "_connect", lambda context: consumer)
    source.open(context)
    source._consumer = consumer
    positions = [position for position, _ in source.source(context)]
    assert positions == ["a:0:5", "a:0:6", "b:c:1:2", "a:0:8", "a:0:6", "a:0:7"]
    seen = []
    for position in ["a:0:4", *positions]:
        source.commit(position, context)
        seen.append((consumer.stored.get(("a", 0)), consumer.stored.get(("b:c", 1))))
    assert seen == [(None, None), (6, None), (7, None), (7, 3), (9, 3), (7, 3), (8, 3)]


@pytest.mark.parametrize(("form", "payload"), [("json", {1: object()}), ("text", 7), ("bytes", "text")])
def test_a_payload_that_cannot_be_written_is_rejected(form: str, payload: Any) -> None:
    with pytest.raises(Reject, match="the payload"):
        WRITE[form](payload)


def test_headers_go_with_the_message() -> None:
    made = item("7", {"n": 1}, {"traceparent": "00-1"})
    assert isinstance(made, Message) and (made.position, made.headers) == ("7", {"traceparent": "00-1"})


@pytest.mark.parametrize("value", ["", "read:1", "räksmörgås", "x" * 100, "x" * 200, "x" * 65_535], ids=len)
def test_mqtt_packs_user_properties_as_paho_does(value: str) -> None:
    pairs = {"zpipe-id": "read:1", "other": value}
    theirs = Properties(PacketTypes.PUBLISH)
    theirs.UserProperty = list(pairs.items())
    assert mqtt._UserProperties(pairs).pack() == theirs.pack()


def test_mqtt_names_a_header_that_is_too_long() -> None:
    with pytest.raises(ValueError, match="a header has 65536 bytes, over the limit of 65535"):
        mqtt._UserProperties({"other": "x" * 65_536})


def test_a_template_is_filled_from_the_payload() -> None:
    assert filler("topic", "all")(None) == "all"
    assert filler("topic", "a.{kind}.{n}")({"kind": "x", "n": 7}) == "a.x.7"
    for payload in ({}, {"kind": None}, {"kind": ""}, {"kind": True}, {"kind": [1]}, "text"):
        with pytest.raises(Reject, match="field 'kind', which topic needs"):
            filler("topic", "{kind}")(payload)
    with pytest.raises(Reject, match=r"it may not have '\*'"):
        filler("topic", "{kind}", forbidden="*>")({"kind": "a*"})
    for wrong in ("{", "{}", "{a!r}", "{a[0]}", "{a:>5}"):
        with pytest.raises(ValueError, match="topic is "):
            parts_of("topic", wrong)


def test_each_has_both_forms() -> None:
    for name in SOURCES:
        source, sink = plugin_loading.load(name, Path()).forms
        assert source.is_source and sink.takes_batches and sink.takes_messages
