"""What fails in a plugin: dead letters that say why, the rest goes through, and a stage that cannot start says so."""

from __future__ import annotations

from e2e_types import MakePipeline
from pipeline import Command, ids

MIB = 1 << 20

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = { count = 1000 }

[stages.work]
input = "read"
plugin = "python"
retry = { attempts = 3, delay = "5ms" }
options = { function = "work.py:work" }

[stages.store]
input = "work"
plugin = "sqlite"
batch = { messages = 100, timeout = "50ms" }
options = { path = "out.db", table = "t", key = "id" }
"""


def test_messages_that_fail_become_dead_letters(make: MakePipeline) -> None:
    source = """
def work(payload):
    if payload["id"] % 100 == 7:
        raise ValueError(f"cannot work on {payload['id']}")
    return payload
"""
    pipeline = make(CONFIG, work=source)
    ledger = pipeline.run().ledger()
    bad = list(range(7, 1000, 100))
    assert ledger["stages"]["work"]["dead"] == len(bad)
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == [n for n in range(1000) if n not in bad]
    letters = sorted(pipeline.letters("work"), key=lambda letter: letter[4]["id"])
    assert [payload for *_, payload in letters] == [{"id": n} for n in bad]
    for (id, reason, traceback, attempts, _), n in zip(letters, bad, strict=True):
        assert (id, attempts) == (f"read:{n}", 3)
        assert reason == f"ValueError: cannot work on {n}"
        assert "work.py" in traceback and "in work" in traceback


def test_failing_batch_is_bisected(make: MakePipeline) -> None:
    source = """
def work(payloads):
    if any(payload["id"] % 250 == 3 for payload in payloads):
        raise ValueError("a bad one is among them")
    return payloads
"""
    text = CONFIG.replace("[stages.store]", 'batch = { messages = 64, timeout = "50ms" }\n\n[stages.store]')
    text = text.replace(
        'options = { function = "work.py:work" }\n\nbatch', 'options = { function = "work.py:work" }\nbatch'
    )
    pipeline = make(text, work=source)
    ledger = pipeline.run().ledger()
    assert ledger["stages"]["work"]["dead"] == 4
    assert sorted(payload["id"] for *_, payload in pipeline.letters("work")) == [3, 253, 503, 753]
    assert pipeline.count() == 996


def test_outputs_that_cannot_be_sent_become_dead_letters(make: MakePipeline) -> None:
    """No CBOR value, over 16 MiB, or nothing at all for a downstream that waits: each reason names its cause."""
    source = """
from datetime import datetime


def work(payload):
    match payload["id"]:
        case 5:
            return {"id": 5, "at": datetime.now()}
        case 6:
            return {"id": 6, "blob": b"x" * (17 << 20)}
        case 7:
            return None
        case 8:
            return {"id": 8, "blob": b"x" * (15 << 20)}
        case 9:
            return {"id": 9, "set": {1, 2}}
    return payload
"""
    pipeline = make(CONFIG, work=source)
    ledger = pipeline.run().ledger()
    assert ledger["stages"]["work"]["dead"] == 4
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == [n for n in range(1000) if n not in (5, 6, 7, 9)]
    assert pipeline.query("SELECT length(blob) FROM t WHERE id = 8") == [(15 * MIB,)]
    reasons = {payload["id"]: reason for _, reason, _, _, payload in pipeline.letters("work")}
    assert set(reasons) == {5, 6, 7, 9}
    assert "datetime" in reasons[5]
    assert "limit of 16777216" in reasons[6]
    assert "returned None" in reasons[7] and "zpipe.DROP" in reasons[7]
    assert "cannot be sent" in reasons[9]


def test_retried_message_goes_through(make: MakePipeline) -> None:
    source = """
seen = set()


def work(payload):
    if payload["id"] % 10 == 0 and payload["id"] not in seen:
        seen.add(payload["id"])
        raise RuntimeError("once")
    return payload
"""
    pipeline = make(CONFIG, work=source)
    ledger = pipeline.run().ledger()
    assert ledger["stages"]["work"]["dead"] == 0
    assert pipeline.final("work")["retries"] == 100
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(1000))


BROKEN = """
from zpipe import hookimpl
{imports}


@hookimpl
def zpipe_open(context):
    raise {error}


@hookimpl
def zpipe_process(message):
    return message.payload
"""


def run_broken(make: MakePipeline, error: str, imports: str = "") -> Command:
    text = CONFIG.replace('plugin = "python"', 'plugin = "./broken.py"')
    text = text.replace('options = { function = "work.py:work" }\n', "")
    pipeline = make(text, broken=BROKEN.format(error=error, imports=imports))
    run = pipeline.run()
    assert run.wait() == 1, run.stderr
    assert not pipeline.instances(), "no process is left behind"
    assert "event=run.failed stage=work.1" in run.stderr
    return run


def test_plugin_that_does_not_open(make: MakePipeline) -> None:
    run = run_broken(
        make, 'OperatorError("the model file is missing: fetch it")', "from zpipe.errors import OperatorError"
    )
    assert "the model file is missing: fetch it" in run.stderr
    assert "Traceback" not in run.stderr


def test_plugin_with_a_bug_in_open(make: MakePipeline) -> None:
    run = run_broken(make, 'KeyError("model")')
    assert "KeyError" in run.stderr and "broken.py" in run.stderr, "a bug is shown with its traceback"


def test_source_that_raises_midway_is_restarted(make: MakePipeline) -> None:
    source = """
from pathlib import Path

from zpipe import hookimpl


@hookimpl
def zpipe_source(context):
    mark = context.state_dir / "raised"
    for n in range(0 if context.position is None else context.position + 1, 2000):
        if n == 1200 and not mark.exists():
            mark.touch()
            raise RuntimeError("the disk went away")
        yield n, {"id": n}
"""
    text = CONFIG.replace('plugin = "generate"\noptions = { count = 1000 }', 'plugin = "./reads.py"')
    pipeline = make(text, reads=source, work="def work(payload):\n    return payload\n")
    run = pipeline.run()
    ledger = run.ledger()
    assert ledger["stages"]["read"]["restarts"] == 1
    assert "RuntimeError: the disk went away" in run.stderr
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(2000))


def test_records_that_cannot_be_read(make: MakePipeline) -> None:
    text = CONFIG.replace(
        'plugin = "generate"\noptions = { count = 1000 }',
        'plugin = "files"\noptions = { paths = ["in.ndjson"], format = "ndjson" }',
    )
    pipeline = make(text, work="def work(payload):\n    return payload\n")
    good = "".join(f'{{"id": {n}}}\n' for n in range(100))
    (pipeline.folder / "in.ndjson").write_text(good + '{"id": 100\n' + '{"id": 101}\n')
    ledger = pipeline.run().ledger()
    assert ledger["stages"]["read"]["dead"] == 1
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == [*range(100), 101]
    ((_, _, _, _, raw),) = pipeline.letters("read")
    assert '{"id": 100' in str(raw)


def test_a_batch_that_drops_and_then_fails_is_counted_once(make: MakePipeline) -> None:
    source = """
import zpipe


def work(payloads):
    return [None if p["id"] == 977 else p if p["id"] % 10 == 0 else zpipe.DROP for p in payloads]
"""
    text = CONFIG.replace(
        'options = { function = "work.py:work" }', 'options = { function = "work.py:work" }\nbatch = { messages = 100 }'
    )
    pipeline = make(text, work=source)
    work = pipeline.run().ledger()["stages"]["work"]
    assert (work["completed"], work["filtered"], work["dead"]) == (100, 899, 1)
    assert pipeline.count() == 100
