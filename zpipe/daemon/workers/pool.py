"""The face that all worker pools have, and which one a stage gets.

May live here: that choice. What a pool does is its own module's.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Protocol

from zpipe.config import PipelineConfig
from zpipe.core.policy import LinkPolicy
from zpipe.core.work.task import Chunk, Result, Task
from zpipe.daemon.plugin.runner import Runner
from zpipe.daemon.plugin.task_run import LinkEnds
from zpipe.daemon.storage.call_journal import CallJournal
from zpipe.daemon.workers.output_gate import OutputGate
from zpipe.daemon.workers.process_pool import ProcessPool
from zpipe.daemon.workers.thread_pool import ThreadPool
from zpipe.daemon.workers.worker_process import Limits, Process
from zpipe.hookspecs import Context
from zpipe.plugin import Plugin

Emitted = Callable[[Task, list[Chunk]], None]
Done = Callable[[Task, Result], None]


class Pool(Protocol):
    """Takes tasks and reports by callbacks, which come on threads of its own."""

    @property
    def deaths(self) -> dict[str, int]:
        """How many worker processes have died, by what ended them."""

    def start(self) -> None:
        """Once, before the first task. May block, and raise what keeps the plugin from being opened."""

    def put(self, task: Task) -> None:
        """Does not block."""

    def close(self) -> None:
        """Once. What is under way is given up; its results are not reported."""


def make_pool(
    config: PipelineConfig,
    plugin: Plugin,
    context: Context,
    link: LinkPolicy,
    calls: CallJournal,
    gate: OutputGate,
    emitted: Emitted,
    done: Done,
    log: logging.Logger,
) -> Pool:
    settings = config.stages[context.stage]
    workers, inputs = settings.workers, settings.inputs
    ends = LinkEnds(config.outlets(context.stage), str(inputs[0]) if len(inputs) == 1 else "")
    if workers.kind == "thread":
        hook = "zpipe_process_batch" if context.batching else "zpipe_process"
        return ThreadPool(
            workers.count,
            calls,
            Runner(plugin.hooks, context, link, ends),
            hook in plugin.is_async,
            workers.timeout_s,
            gate,
            emitted,
            done,
            log,
        )
    start = {
        "config": str(config.path),
        "text": config.text,
        "plugin": plugin.name,
        "link": dataclasses.asdict(link),
        "level": logging.getLevelName(log.level),
        "state_dir": str(context.state_dir),
        "ends": dataclasses.asdict(ends),
        **{
            name: getattr(context, name)
            for name in ("pipeline", "stage", "instance", "incarnation", "last", "batching")
        },
    }
    limits = Limits(workers.timeout_s, workers.recycle_messages, workers.memory_bytes)
    name = f"{context.pipeline}.{context.stage}.{context.instance}"
    return ProcessPool(workers.count, lambda n: Process(f"{name}/{n}", start, limits), gate, emitted, done, log)
