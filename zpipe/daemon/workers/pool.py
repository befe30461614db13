"""The face that all worker pools have, and which pool a stage gets. Must not live here: what a pool does."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import Protocol

from zpipe.config import PipelineConfig
from zpipe.core.policy import LinkPolicy
from zpipe.core.work.task import Chunk, Result, Task
from zpipe.daemon.plugin.runner import Runner
from zpipe.daemon.plugin.task_run import StageLinks
from zpipe.daemon.storage.call_journal import CallJournal
from zpipe.daemon.workers.thread_pool import ThreadPool
from zpipe.hookspecs import Context
from zpipe.plugin_loading import Plugin

Emitted = Callable[[Task, list[Chunk]], None]
Done = Callable[[Task, Result], None]


class Pool(Protocol):
    """Takes tasks, and reports by callbacks on threads of its own."""

    @property
    def deaths(self) -> dict[str, int]:
        """How many worker processes have died, by what ended them."""

    def start(self) -> None:
        """Once, before the first task. May block, and raise what keeps the plugin from being opened."""

    def put(self, task: Task) -> None:
        """Does not block."""

    def close(self) -> None:
        """Once. What is under way is given up, and its results are not reported."""


def make_pool(
    config: PipelineConfig,
    plugin: Plugin,
    context: Context,
    link: LinkPolicy,
    calls: CallJournal,
    output_room: threading.Event,
    emitted: Emitted,
    done: Done,
    log: logging.Logger,
) -> Pool:
    """`output_room` is set while the outputs of the stage have room. Workers that pass outputs on early wait for it."""
    settings = config.stages[context.stage]
    workers, inputs = settings.workers, settings.inputs
    links = StageLinks(config.outlets(context.stage), str(inputs[0]) if len(inputs) == 1 else "")
    if workers.kind == "thread":
        hook = "zpipe_process_batch" if context.batching else "zpipe_process"
        return ThreadPool(
            workers.count,
            calls,
            Runner(plugin.hooks, context, link, links),
            hook in plugin.is_async,
            workers.timeout_s,
            output_room,
            emitted,
            done,
            log,
        )
    from zpipe.daemon.workers.process_pool import ProcessPool  # they bring `subprocess`, and few stages need them
    from zpipe.daemon.workers.worker_process import Limits, WorkerProcess

    start = {
        "config": str(config.path),
        "text": config.text,
        "plugin": plugin.name,
        "link": dataclasses.asdict(link),
        "level": logging.getLevelName(log.level),
        "state_dir": str(context.state_dir),
        "links": dataclasses.asdict(links),
        **{
            name: getattr(context, name)
            for name in ("pipeline", "stage", "instance", "incarnation", "last", "batching")
        },
    }
    limits = Limits(workers.timeout_s, workers.recycle_messages, workers.memory_bytes)
    name = f"{context.pipeline}.{context.stage}.{context.instance}"
    return ProcessPool(
        workers.count, lambda n: WorkerProcess(f"{name}/{n}", start, limits), output_room, emitted, done, log
    )
