"""`elasticsearch` against a stand-in that answers as the documentation of the bulk API says (`bulk_service.py`)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx
import pytest
from databases import MANY, Make, hide, timed
from rows import (
    MESSAGES,
    PACE,
    check_says,
    committed,
    fails_saying,
    rate_of_run,
    run_with_kills,
    run_without_service,
    waits_saying,
)
from servers import BulkService, closed_port

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = {{ count = {count}{rate}, fields = {{ name = "a name", price = 1.5 }} }}

[stages.store]
input = "read"
plugin = "elasticsearch"
batch = {{ messages = 500, timeout = "100ms" }}
options = {{ url = "http://127.0.0.1:{port}", index = "{index}", user = "zpipe", password = "${{{login}}}" }}
"""


@pytest.fixture(autouse=True)
def passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGHT", "the right one")
    monkeypatch.setenv("WRONG", "a wrong one")


def config(service: BulkService, count: int, index: str, pace: bool = True, port: int = 0, login: str = "RIGHT") -> str:
    rate = f", rate = {PACE}" if pace else ""
    return CONFIG.format(count=count, rate=rate, port=port or service.port, index=index, login=login)


def documents(service: BulkService, index: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(service.file, timeout=30)) as database:
        rows = database.execute("SELECT id, source FROM d WHERE i = ?", (index,)).fetchall()
    return [(id, json.loads(source)["id"]) for id, source in rows]


def has_all(service: BulkService, index: str, count: int) -> None:
    assert sorted(documents(service, index), key=lambda one: one[1]) == [(f"read:{n}", n) for n in range(count)]


def test_with_kills(make: Make, bulk_service: BulkService) -> None:
    pipeline = make(config(bulk_service, MESSAGES, "kills"))
    run_with_kills(pipeline, committed(pipeline, "read"), server=bulk_service)
    has_all(bulk_service, "kills", MESSAGES)


def test_without_service(make: Make, bulk_service: BulkService) -> None:
    pipeline = make(config(bulk_service, 20_000, "away"))
    run_without_service(pipeline, "store", bulk_service, committed(pipeline, "read"), 5000, "refused")
    has_all(bulk_service, "away", 20_000)


def test_wrong_password_and_unreachable(make: Make, bulk_service: BulkService) -> None:
    pipeline = make(config(bulk_service, 10, "denied", login="WRONG"))
    fails_saying(pipeline, "401", "unable to authenticate user")
    pipeline.path.write_text(config(bulk_service, 10, "denied", port=closed_port(bulk_service)))
    check_says(pipeline, 0)
    waits_saying(pipeline, pipeline.run(), "store", "refused")


def test_documents_that_are_refused(make: Make, bulk_service: BulkService) -> None:
    """A bad one is a dead letter with the service's words, a busy service is waited for, all others are stored."""
    head, store = config(bulk_service, 100, "mixed-{kind}", pace=False).split("[stages.store]")
    head = head.replace("fields = {", 'fields = { kind = "x",')
    mark_stage = '[stages.mark]\ninput = "read"\nplugin = "python"\noptions = { function = "m.py:mark" }\n'
    text = f"{head}{mark_stage}\n[stages.store]{store.replace('read', 'mark')}"
    mark = (
        "def mark(p):\n    return p | {7: {'refuse': 1}, 8: {'busy': 2}}.get(p['id'], {})"
        " if p['id'] != 9 else {'id': 9}\n"
    )
    pipeline = make(text, m=mark)
    ledger = pipeline.run().ledger()
    reasons = sorted(letter[1] for letter in pipeline.letters("store"))
    assert ledger["stages"]["store"]["dead"] == 2 and len(documents(bulk_service, "mixed-x")) == 98
    assert reasons[0].startswith("400 document_parsing_exception: ") and 'For input string: "dear"' in reasons[0]
    assert reasons[1].startswith("field 'kind', which the document's place needs")


def test_checks(make: Make, bulk_service: BulkService) -> None:
    pipeline = make(config(bulk_service, 1, "x").replace("index =", "indx ="))
    check_says(pipeline, 2, "indx", "did you mean 'index'?")
    pipeline.path.write_text(config(bulk_service, 1, "x"))
    hide(pipeline, "httpx")
    check_says(pipeline, 2, "it needs httpx, which is not installed: pip install 'zpipe-stages[elasticsearch]'")


def test_throughput(make: Make, bulk_service: BulkService, compare: Callable[..., None]) -> None:
    pipeline = make(config(bulk_service, MANY, "rate", pace=False))

    def plain() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{bulk_service.port}", auth=("zpipe", "the right one")) as client:
            for start in range(0, MANY, 500):
                rows = [{"id": n, "name": "a name", "price": 1.5} for n in range(start, start + 500)]
                body = "".join(
                    f"{json.dumps({'index': {'_index': 'plain', '_id': str(row['id'])}})}\n{json.dumps(row)}\n"
                    for row in rows
                )
                answer = client.post("/_bulk", content=body, headers={"Content-Type": "application/x-ndjson"})
                assert not answer.json()["errors"]

    compare(
        "elasticsearch (a stand-in)",
        lambda: rate_of_run(pipeline, committed(pipeline, "read"), MANY),
        lambda: timed(plain),
    )
