"""Every shape a config can describe, with real daemons: each message once at every end."""

from __future__ import annotations

from collections import Counter

import pytest
from e2e_types import MakePipeline
from pipeline import ids, wait_until
from ports import free_ports

from zpipe.daemon.plugin.task_run import EARLY_MESSAGES

STORE = """
plugin = "sqlite"
batch = { messages = 200, timeout = "50ms" }
"""


def store(table: str, key: str = "id") -> str:
    return f'{STORE}options = {{ path = "out.db", table = "{table}", key = "{key}" }}\n'


def generate(name: str, count: int, **fields: str) -> str:
    words = ", ".join(f'{key} = "{value}"' for key, value in fields.items())
    return f'[stages.{name}]\nplugin = "generate"\noptions = {{ count = {count}, fields = {{ {words} }} }}\n'


HEAD = '[pipeline]\nname = "p"\n'


def test_fan_out_to_competing_instances(make: MakePipeline) -> None:
    """The source gives nothing before all four are in session: else those that start first could do all the work."""
    source = """
import os
import time
from zpipe import hookimpl


@hookimpl
def zpipe_source(context):
    while not (context.config_dir / "go").exists():
        if context.stopping.wait(0.01):
            return
    yield from ((n, {"id": n}) for n in range(4000))


def work(payload):
    time.sleep(0.001)
    return {"id": payload["id"], "pid": os.getpid()}
"""
    work = '[stages.work]\ninput = "read"\nplugin = "python"\ninstances = 4\noptions = { function = "work.py:work" }\n'
    text = HEAD + '[telemetry]\ninterval = "100ms"\n[stages.read]\nplugin = "./work.py"\n' + work
    pipeline = make(text + '[stages.store]\ninput = "work"\n' + store("t"), work=source)
    run = pipeline.run()
    with pipeline.watch() as watch:

        def in_session() -> bool:
            watch.poll(0.0)
            return all(watch.snapshots.get(("work", n), {}).get("sessions") for n in range(1, 5))

        wait_until(in_session, "all four are in session with the source")
    (pipeline.folder / "go").touch()
    ledger = run.ledger()
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(4000))
    shares = ids(pipeline.query("SELECT count(*) FROM t GROUP BY pid"))
    assert len(shares) == 4 and min(shares) > 100, shares
    assert ledger["stages"]["store"]["received"] == 4000


def test_fan_in_from_two_stages(make: MakePipeline) -> None:
    join = '[stages.join]\ninput = ["a", "b"]\nplugin = "python"\noptions = { function = "join.py:join" }\n'
    text = HEAD + generate("a", 3000, of="a") + generate("b", 500, of="b") + join
    source = 'def join(payload):\n    return {"key": f"{payload[\'of\']}{payload[\'id\']}", "of": payload["of"]}\n'
    pipeline = make(text + '[stages.store]\ninput = "join"\n' + store("t", "key"), join=source)
    ledger = pipeline.run().ledger()
    assert pipeline.query("SELECT of, count(*) FROM t GROUP BY of ORDER BY of") == [("a", 3000), ("b", 500)]
    assert ledger["stages"]["join"]["received"] == 3500
    acked = {(link["from"], link["to"]): link["acked"] for link in ledger["links"]}
    assert acked == {("a", "join"): 3000, ("b", "join"): 500, ("join", "store"): 3500}


def test_one_output_read_by_two_stages(make: MakePipeline) -> None:
    text = HEAD + generate("read", 3000) + '[stages.one]\ninput = "read"\n' + store("one")
    pipeline = make(
        text
        + '[stages.two]\ninput = "read"\nplugin = "ndjson"\nbatch = { messages = 200 }\noptions = { path = "two.ndjson" }\n'
    )
    ledger = pipeline.run().ledger()
    assert ids(pipeline.query("SELECT id FROM one ORDER BY id")) == list(range(3000))
    assert [line["id"] for line in pipeline.lines("two.ndjson")] == list(range(3000))
    assert ledger["stages"]["read"]["produced"] == 6000


def test_diamond(make: MakePipeline) -> None:
    side = '[stages.{0}]\ninput = "read"\nplugin = "python"\noptions = {{ function = "sides.py:{0}" }}\n'
    text = HEAD + generate("read", 2000) + side.format("left") + side.format("right")
    sources = "".join(
        f'def {name}(payload):\n    return {{"key": f"{name}{{payload[\'id\']}}"}}\n\n\n' for name in ("left", "right")
    )
    pipeline = make(text + '[stages.store]\ninput = ["left", "right"]\n' + store("t", "key"), sides=sources)
    assert pipeline.run().ledger()["stages"]["store"]["received"] == 4000
    assert pipeline.count() == 4000


def test_named_outlets(make: MakePipeline) -> None:
    parse = """
from zpipe import Message


def parse(payload):
    if payload["id"] % 3 == 0:
        return Message({"id": payload["id"], "why": "a third"}, outlet="errors")
    return payload
"""
    text = HEAD + generate("read", 3000)
    text += '[stages.parse]\ninput = "read"\nplugin = "python"\noptions = { function = "parse.py:parse" }\n'
    text += '[stages.good]\ninput = "parse"\n' + store("good") + '[stages.bad]\ninput = "parse.errors"\n' + store("bad")
    pipeline = make(text, parse=parse)
    ledger = pipeline.run().ledger()
    assert ids(pipeline.query("SELECT id FROM bad ORDER BY id")) == list(range(0, 3000, 3))
    assert ids(pipeline.query("SELECT id FROM good ORDER BY id")) == [n for n in range(3000) if n % 3]
    outlets = {link.get("outlet", ""): link["acked"] for link in ledger["links"] if link["from"] == "parse"}
    assert outlets == {"": 2000, "errors": 1000}


def test_partial_batch_leaves_at_once_at_the_end(make: MakePipeline) -> None:
    """Two batching stages in a row, neither of which can fill: the end of input comes through both."""
    batch = (
        'plugin = "python"\nbatch = { messages = 400, timeout = "10m" }\noptions = { function = "lists.py:lists" }\n'
    )
    text = HEAD + generate("read", 1001) + f'[stages.one]\ninput = "read"\n{batch}[stages.two]\ninput = "one"\n{batch}'
    source = "def lists(payloads):\n    return [{**payload, 'size': len(payloads)} for payload in payloads]\n"
    pipeline = make(text + '[stages.store]\ninput = "two"\n' + store("t"), lists=source)
    pipeline.run().ledger()
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(1001))
    assert pipeline.query("SELECT max(size) FROM t") == [(400,)]


def test_tcp_on_loopback(make: MakePipeline) -> None:
    ports = free_ports(4)

    def listen(*chosen: int) -> str:
        return f"listen = {[f'tcp://127.0.0.1:{port}' for port in chosen]}\n"

    work = '[stages.work]\ninput = "read"\nplugin = "python"\ninstances = 2\noptions = { function = "work.py:work" }\n'
    text = HEAD + generate("read", 5000) + listen(ports[0]) + work + listen(*ports[1:3])
    text += '[stages.store]\ninput = "work"\n' + listen(ports[3]) + store("t")
    text += "[security]\ninsecure = true\n"
    pipeline = make(text, work="def work(payload):\n    return payload\n")
    pipeline.run().ledger()
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(5000))
    assert not list((pipeline.home / "r").glob("*/*.sock"))


CONCURRENT = """
import asyncio
import time
from threading import Lock

lock = Lock()
under_way = 0


def enter(step):
    global under_way
    with lock:
        under_way += step
        return under_way


def threads(payload):
    most = enter(1)
    time.sleep(0.002)
    most = max(most, enter(-1) + 1)
    return {**payload, "most": most}


async def coroutines(payload):
    most = enter(1)
    await asyncio.sleep(0.002)
    most = max(most, enter(-1) + 1)
    return {**payload, "most": most}
"""


def concurrency(make: MakePipeline, function: str) -> int:
    """The most calls of `function` that were under way at once, with workers = { count = 4 }."""
    work = '[stages.work]\ninput = "read"\nplugin = "python"\nworkers = { count = 4 }\n'
    work += f'options = {{ function = "work.py:{function}" }}\n'
    pipeline = make(
        HEAD + generate("read", 1000) + work + '[stages.store]\ninput = "work"\n' + store("t"), work=CONCURRENT
    )
    pipeline.run().ledger()
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(1000))
    return int(pipeline.query("SELECT max(most) FROM t")[0][0])


def test_four_threads_work_at_once(make: MakePipeline) -> None:
    assert concurrency(make, "threads") == 4


def test_four_coroutines_work_at_once(make: MakePipeline) -> None:
    assert concurrency(make, "coroutines") == 4


def test_one_message_becomes_100_000(make: MakePipeline) -> None:
    """With room for 1000 unacked ones the generator is held up, not the memory filled; its message is acked last."""
    source = "def burst(payload):\n    for n in range(100_000):\n        yield {'id': n}\n"
    text = HEAD + '[telemetry]\ninterval = "100ms"\n' + generate("read", 1)
    text += '[stages.burst]\ninput = "read"\nplugin = "python"\nunacked = { messages = 1000 }\n'
    text += 'options = { function = "burst.py:burst" }\n'
    pipeline = make(text + '[stages.store]\ninput = "burst"\n' + store("t"), burst=source)
    run = pipeline.run()
    seen = pipeline.snapshots_until_end(run)
    ledger = run.ledger()
    assert ledger["stages"]["burst"]["produced"] == 100_000
    assert pipeline.query("SELECT count(*), min(id), max(id) FROM t") == [(100_000, 0, 99_999)]
    held = [link["in_flight"] + link["unsent"] for s in seen if s["stage"] == "burst" for link in s["links"]]
    assert 1000 <= max(held) <= 1000 + EARLY_MESSAGES, "the bound, and what the generator had made by then"


def test_one_consumer_with_one_worker_keeps_the_order(make: MakePipeline) -> None:
    text = HEAD + generate("read", 20_000)
    text += '[stages.map]\ninput = "read"\nplugin = "python"\noptions = { function = "same.py:same" }\n'
    text += '[stages.lines]\ninput = "map"\nplugin = "ndjson"\nbatch = { messages = 100, timeout = "50ms" }\n'
    pipeline = make(text + 'options = { path = "out.ndjson" }\n', same="def same(payload):\n    return payload\n")
    pipeline.run().ledger()
    assert [line["id"] for line in pipeline.lines("out.ndjson")] == list(range(20_000))


def test_filtered_and_many_to_many_are_counted(make: MakePipeline) -> None:
    source = """
from zpipe import DROP


def even(payload):
    return payload if payload["id"] % 2 == 0 else DROP


def pairs(payloads):
    for payload in payloads:
        yield {"key": payload["id"]}
        yield {"key": payload["id"] + 1}
"""
    text = HEAD + generate("read", 2000)
    text += '[stages.even]\ninput = "read"\nplugin = "python"\noptions = { function = "work.py:even" }\n'
    text += '[stages.pairs]\ninput = "even"\nplugin = "python"\nbatch = { messages = 64, timeout = "10m" }\n'
    text += 'options = { function = "work.py:pairs" }\n'
    pipeline = make(text + '[stages.store]\ninput = "pairs"\n' + store("t", "key"), work=source)
    stages = pipeline.run().ledger()["stages"]
    assert Counter(stages["even"])["filtered"] == 1000
    assert (stages["pairs"]["received"], stages["pairs"]["produced"]) == (1000, 2000)
    assert ids(pipeline.query("SELECT key FROM t ORDER BY key")) == list(range(2000))


SPLIT = """
from zpipe import Message, hookimpl


@hookimpl
def zpipe_outlets():
    return ("odd", "thirds")


@hookimpl
def zpipe_process(message):
    n = message.payload["id"]
    if n % 100 == 99:
        return Message(n, outlet="od")
    return Message(message.payload, outlet="odd" if n % 2 else "thirds" if n % 3 == 0 else "")
"""


@pytest.mark.parametrize("kind", ["thread", "process"])
@pytest.mark.parametrize("last", [False, True])
def test_what_no_stage_reads_is_counted_and_an_undeclared_outlet_fails_its_message(
    make: MakePipeline, kind: str, last: bool
) -> None:
    text = HEAD + generate("read", 1200)
    text += f'[stages.split]\ninput = "read"\nplugin = "./split.py"\nworkers = {{ kind = "{kind}" }}\n'
    text += '[stages.thirds]\ninput = "split.thirds"\nplugin = "discard"\n'
    if not last:
        text += '[stages.store]\ninput = "split"\n' + store("t")
    pipeline = make(text, split=SPLIT)
    run = pipeline.run()
    ledger = run.ledger()
    row = ledger["stages"]["split"]
    odd, thirds = 600 - 12, 200  # by n % 2, n % 3; every hundredth is misnamed
    assert (row["received"], row["completed"], row["dead"]) == (1200, 1188, 12)
    assert row["produced"] == thirds + (0 if last else 400)
    assert row["unrouted"] == odd + (400 if last else 0)
    assert "unrouted" not in ledger["stages"]["read"]
    reasons = {reason for _, reason, _, attempts, _ in pipeline.letters("split") if attempts == 1}
    assert reasons == {
        "the stage has no outlet 'od' (did you mean 'odd'?); its outlets are odd, thirds. Outlets are declared by the plugin's "
        "zpipe_outlets, or by the option `outlets` of `python`"
    }
    assert pipeline.final("split")["unrouted"] == row["unrouted"]
    assert run.stderr.count("event=outlet.unread outlet=odd") == 1
    assert "outlet.unread outlet=thirds" not in run.stderr


def test_a_last_stage_counts_what_it_sends_by_a_named_outlet(make: MakePipeline) -> None:
    source = """
from zpipe import Message


def split(payload):
    return Message(payload, outlet="odd" if payload["id"] % 2 else "")
"""
    text = HEAD + generate("read", 100) + '[stages.split]\ninput = "read"\nplugin = "python"\n'
    text += 'options = { function = "split.py:split", outlets = ["odd"] }\n'
    row = make(text, split=source).run().ledger()["stages"]["split"]
    assert (row["completed"], row["unrouted"], row["produced"]) == (100, 50, 0)


def test_a_source_may_not_lose_messages_by_an_undeclared_outlet(make: MakePipeline) -> None:
    source = """
from zpipe import Message, hookimpl


@hookimpl
def zpipe_outlets():
    return ("odd",)


@hookimpl
def zpipe_source(context):
    for n in range(100):
        outlet = "even" if n % 10 == 0 else "odd" if n % 2 else ""
        yield Message({"id": n}, position=n, outlet=outlet, id="" if n % 20 else f"n{n}")
"""
    text = HEAD + '[stages.read]\nplugin = "./numbers.py"\n[stages.store]\ninput = "read"\n' + store("t")
    pipeline = make(text, numbers=source)
    ledger = pipeline.run().ledger()
    row = ledger["stages"]["read"]
    assert (row["received"], row["dead"], row["unrouted"], row["produced"]) == (100, 10, 50, 40)
    assert [row[0] for row in pipeline.letters("read")] == [
        f"read:{n}" if n % 20 else f"n{n}" for n in range(0, 100, 10)
    ]
