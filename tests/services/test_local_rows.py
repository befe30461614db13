"""The plugins that need no server but a long run: 50,000 messages and ten `kill -9` through real daemons, and what they cost."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from email import message_from_bytes
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from pipeline import Command, Pipeline, wait_until
from ports import free_ports
from rows import DEADLINE_S, KILLS, MESSAGES, PACE, committed, run_with_kills, waits_saying

MakePipeline = Callable[..., Pipeline]
STORE = """
[stages.store]
input = "{input}"
plugin = "sqlite"
batch = {{ messages = 500, timeout = "100ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""


def line(n: int) -> str:
    return json.dumps({"id": n, "text": "GET /index.html 200"}) + "\n"


# ---- tail

ROTATED = MESSAGES // 10

FOLLOWED = """
[pipeline]
name = "followed"

[stages.read]
plugin = "tail"
options = { path = "a.log", format = "ndjson", every = "20ms", settle = "50ms" }
"""


def test_tail_reads_each_line_once_however_the_log_is_rotated(make: MakePipeline) -> None:
    pipeline = make(FOLLOWED + STORE.format(input="read"))
    log, pause = pipeline.folder / "a.log", threading.Event()
    log.write_text("")

    def write() -> None:
        """Rotated by renaming and by copying, in turns."""
        wait_until(lambda: list(pipeline.home.glob("s/**/begun.json")), "it has begun")
        file = log.open("a")
        for n in range(MESSAGES):
            if n and n % ROTATED == 0:
                file.close()
                rotated = log.with_name(f"a.log.{1000 - n // ROTATED}")
                if n // ROTATED % 2:
                    log.rename(rotated)
                else:
                    rotated.write_bytes(log.read_bytes())
                    os.truncate(log, 0)
                file = log.open("a")
            file.write(line(n))
            if n % 100 == 0:
                file.flush()
                pause.wait(100 / PACE)
        file.close()

    def drain_at_the_end() -> None:
        wait_until(lambda: pipeline.count() == MESSAGES, "all lines are stored", DEADLINE_S)
        pipeline.zpipe("drain", str(pipeline.path)).wait()

    threads = [threading.Thread(target=write), threading.Thread(target=drain_at_the_end)]
    for thread in threads:
        thread.start()
    run_with_kills(pipeline, pipeline.count)
    for thread in threads:
        thread.join()
    assert pipeline.query("SELECT count(*), sum(id) FROM t") == [(MESSAGES, MESSAGES * (MESSAGES - 1) // 2)]


# ---- dedupe

DEDUPED = """
[pipeline]
name = "deduped"

[stages.make]
plugin = "generate"
options = {{ count = {count}, rate = {rate} }}

[stages.twice]
input = "make"
plugin = "python"
options = {{ function = "twice.py:twice" }}

[stages.dedupe]
input = "twice"
plugin = "dedupe"
batch = {{ messages = 500, timeout = "50ms" }}
options = {{ key = ["key"] }}
"""
TWICE = """
def twice(payload):
    for copy in (0, 1):
        yield {"id": f"{payload['id']}.{copy}", "key": payload["id"] // 2}
"""


def test_dedupe_passes_one_message_of_each_key_whoever_is_killed(make: MakePipeline) -> None:
    """Each key comes four times, by messages with ids of their own: the sink would show a second one that passes."""
    count = MESSAGES // 2
    pipeline = make(DEDUPED.format(count=count, rate=PACE // 2) + STORE.format(input="dedupe"), twice=TWICE)
    run_with_kills(pipeline, lambda: 4 * pipeline.count(), messages=MESSAGES, kills=KILLS)
    assert pipeline.query("SELECT count(*), count(DISTINCT key) FROM t") == [(count // 2, count // 2)]


# ---- select, route, split, join_text

SHAPED = """
[pipeline]
name = "shaped"

[stages.make]
plugin = "generate"
options = {{ count = {count}, rate = {rate}, fields = {{ word = "räksmörgås" }} }}

[stages.pair]
input = "make"
plugin = "select"
options = {{ expression = "{{n: id, word: word, ids: [id, to_string(id)]}}" }}

[stages.way]
input = "pair"
plugin = "route"
options = {{ routes = {{ small = "n < `{small}`" }} }}

[stages.parts]
input = "way.small"
plugin = "split"
options = {{ field = "ids", keep = true }}

[stages.text]
input = "parts"
plugin = "reshape"
options = {{ fields = {{ id = "join('-', [to_string(n), type(ids)])", word = "word" }} }}

[stages.lines]
input = "way"
plugin = "join_text"
batch = {{ messages = 100, timeout = "50ms" }}
options = {{ field = "word" }}

[stages.joined]
input = "lines"
plugin = "ndjson"
batch = {{ messages = 100, timeout = "50ms" }}
options = {{ path = "joined.ndjson" }}
"""


def test_payloads_are_shaped_routed_split_and_joined_whoever_is_killed(make: MakePipeline) -> None:
    """Each stage is killed. The parts are the same again after a redelivery; what is joined may come again."""
    small = MESSAGES * 4 // 5
    pipeline = make(SHAPED.format(count=MESSAGES, rate=PACE // 2, small=small) + STORE.format(input="text"))
    ledger = run_with_kills(pipeline, committed(pipeline, "make"))
    assert not any(row["filtered"] for row in ledger["stages"].values())
    ids = {row[0] for row in pipeline.query("SELECT id FROM t WHERE word = 'räksmörgås'")}
    assert ids == {f"{n}-{kind}" for n in range(small) for kind in ("number", "string")}
    joined = pipeline.lines("joined.ndjson")
    assert all(one["word"].split("\n") == ["räksmörgås"] * one["messages"] for one in joined)
    assert sum(one["messages"] for one in joined) >= MESSAGES - small


# ---- http_listen

LISTENING = """
[pipeline]
name = "listening"

[stages.take]
plugin = "http_listen"
options = {{ address = "127.0.0.1:{port}", most = 4000 }}
"""
CLIENTS = 4
A_REQUEST = 100


class Client(threading.Thread):
    """Sends its share of the messages, some in each request, and each request until it is answered with 200."""

    def __init__(self, port: int, numbers: range, retried: Counter[str]) -> None:
        super().__init__()
        self._port, self._numbers, self._retried = port, numbers, retried
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._send_all()
        except BaseException as error:
            self.error = error

    def _send_all(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=30)
        pause, end = threading.Event(), time.monotonic() + DEADLINE_S
        for n in range(0, len(self._numbers), A_REQUEST):
            body = "".join(map(line, self._numbers[n : n + A_REQUEST]))
            headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": f"r{self._numbers[n]}"}
            while True:
                assert time.monotonic() < end, self._retried
                try:
                    connection.request("POST", "/", body, headers)
                    answer = connection.getresponse()
                    answer.read()
                except (OSError, HTTPException) as error:
                    connection.close()
                    self._retried[type(error).__name__] += 1
                else:
                    if answer.status == 200:
                        break
                    self._retried[str(answer.status)] += 1
                pause.wait(0.05)
        connection.close()


def test_what_http_listen_has_answered_is_stored_whoever_is_killed(make: MakePipeline) -> None:
    [port] = free_ports(1)
    pipeline = make(LISTENING.format(port=port) + STORE.format(input="take"))
    retried: Counter[str] = Counter()
    share = MESSAGES // CLIENTS
    clients = [Client(port, range(n * share, (n + 1) * share), retried) for n in range(CLIENTS)]

    def drain_at_the_end() -> None:
        for client in clients:
            client.join()
        pipeline.zpipe("drain", str(pipeline.path)).wait()

    threads = [*clients, threading.Thread(target=drain_at_the_end)]
    for thread in threads:
        thread.start()
    run_with_kills(pipeline, pipeline.count)
    for thread in threads:
        thread.join()
    assert [client.error for client in clients] == [None] * CLIENTS
    assert retried, "some were cut off"
    assert pipeline.query("SELECT count(*), sum(id) FROM t") == [(MESSAGES, MESSAGES * (MESSAGES - 1) // 2)]


def test_curl_and_a_load_of_single_requests(make: MakePipeline, record_property: Callable[[str, object], None]) -> None:
    [port] = free_ports(1)
    pipeline = make(LISTENING.format(port=port) + STORE.format(input="take").replace("100ms", "2ms"))
    run = pipeline.run()
    url = f"http://127.0.0.1:{port}/"
    post = ["curl", "--silent", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", "-d", '{"id": -1}', url]
    assert json.loads(subprocess.run(post, capture_output=True, check=True, timeout=60).stdout) == {"messages": 1}
    bad = ["curl", "--silent", "--write-out", "%{http_code}", "--output", "/dev/null", "-d", "{", url]
    assert subprocess.run(bad, capture_output=True, check=True, timeout=60).stdout == b"400"
    count = 5000
    taken_s = asyncio.run(load_of(port, count, connections=32))
    record_property("figures", f"http_listen: {count / taken_s:,.0f} single requests/s over 32 connections, stored")
    run.interrupt()
    run.ledger()
    assert pipeline.count() == count + 1


async def load_of(port: int, count: int, connections: int) -> float:
    """As `hey` does: so many connections, each a request at a time. The seconds that it took; every answer was 200."""
    numbers = iter(range(count))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for n in numbers:
            body = line(n).encode()
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
        writer.close()

    began = time.monotonic()
    await asyncio.gather(*[client() for _ in range(connections)])
    return time.monotonic() - began


# ---- what they cost


def rate(pipeline: Pipeline, run: Command) -> float:
    """Messages a second, between the first and the last that are stored."""
    first = last = (0.0, 0)
    while last[1] < MESSAGES:
        count = wait_until(lambda least=last[1]: (n := pipeline.count()) > least and n, "more is stored", DEADLINE_S)
        last = (time.monotonic(), int(count))
        first = first if first[1] else last
    run.interrupt()
    run.ledger(DEADLINE_S)
    return (last[1] - first[1]) / (last[0] - first[0])


def test_tail_beside_a_plain_script(make: MakePipeline, compare: Callable[..., None], tmp_path: Path) -> None:
    pipeline = make(FOLLOWED + STORE.format(input="read"))
    lines = "".join(map(line, range(MESSAGES)))
    (pipeline.folder / "a.log").write_text(lines)

    def ours() -> float:
        (pipeline.folder / "out.db").unlink(missing_ok=True)
        return rate(pipeline, pipeline.run("--fresh"))

    def plain() -> float:
        """The same lines into the same table, in batches of 500, each on the disk when it is done."""
        with closing(sqlite3.connect(tmp_path / f"{time.monotonic()}.db", isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("CREATE TABLE t (id NOT NULL PRIMARY KEY, text)")
            began, rows = time.monotonic(), []
            with (pipeline.folder / "a.log").open() as log:
                for text in log:
                    payload = json.loads(text)
                    rows.append((payload["id"], payload["text"]))
                    if len(rows) == 500:
                        database.execute("BEGIN")
                        upsert = "INSERT INTO t VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET text = excluded.text"
                        database.executemany(upsert, rows)
                        database.execute("COMMIT")
                        rows.clear()
            return MESSAGES / (time.monotonic() - began)

    compare("tail into sqlite", ours, plain)


# ---- schedule and notify

TOLD = """
[pipeline]
name = "told"

[stages.make]
plugin = "generate"
options = { count = 200, rate = 100 }

[stages.tell]
input = "make"
plugin = "notify"
options = { urls = ["${MAIL_URL}"], title = "number {id}", body = "it is {id}" }
"""


class Mails:
    """A mail server, with the subjects of what it has taken. It is away for a while after some of them."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        self.subjects.append(str(message_from_bytes(envelope.content)["Subject"]))
        return "250 OK"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # aiosmtpd leaves what a kill has cut
def test_notify_tells_each_message_whoever_is_killed_and_waits_for_its_server(make: MakePipeline) -> None:
    pipeline, mails = make(TOLD), Mails()
    [port] = free_ports(1)
    pipeline.env["MAIL_URL"] = f"mailto://127.0.0.1:{port}?from=a@a.example&to=b@b.example&mode=insecure"
    server = Controller(mails, hostname="127.0.0.1", port=port)
    server.start()
    run = pipeline.run()
    kills = 5
    for n in range(kills):
        wait_until(lambda least=20 * (n + 1): len(mails.subjects) >= least, "mails arrive")
        pipeline.kill("tell")
    server.stop()
    waits_saying(pipeline, run, "tell", "refused")
    server = Controller(mails, hostname="127.0.0.1", port=port)
    server.start()
    try:
        assert run.ledger(DEADLINE_S)["stages"]["tell"]["dead"] == 0
    finally:
        server.stop()
    told = Counter(mails.subjects)
    assert set(told) == {f"number {n}" for n in range(200)}
    assert told.total() <= 200 + kills, "only one that was sent and not yet noted is sent twice"


SCHEDULED = """
[pipeline]
name = "scheduled"

[stages.at]
plugin = "schedule"
options = { cron = "* * * * * *", missed = "all" }
"""


def test_schedule_misses_nothing_when_it_is_killed(make: MakePipeline) -> None:
    pipeline = make(SCHEDULED + STORE.format(input="at").replace('"id"', '"due"'))
    run = pipeline.run()
    for n in range(3):
        wait_until(lambda least=2 * (n + 1): pipeline.count() >= least, "times are stored")
        pipeline.kill("at")
    wait_until(lambda: pipeline.count() >= 8, "times are stored")
    run.interrupt()
    run.ledger()
    due = [datetime.fromisoformat(row[0]).timestamp() for row in pipeline.query("SELECT due FROM t ORDER BY due")]
    assert [later - earlier for earlier, later in pairwise(due)] == [1.0] * (len(due) - 1)
