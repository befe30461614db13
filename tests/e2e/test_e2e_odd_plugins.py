"""Plugins that do what no plugin should: the message fails, the stage and its neighbours go on."""

from __future__ import annotations

from e2e_types import MakePipeline
from pipeline import ids

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = { count = 12 }

[stages.odd]
input = "read"
plugin = "python"
options = { function = "odd.py:odd" }
retry = { attempts = 1 }

[stages.store]
input = "odd"
plugin = "sqlite"
batch = { messages = 10, timeout = "50ms" }
options = { path = "out.db", table = "t", key = "id" }
"""
ODD = r"""
import sys

from zpipe import Message


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Base(BaseException):
    pass


def odd(payload):
    match payload["id"]:
        case 1:
            sys.exit(3)
        case 2:
            raise KeyboardInterrupt
        case 3:
            raise Mute
        case 4:
            raise Base("base")
        case 5:
            raise ValueError("\ud800 bad \x00 \n text")
        case 6:
            return Message(payload, id=5)
        case 7:
            return Message(payload, origin="then")
        case 8:
            return Message(payload, headers=[1])
    return payload
"""
SOURCE = """
import sys

from zpipe import hookimpl


@hookimpl
def zpipe_source(context):
    yield %s, {"id": 0}
    sys.exit("enough")
"""


def test_what_a_plugin_raises_or_returns_never_stops_the_stage(make: MakePipeline) -> None:
    pipeline = make(CONFIG, odd=ODD)
    ledger = pipeline.run().ledger()
    assert ids(pipeline.query("select id from t order by id")) == [0, 9, 10, 11]
    assert ledger["stages"]["odd"]["dead"] == 8


def test_a_source_that_ends_the_interpreter_or_has_no_position_is_told_and_restarted(make: MakePipeline) -> None:
    text = CONFIG.replace('plugin = "generate"\noptions = { count = 12 }', 'plugin = "./source.py"')
    pipeline = make(text, odd=ODD, source=SOURCE % "object()")
    run = pipeline.run()
    while run.running and "cannot be sent or named" not in run.stderr:
        run.over_within(0.1)
    assert "cannot be sent or named" in run.stderr
    assert "Exception in thread" not in run.stderr
