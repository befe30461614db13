"""The pipelines in configs/ that are to be taken as a start: each is run as its users run it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest
from pipeline import Command, wait_until
from ports import free_ports
from servers import PostgreSQL

CONFIGS = Path(__file__).parents[2] / "configs"
Zpipe = Callable[..., Command]


@pytest.fixture
def folder(home: Path) -> Path:
    """A copy of configs/, as `zpipe new` users and readers have it."""
    return Path(shutil.copytree(CONFIGS, home / "c", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def zpipe(home: Path) -> Iterator[Zpipe]:
    started: list[Command] = []

    def start(*arguments: object, **env: str) -> Command:
        started.append(Command(list(map(str, arguments)), home, os.environ | env))
        return started[-1]

    yield start
    for command in started:
        if command.running:
            command.interrupt()
            command.over_within(20)
        command.end()


def rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
        return connection.execute(query).fetchall()


def count(database: Path, table: str) -> int:
    try:
        return int(rows(database, f"SELECT count(*) FROM {table}")[0][0])
    except sqlite3.OperationalError:
        return 0


def script(folder: Path, *arguments: object) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], cwd=folder, check=True, timeout=60)


# ---- access_log


def access_log_module() -> Any:
    spec = importlib.util.spec_from_file_location("access_log_under_test", CONFIGS / "access_log.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_access_log(folder: Path, zpipe: Zpipe) -> None:
    requests = 5000
    script(folder, "make_access_log.py", "access.log", requests)
    parse, expected = access_log_module().parse, Counter[str]()
    failed = bad = 0
    lines = (folder / "access.log").read_text().splitlines()
    for line in lines:
        try:
            one = parse({"text": line})
        except Exception:
            bad += 1
            continue
        expected[datetime.fromtimestamp(one["at"] // 60 * 60, UTC).isoformat()] += 1
        failed += one["status"] >= 500
    assert bad and failed and sum(expected.values()) == requests == len(lines) - bad

    run = zpipe("run", folder / "access_log.toml", "--json")
    wait_until(lambda: len(sent_on(folder / "failed.ndjson")) == failed, "the failed requests are written")
    (folder / "access.log").rename(folder / "access.log.1")  # it is rotated, and goes on
    (folder / "access.log").write_text(lines[0].replace("31/Jan/2026", "01/Feb/2026") + "\n")
    wait_until(lambda: count(folder / "access.db", "minutes") == len(expected), "the minutes of the day are closed")
    run.interrupt()
    ledger = run.ledger()
    assert ledger["stages"]["parse"]["dead"] == bad
    found = rows(folder / "access.db", "SELECT minute, requests, failed, p95_s FROM minutes")
    by_minute = {datetime.fromisoformat(minute).astimezone(UTC).isoformat(): n for minute, n, *_ in found}
    assert len(by_minute) == len(expected) + 1 and expected.items() <= by_minute.items()
    assert sum(row[2] for row in found) == failed and all(row[3] > 0 for row in found)
    clients = {one["client"] for one in sent_on(folder / "failed.ndjson")}
    assert clients and not any("." in client for client in clients), "hashed"


def sent_on(path: Path) -> list[dict[str, Any]]:
    """So far: of the last line only a part may be there yet."""
    whole = path.read_text().rpartition("\n")[0] if path.is_file() else ""
    return [json.loads(line) for line in whole.splitlines()]


# ---- orders


class Customers(BaseHTTPRequestHandler):
    """Knows c0 to c99; bears eight requests at once."""

    under_way = threading.Semaphore(8)
    answers: ClassVar[Counter[int]] = Counter()

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if not self.under_way.acquire(blocking=False):
            self._answer(429, {"error": "too many"})
            return
        try:
            known = name[:1] == "c" and name[1:].isdigit() and int(name[1:]) < 100
            self._answer(200 if known else 404, {"name": f"Customer {name[1:]}", "country": "NL"} if known else {})
        finally:
            self.under_way.release()

    def _answer(self, status: int, value: dict[str, str]) -> None:
        self.answers[status] += 1
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def customers() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Customers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_orders(folder: Path, zpipe: Zpipe, customers: str, postgresql: PostgreSQL) -> None:
    [port] = free_ports(1)
    env = {"ORDERS_ADDRESS": f"127.0.0.1:{port}", "CUSTOMERS_URL": customers, "ORDERS_DSN": postgresql.dsn}
    [table] = re.findall("^# The table: (.*)$", (folder / "orders.toml").read_text(), re.MULTILINE)

    def stored(query: str = "SELECT count(*) FROM orders") -> list[tuple[Any, ...]]:
        with psycopg.connect(postgresql.dsn) as connection:
            return connection.execute(query).fetchall()

    with psycopg.connect(postgresql.dsn) as connection:
        connection.execute(table)
    run = zpipe("run", folder / "orders.toml", "--json", **env)
    url = f"http://127.0.0.1:{port}/orders"

    def post(orders: list[dict[str, Any]]) -> int:
        body = "".join(json.dumps(order) + "\n" for order in orders).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/x-ndjson"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(json.load(answer)["messages"])
        except (urllib.error.URLError, ConnectionError):
            return 0

    orders = [{"id": n, "customer": f"c{n % 100}", "total": n / 4} for n in range(1, 301)]
    wait_until(lambda: post(orders[:1]) == 1, "the first order is taken")
    assert stored("SELECT id, name, country FROM orders") == [(1, "Customer 1", "NL")]
    assert post(orders) == 300
    assert stored() == [(300,)], "what was answered with 200 is stored"
    wrong = [{"id": 0, "customer": "c1", "total": 1}, {"id": 400, "customer": "nobody", "total": 1}]
    assert post(wrong) == 2, "dead letters are kept, too"
    run.interrupt()
    stages = run.ledger()["stages"]
    assert (stages["validate"]["dead"], stages["enrich"]["dead"]) == (1, 1)
    assert stored() == [(300,)] and Customers.answers[200] >= 301


# ---- contacts


def test_contacts(folder: Path, zpipe: Zpipe) -> None:
    (folder / "contacts").mkdir()
    good = [f"p{n}@example.com,Person {n},19{n % 90 + 10}-02-03" for n in range(500)]
    bad = ["nobody,Without Address,1990-02-03", "x@example.com,Bad Date,3.2.1990", "y@example.com,Too,few,fields"]
    (folder / "contacts" / "a.csv").write_text("\n".join(["email,name,born", *good, *bad, good[0]]) + "\n")
    config = folder / "contacts.toml"
    ledger = zpipe("run", config, "--json").ledger()
    dead = {name: row["dead"] for name, row in ledger["stages"].items() if row["dead"]}
    assert dead == {"read": 1, "check": 2} and ledger["stages"]["once"]["filtered"] == 1
    assert count(folder / "contacts.db", "contacts") == 500

    listed = zpipe("dead", "list", config, "--json")
    assert listed.wait() == 0, listed.stderr
    letters = {letter["reason"]: letter for letter in json.loads(listed.stdout)["letters"]}
    [date] = [reason for reason in letters if "is not a 'date'" in reason]
    name = letters[date]["letter"]
    assert zpipe("dead", "edit", config, name, "--set", 'born="1990-02-03"').wait() == 0
    assert zpipe("dead", "replay", config, name).wait() == 0
    assert rows(folder / "contacts.db", "SELECT born FROM contacts WHERE email = 'x@example.com'") == [("1990-02-03",)]
    assert count(folder / "contacts.db", "contacts") == 501


# ---- thumbnails


def test_thumbnails(folder: Path, zpipe: Zpipe) -> None:
    from PIL import Image

    script(folder, "make_images.py", "images", 20)
    ledger = zpipe("run", folder / "thumbnails.toml", "--json").ledger()
    assert ledger["stages"]["shrink"]["dead"] == 1, "the one that is none"
    thumbnails = list((folder / "thumbnails").iterdir())
    assert len(thumbnails) == 20
    for path in thumbnails:
        with Image.open(path) as small:
            assert max(small.size) == 128
    with Image.open(folder / "contact-sheet.png") as sheet:
        assert sheet.size == (8 * 128, 3 * 128)
        places = [(column * 128 + 4, row * 128 + 64) for row in range(3) for column in range(8)]
        filled = [sheet.getpixel(place) != (255, 255, 255) for place in places]
        assert filled == [True] * 20 + [False] * 4
