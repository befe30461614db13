"""Page faults are counted in a process of its own: what is set holds for all of a process."""

from __future__ import annotations

import subprocess
import sys

WORK = """
import resource, threading
from zpipe.core.policy import LinkPolicy
from zpipe.core.wire import section
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Slice
from zpipe.core.work.task import CallHistory, Task
from zpipe.daemon.plugin.task_run import StageLinks, TaskRun

COUNT, ROUNDS = 14, 20
payloads = [{"blob": bytes(SIZE)} for _ in range(COUNT)]
body = section.encode([str(n) for n in range(COUNT)], [1.0] * COUNT, payloads, None, "msgpack")

def one_task():
    piece = Section(body, COUNT)
    run = TaskRun(Task(1, [Slice(Delivery([piece], print), piece, 0, 0, COUNT, 0.0)], CallHistory(), False), False,
                  LinkPolicy(), StageLinks())
    for group in run.groups():
        assert run.decode(group)
        run.take_plain(group, [message.payload for message in run.messages(group)])
    return run.result()

def worker():
    for _ in range(5):
        one_task()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(ROUNDS):
        one_task()
    print((resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before) / ROUNDS)

thread = threading.Thread(target=worker)
thread.start()
thread.join()
"""


def faults_a_task(size: int) -> float:
    work = WORK.replace("SIZE", str(size))
    return float(subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=True).stdout)


def test_a_task_of_large_messages_gets_its_memory_from_what_was_freed() -> None:
    """It takes two megabytes, which are 500 pages."""
    assert faults_a_task(64_000) < 50
