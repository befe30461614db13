"""`mqtt` against a real Mosquitto."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from broker_rows import (
    PASSWORD,
    assert_all_stored,
    divided,
    only_put,
    only_take,
    plain_rate,
    run_divided,
    stored,
    there_and_back,
)
from broker_servers import Mosquitto
from pipeline import Pipeline, wait_until
from rows import DEADLINE_S, MESSAGES, fails_saying, rate_of_run, run_with_kills, run_without_service, waits_saying
from server import running

PLUGIN = "mqtt"
BATCH = 500
Make = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def mosquitto_of_module() -> Iterator[Mosquitto]:
    with running(Mosquitto) as server:
        yield server


@pytest.fixture
def mosquitto(mosquitto_of_module: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> Mosquitto:
    monkeypatch.setenv(PASSWORD, mosquitto_of_module.password)
    mosquitto_of_module.start()
    return mosquitto_of_module


def link(mosquitto: Mosquitto) -> str:
    return f'url = "{mosquitto.url}", username = "{mosquitto.username}", password = "${{{PASSWORD}}}"'


def put(mosquitto: Mosquitto, topic: str) -> str:
    return f'{link(mosquitto)}, topic = "{topic}/{{word}}"'


def take(mosquitto: Mosquitto, topic: str) -> str:
    return f'{link(mosquitto)}, topics = ["{topic}/#"], client_id = "{topic}"'


class Client:
    """A plain client, by the same library."""

    def __init__(self, mosquitto: Mosquitto, name: str, arrived: Callable[[Any], None] = lambda message: None) -> None:
        from paho.mqtt import client as paho

        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5)
        self.client.max_inflight_messages_set(65535)
        self.client.username_pw_set(mosquitto.username, mosquitto.password)
        self.client.on_message = lambda client, userdata, message: arrived(message)
        self.is_there = threading.Event()
        self.client.on_connect = lambda *more: self.is_there.set()
        self.client.on_subscribe = lambda *more: self.is_there.set()
        self.client.connect("127.0.0.1", mosquitto.port)
        self.client.loop_start()
        assert self.is_there.wait(DEADLINE_S)

    def subscribe(self, topic: str) -> None:
        self.is_there.clear()
        self.client.subscribe(topic, 1)
        assert self.is_there.wait(DEADLINE_S)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_nothing_is_lost_when_stages_are_killed(mosquitto: Mosquitto, make: Make) -> None:
    pipeline = make(there_and_back(PLUGIN, put(mosquitto, "kills"), take(mosquitto, "kills")))
    begin(mosquitto, "kills")
    run_with_kills(pipeline, lambda: stored(pipeline))
    assert_all_stored(pipeline)


def begin(mosquitto: Mosquitto, topic: str, name: str = "", group: str = "") -> None:
    """The session is there before anything is published: else that is for nobody."""
    from paho.mqtt import client as paho
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    client = paho.Client(paho.CallbackAPIVersion.VERSION2, name or topic, protocol=paho.MQTTv5)
    client.username_pw_set(mosquitto.username, mosquitto.password)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600
    subscribed = threading.Event()
    shared = f"$share/{group}/" if group else ""
    client.on_connect = lambda *more: client.subscribe(f"{shared}{topic}/#", 1)
    client.on_subscribe = lambda *more: subscribed.set()
    client.connect("127.0.0.1", mosquitto.port, clean_start=True, properties=properties)
    client.loop_start()
    assert subscribed.wait(DEADLINE_S)
    client.disconnect()
    client.loop_stop()


def test_two_instances_of_a_shared_subscription(mosquitto: Mosquitto, make: Make) -> None:
    count = 20_000
    taken = f'{link(mosquitto)}, topics = ["two/#"]'
    for instance in (1, 2):
        begin(mosquitto, "two", f"mqtt.take.{instance}", "mqtt.take")
    run_divided(make(divided(PLUGIN, put(mosquitto, "two"), taken, count)), count)


def test_a_source_waits_for_its_broker_and_goes_on(mosquitto: Mosquitto, make: Make) -> None:
    """The broker ends in order, so it keeps the session; what is published to it afterwards comes, too."""
    text = there_and_back(PLUGIN, "", take(mosquitto, "kept"), end_s=DEADLINE_S)
    begin(mosquitto, "kept")
    pipeline = make(text[: text.index("[stages.make]")] + text[text.index("[stages.take]") :])
    run = pipeline.run()

    def publish(numbers: range) -> None:
        client = Client(mosquitto, "publish")
        for number in numbers:
            body = json.dumps({"id": number, "word": "räksmörgås", "flag": True}).encode()
            client.client.publish("kept/a", body, 1).wait_for_publish()
        client.close()

    publish(range(500))
    wait_until(lambda: stored(pipeline) == 500, "all are stored", DEADLINE_S)
    mosquitto.stop()
    waits_saying(pipeline, run, "take", "it waits for mqtt", "next try in")
    mosquitto.start()
    publish(range(500, 1000))
    wait_until(lambda: stored(pipeline) == 1000, "the rest is stored", DEADLINE_S)
    run.interrupt()
    ledger = run.ledger(DEADLINE_S)
    assert all(row["restarts"] == row["dead"] == 0 for row in ledger["stages"].values()), ledger
    assert_all_stored(pipeline, 1000)


def test_they_wait_while_the_broker_is_away(mosquitto: Mosquitto, make: Make) -> None:
    """What it held when it was killed is lost with it, where it had not saved it: so only what comes after is looked at."""
    pipeline = make(only_put(PLUGIN, put(mosquitto, "away"), 5000).replace("fields", "rate = 2000, fields"))
    seen: list[Any] = []
    watch = Client(mosquitto, "watch", seen.append)
    watch.subscribe("away/#")
    run_without_service(pipeline, "put", mosquitto, lambda: len(seen), 1000, "Connection refused")
    watch.close()


def test_wrong_credentials(mosquitto: Mosquitto, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "a wrong one")
    said = fails_saying(make(only_put(PLUGIN, put(mosquitto, "wrong"), 10)), "the broker refuses the connection")
    assert "a wrong one" not in said


WATCH = """
import sys
from pathlib import Path
from paho.mqtt import client as paho

port, user, password, path = sys.argv[1:]
count = 0

def arrived(client, userdata, message):
    global count
    count += 1
    if count % 500 == 0:
        Path(path).write_text(str(count))

client = paho.Client(paho.CallbackAPIVersion.VERSION2, "watch", protocol=paho.MQTTv5)
client.username_pw_set(user, password)
client.on_message = arrived
client.on_subscribe = lambda *more: Path(path).write_text("0")
client.connect("127.0.0.1", int(port))
client.subscribe("fast/#", 1)
client.loop_forever()
"""
"""Counts what is published, for both in a process of its own."""


def test_throughput_of_the_sink(mosquitto: Mosquitto, make: Make, compare: Callable[..., None]) -> None:
    pipeline = make(only_put(PLUGIN, put(mosquitto, "fast"), MESSAGES))
    counted = pipeline.folder / "counted"
    words = [sys.executable, "-c", WATCH, str(mosquitto.port), mosquitto.username, mosquitto.password, str(counted)]
    watch = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *words])
    wait_until(counted.is_file, "it is watched")

    def ours() -> float:
        before = int(counted.read_text() or 0)
        return rate_of_run(pipeline, lambda: int(counted.read_text() or before) - before, MESSAGES)

    def plain() -> None:
        client = Client(mosquitto, "plain")
        for start in range(0, MESSAGES, BATCH):
            sent = []
            for number in range(start, start + BATCH):
                body = json.dumps({"id": number, "word": "räksmörgås", "flag": True}).encode()
                sent.append(client.client.publish("fast/a", body, 1))
            for one in sent:
                one.wait_for_publish()
        client.close()

    try:
        compare("mqtt sink", ours, lambda: plain_rate(plain, MESSAGES))
    finally:
        watch.kill()
        watch.wait()


def test_throughput_of_the_source(mosquitto: Mosquitto, make: Make, compare: Callable[..., None]) -> None:
    """Of what a session has waiting."""
    pipeline = make(only_take(PLUGIN, take(mosquitto, "ours")))

    def fill(topic: str) -> None:
        begin(mosquitto, topic)
        client = Client(mosquitto, "fill")
        for _ in range(0, MESSAGES, BATCH):
            body = json.dumps({"id": 1, "word": "räksmörgås", "flag": True}).encode()
            for one in [client.client.publish(f"{topic}/a", body, 1) for _ in range(BATCH)]:
                one.wait_for_publish()
        client.close()

    def ours() -> float:
        fill("ours")

        def progress() -> int | None:
            position = pipeline.position("take")
            return position and int(position.rpartition("-")[2])

        return rate_of_run(pipeline, progress, MESSAGES)

    def plain() -> float:
        """In a process of its own, as ours."""
        fill("plain")
        words = [str(mosquitto.port), mosquitto.username, mosquitto.password, str(MESSAGES)]
        done = subprocess.run([sys.executable, "-c", READ, *words], capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    compare("mqtt source", ours, plain)


READ = """
import json, sys, time
from paho.mqtt import client as paho

port, user, password, count = sys.argv[1:]
seen = began = 0

def arrived(client, userdata, message):
    global seen, began
    json.loads(message.payload)
    began = began or time.monotonic()
    seen += 1
    if seen == int(count):
        print(seen / (time.monotonic() - began))
        client.disconnect()

client = paho.Client(paho.CallbackAPIVersion.VERSION2, "plain", protocol=paho.MQTTv5)
client.username_pw_set(user, password)
client.on_message = arrived
client.connect("127.0.0.1", int(port), clean_start=False)
client.subscribe("plain/#", 1)
client.loop_forever()
"""
