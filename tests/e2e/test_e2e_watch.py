"""`zpipe run --watch`: what is changed while a pipeline runs is what runs soon after, and nothing is lost by it."""

from __future__ import annotations

from e2e_types import MakePipeline
from pipeline import wait_until

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = { rate = 500 }

[stages.mark]
input = "read"
plugin = "./mark.py"

[stages.store]
input = "mark"
plugin = "sqlite"
batch = { messages = 50, timeout = "50ms" }
options = { path = "out.db", table = "t", key = "id" }
"""
MARK = """
from dataclasses import dataclass

from zpipe import hookimpl


@dataclass
class Options:
    by: str = "nothing"


@hookimpl
def zpipe_options():
    return Options


@hookimpl
def zpipe_process(message, context):
    return {"id": message.payload["id"], "mark": "VERSION " + context.options.by}
"""


def test_a_changed_plugin_and_a_changed_option_are_taken_over(make: MakePipeline) -> None:
    pipeline = make(CONFIG, mark=MARK.replace("VERSION", "first"))
    run = pipeline.run("--watch")

    def marked(mark: str) -> bool:
        if not pipeline.count():
            return not run.running
        return bool(pipeline.query(f"SELECT 1 FROM t WHERE mark = '{mark}' LIMIT 1")) or not run.running

    wait_until(lambda: marked("first nothing"), "the plugin of the start is at work")
    pids = pipeline.instances()
    plugin = pipeline.folder / "mark.py"
    plugin.write_text(MARK.replace("VERSION", "second"))
    wait_until(lambda: marked("second nothing"), "the changed plugin is at work")
    pipeline.path.write_text(CONFIG.replace('"./mark.py"', '"./mark.py"\noptions = { by = "option" }'))
    wait_until(lambda: marked("second option"), "the changed option is in force")
    after = pipeline.instances()
    assert {key for key in pids if pids[key] != after[key]} == {("mark", 1)}, "others go on"

    plugin.write_text(MARK + "\n(")
    wait_until(lambda: "event=files.wrong" in run.stderr, "it is told what is wrong")
    assert "mark.py" in run.stderr.split("event=files.wrong")[1]
    pipeline.path.write_text(CONFIG + '\n[stages.more]\ninput = "store"\nplugin = "discard"\n')
    plugin.write_text(MARK.replace("VERSION", "third"))
    wait_until(lambda: "event=config.changed" in run.stderr, "a new stage needs a new run")
    assert pipeline.instances() == after
    run.interrupt()
    ledger = run.ledger()
    assert ledger["stages"]["mark"]["restarts"] == 2
    assert run.stderr.count("event=stage.restarting") == 2
    count = pipeline.position("read") + 1
    assert pipeline.query("SELECT count(*), max(id) FROM t") == [(count, count - 1)]
