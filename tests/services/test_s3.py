"""`s3` against moto's server."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
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
    wait_until,
    waits_saying,
)
from servers import S3, closed_port

SINK = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = {{ count = {count}{rate}, fields = {{ name = "a name", price = 1.5 }} }}

[stages.store]
input = "read"
plugin = "s3"
batch = {{ messages = 1000, timeout = "200ms" }}
options = {{ {where}, bucket = "{bucket}", prefix = "rows/" }}
"""
SOURCE = """
[pipeline]
name = "p"

[stages.read]
plugin = "s3"
options = {{ {where}, bucket = "{bucket}", prefix = "in/"{more} }}

[stages.store]
input = "read"
plugin = "sqlite"
batch = {{ messages = 100, timeout = "50ms" }}
{limit}
options = {{ path = "out.db", table = "t", key = "id" }}
"""
LOGIN = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "k")
    monkeypatch.setenv("SECRET", "s")


def where(s3: S3, port: int = 0) -> str:
    keys = 'region = "us-east-1", access_key = "${KEY}", secret_key = "${SECRET}"'
    return f'endpoint = "http://127.0.0.1:{port or s3.gate.port}", {keys}'


def client(s3: S3) -> Any:
    return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{s3.port}", **LOGIN)


def bucket(s3: S3, name: str, rows: int = 0) -> str:
    """A new one, with so many rows in objects of 1,000."""
    there = client(s3)
    there.create_bucket(Bucket=name)
    for start in range(0, rows, 1000):
        put(s3, name, f"in/{start:09}.ndjson.gz", range(start, min(start + 1000, rows)))
    return name


def put(s3: S3, name: str, key: str, ids: range) -> None:
    lines = "".join(json.dumps({"id": n, "name": "a name", "price": 1.5}) + "\n" for n in ids)
    client(s3).put_object(Bucket=name, Key=key, Body=gzip.compress(lines.encode(), 1))


def stored(s3: S3, name: str) -> list[dict[str, Any]]:
    there, found = client(s3), []
    for page in there.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix="rows/"):
        for entry in page.get("Contents", []):
            body = gzip.decompress(there.get_object(Bucket=name, Key=entry["Key"])["Body"].read())
            found += [json.loads(line) for line in body.splitlines()]
    return found


def has_all(s3: S3, name: str, count: int) -> None:
    """Each message is there under its id, perhaps in two objects."""
    found = stored(s3, name)
    assert {(one["id"], one["payload"]["id"]) for one in found} == {(f"read:{n}", n) for n in range(count)}


def sink(s3: S3, name: str, count: int, pace: bool = True) -> str:
    return SINK.format(count=count, rate=f", rate = {PACE}" if pace else "", where=where(s3), bucket=name)


def source(s3: S3, name: str, more: str = "", pace: bool = True) -> str:
    limit = f"limit = {{ rate = {PACE // 100} }}" if pace else ""
    return SOURCE.format(where=where(s3), bucket=name, more=more, limit=limit)


def test_sink_with_kills(make: Make, s3: S3) -> None:
    pipeline = make(sink(s3, bucket(s3, "sink-kills"), MESSAGES))
    run_with_kills(pipeline, committed(pipeline, "read"), server=s3.gate)
    has_all(s3, "sink-kills", MESSAGES)


def test_two_workers_write_at_once(make: Make, s3: S3) -> None:
    """The service does not answer for a while: each of them waits in a call of its own. Then all is there."""
    text = sink(s3, bucket(s3, "two"), 10_000, pace=False)
    pipeline = make(text.replace("[stages.store]", "[stages.store]\nworkers = { count = 2 }"))
    s3.gate.pause()
    try:
        run = pipeline.run()
        wait_until(lambda: connections_to(s3.gate.port) >= 2, "both have a connection")
    finally:
        s3.gate.resume()
    ledger = run.ledger()
    assert all(row["restarts"] == row["dead"] == 0 for row in ledger["stages"].values()), ledger
    has_all(s3, "two", 10_000)


def connections_to(port: int) -> int:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(state == "01" and int(far.rpartition(":")[2], 16) == port for _, _, far, state, *_ in rows)


def test_source_with_kills(make: Make, s3: S3) -> None:
    pipeline = make(source(s3, bucket(s3, "source-kills", MESSAGES)))
    run_with_kills(pipeline, pipeline.count, server=s3.gate)
    assert pipeline.query("SELECT count(*), min(id), max(id) FROM t") == [(MESSAGES, 0, MESSAGES - 1)]


def test_sink_without_service(make: Make, s3: S3) -> None:
    pipeline = make(sink(s3, bucket(s3, "sink-away"), 20_000))
    run_without_service(pipeline, "store", s3.gate, committed(pipeline, "read"), 5000, "Could not connect")
    has_all(s3, "sink-away", 20_000)


def test_source_without_service(make: Make, s3: S3) -> None:
    pipeline = make(source(s3, bucket(s3, "source-away", 3000), ', poll = "100ms"'))
    run = pipeline.run()
    wait_until(lambda: pipeline.count() == 3000, "all rows got through")
    s3.gate.kill()
    waits_saying(pipeline, run, "read", "it waits for s3", "Could not connect", "next try in")
    s3.gate.start()
    put(s3, "source-away", "in/z.ndjson.gz", range(3000, 3001))
    wait_until(lambda: pipeline.count() == 3001, "the late row got through")
    run.interrupt()
    ledger = run.ledger()
    assert all(row["restarts"] == row["dead"] == 0 for row in ledger["stages"].values()), ledger
    assert pipeline.position("read") == ["in/z.ndjson.gz", 0]


@pytest.fixture
def ask_for_keys(s3: S3) -> Iterator[Callable[[], tuple[str, str]]]:
    """ask_for_keys(): from now on the service wants a key of its own making. That of a user who may read the bucket `open`, and
    list the keys of `listed`."""

    def ask(count: str = "0") -> None:
        where = f"http://127.0.0.1:{s3.port}/moto-api/reset-auth"
        urlopen(Request(where, count.encode(), {"Content-Type": "text/plain"})).close()

    def made() -> tuple[str, str]:
        iam = boto3.client("iam", endpoint_url=f"http://127.0.0.1:{s3.port}", **LOGIN)
        iam.create_user(UserName="reader")
        allowed = [  # of one action AWS says ListBucket, and moto ListObjectsV2 or ListBucket, by its version
            {"Effect": "Allow", "Action": ["s3:List*", "s3:GetObject"], "Resource": "arn:aws:s3:::open*"},
            {"Effect": "Allow", "Action": ["s3:List*"], "Resource": "arn:aws:s3:::listed"},
        ]
        policy = json.dumps({"Version": "2012-10-17", "Statement": allowed})
        iam.put_user_policy(UserName="reader", PolicyName="open", PolicyDocument=policy)
        key = iam.create_access_key(UserName="reader")["AccessKey"]
        ask()
        return key["AccessKeyId"], key["SecretAccessKey"]

    yield made
    ask("inf")


def test_wrong_keys_and_buckets_that_refuse(
    make: Make, s3: S3, ask_for_keys: Callable[[], tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys of objects have no slash here: moto finds the signatures of requests with an escaped one wrong."""
    for name in ("open", "listed", "closed"):
        put(s3, bucket(s3, name), "in-0.ndjson.gz", range(1000))
    key, secret = ask_for_keys()
    monkeypatch.setenv("KEY", key)
    monkeypatch.setenv("SECRET", "a wrong one")

    def reads(name: str) -> str:
        return source(s3, name, pace=False).replace('"in/"', '"in-"')

    pipeline = make(reads("open"))
    assert "a wrong one" not in fails_saying(pipeline, "SignatureDoesNotMatch")
    pipeline.env["SECRET"] = secret
    for text, operation in (
        (reads("closed"), "ListObjectsV2"),
        (reads("listed"), "GetObject"),
        (sink(s3, "open", 10), "PutObject"),
        (sink(s3, "closed", 10), "PutObject"),
    ):
        pipeline.path.write_text(text)
        assert secret not in fails_saying(pipeline, "AccessDenied", operation)
    pipeline.path.write_text(reads("open"))
    pipeline.run().ledger()
    assert pipeline.query("SELECT count(*), min(id), max(id) FROM t") == [(1000, 0, 999)]
    pipeline.env["KEY"] = "AKIAIOSFODNN7EXAMPLE"
    pipeline.path.write_text(sink(s3, "open", 10))
    fails_saying(pipeline, "InvalidAccessKeyId")


def test_what_a_person_has_to_put_right(make: Make, s3: S3) -> None:
    pipeline = make(sink(s3, "not-there", 10))
    fails_saying(pipeline, "NoSuchBucket")
    pipeline.path.write_text(source(s3, "not-there"))
    fails_saying(pipeline, "NoSuchBucket")


def test_unreachable_and_checks(make: Make, s3: S3) -> None:
    away = where(s3, closed_port(s3))
    pipeline = make(source(s3, "x").replace(where(s3), away))
    check_says(pipeline, 0)
    waits_saying(pipeline, pipeline.run(), "read", "Could not connect")
    pipeline.kill_all()
    pipeline.path.write_text(source(s3, "x", ', formt = "lines"'))
    check_says(pipeline, 2, "formt", "did you mean 'format'?")
    hide(pipeline, "boto3")
    for text in (source(s3, "x"), sink(s3, "x", 1)):
        pipeline.path.write_text(text)
        check_says(pipeline, 2, "it needs boto3, which is not installed: pip install 'zpipe-stages[s3]'")


def test_throughput_of_the_sink(make: Make, s3: S3, compare: Callable[..., None]) -> None:
    bucket(s3, "plain")
    pipeline = make(sink(s3, bucket(s3, "sink-rate"), MANY, pace=False))

    def plain() -> None:
        there = client(s3)
        for start in range(0, MANY, 1000):
            rows = [{"id": n, "name": "a name", "price": 1.5} for n in range(start, start + 1000)]
            lines = "".join(json.dumps({"id": f"read:{row['id']}", "payload": row}) + "\n" for row in rows)
            there.put_object(Bucket="plain", Key=f"rows/{start}.gz", Body=gzip.compress(lines.encode(), 1))

    compare("s3, sink", lambda: rate_of_run(pipeline, committed(pipeline, "read"), MANY), lambda: timed(plain))


def test_throughput_of_the_source(make: Make, s3: S3, compare: Callable[..., None], tmp_path: Path) -> None:
    """Into a file of NDJSON."""
    text = source(s3, bucket(s3, "source-rate", MANY), pace=False)
    text = text.replace('plugin = "sqlite"', 'plugin = "ndjson"').replace("messages = 100,", "messages = 1000,")
    pipeline = make(text.replace('path = "out.db", table = "t", key = "id"', 'path = "out.ndjson"'))

    def ours() -> float:
        (pipeline.folder / "out.ndjson").unlink(missing_ok=True)

        def progress() -> int | None:
            position = pipeline.position("read")
            return position and int(position[0][3:12]) + position[1] + 1

        measured = rate_of_run(pipeline, progress, MANY)
        assert [line["id"] for line in pipeline.lines("out.ndjson")] == list(range(MANY))
        return measured

    def plain() -> None:
        there = client(s3)
        with (tmp_path / "plain.ndjson").open("w") as out:
            for page in there.get_paginator("list_objects_v2").paginate(Bucket="source-rate", Prefix="in/"):
                for entry in page["Contents"]:
                    body = gzip.decompress(there.get_object(Bucket="source-rate", Key=entry["Key"])["Body"].read())
                    out.write("".join(json.dumps(json.loads(line)) + "\n" for line in body.splitlines()))
                    out.flush()
                    os.fsync(out.fileno())

    compare("s3, source", ours, lambda: timed(plain))
