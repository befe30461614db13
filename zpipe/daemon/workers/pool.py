"""Which pool of workers a stage gets. Must not live here: what a pool does."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from zpipe.config import PipelineConfig
from zpipe.core.policy import LinkPolicy
from zpipe.core.work.task import Chunk, Result, Task
from zpipe.daemon.loop_handover import Handover
from zpipe.daemon.plugin.async_thread import AsyncThread
from zpipe.daemon.plugin.runner import Runner
from zpipe.daemon.plugin.task_run import StageLinks
from zpipe.daemon.storage.call_journal import CallJournal
from zpipe.daemon.workers.thread_pool import ThreadPool
from zpipe.hookspecs import Context
from zpipe.plugin_loading import Plugin

if TYPE_CHECKING:
    from zpipe.daemon.workers.process_pool import ProcessPool

PassOn = Callable[[Task, list[Chunk]], None]
Done = Callable[[Task, Result], None]
CONTEXT = ("pipeline", "stage", "instance", "instances", "incarnation", "last", "batching")
"""Fields of the plugin's context that a worker process is told; it makes the others itself."""
Pool: TypeAlias = "ThreadPool | ProcessPool"
"""Takes tasks from `start` to `close`, and reports by callbacks on threads of its own. What is under way when it is closed is
given up, and its results are not reported. `deaths`: how many worker processes have died, by what ended them; `pids`: those that
live."""


def make_pool(
    config: PipelineConfig,
    plugin: Plugin,
    context: Context,
    link: LinkPolicy,
    calls: CallJournal,
    pass_on: PassOn,
    done: Done,
    done_here: Done,
    log: logging.Logger,
    handover: Handover,
    async_thread: AsyncThread,
) -> Pool:
    """`pass_on` is for outputs of a task that is not done yet: it blocks until there is room for more. `done` only posts. For a
    task that was run by the thread that drives the loop, `done_here` is called instead."""
    settings = config.stages[context.stage]
    workers, inputs = settings.workers, settings.inputs
    links = StageLinks(config.outlets(context.stage), str(inputs[0]) if len(inputs) == 1 else "")
    if workers.kind == "thread":
        return ThreadPool(
            workers.count,
            calls,
            Runner(plugin.hooks, context, link, links),
            plugin.is_called_async(context.batching),
            workers.timeout_s,
            pass_on,
            done,
            done_here,
            log,
            handover,
            async_thread,
        )
    from zpipe.daemon.workers.process_pool import ProcessPool  # they bring `subprocess`, and few stages need them
    from zpipe.daemon.workers.worker_metrics import WorkerMetrics
    from zpipe.daemon.workers.worker_process import WorkerProcess

    start = {
        "config": str(config.path),
        "text": config.text,
        "plugin": plugin.name,
        "link": dataclasses.asdict(link),
        "level": logging.getLevelName(log.level),
        "state_dir": str(context.state_dir),
        "links": links._asdict(),
        "context": {name: getattr(context, name) for name in CONTEXT},
        "hold_refusal": context.holds.refusal,
    }
    name = f"{context.pipeline}.{context.stage}.{context.instance}"

    def spawn(number: int) -> WorkerProcess:
        return WorkerProcess(f"{name}/{number}", start, workers, WorkerMetrics(context.metrics, log))

    return ProcessPool(workers.count, spawn, pass_on, done, log)
