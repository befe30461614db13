"""The plugins that need no server but a long run: 50,000 messages and ten `kill -9` through real daemons, and what they cost."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable

from pipeline import Pipeline, wait_until
from rows import DEADLINE_S, KILLS, MESSAGES, PACE, run_with_kills

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
