"""Assembly: one instance from its config, started, run and ended. May live here: making the parts and joining them.

`run_stage` is what `zpipe stage` does; it is all that knows every part of the daemon.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from zpipe import plugin as plugins
from zpipe.config import PipelineConfig
from zpipe.core.downstream import HIGH_WATER_SLACK
from zpipe.core.intake import Self
from zpipe.core.lifecycle import State
from zpipe.core.stage import Stage
from zpipe.core.work import DEAD, Chunk, Result, Task
from zpipe.daemon import collector, descriptors, journal, running, traces
from zpipe.daemon.crash import CrashFiles
from zpipe.daemon.dead_letter_log import DeadLetterLog
from zpipe.daemon.discovery import Discovery
from zpipe.daemon.feeder import Feeder, silent
from zpipe.daemon.journal import fields
from zpipe.daemon.locks import InstanceLock
from zpipe.daemon.loop import Loop
from zpipe.daemon.mailbox import Mailbox
from zpipe.daemon.outside import Outside
from zpipe.daemon.places import Places
from zpipe.daemon.plugin_host import Opened, PluginHost
from zpipe.daemon.policies import stage_policy
from zpipe.daemon.reason import reason_of
from zpipe.daemon.reload import reload
from zpipe.daemon.sdnotify import Notifier
from zpipe.daemon.signals import Signals
from zpipe.daemon.sockets import Sockets
from zpipe.daemon.store import Store
from zpipe.daemon.vital import process_vitals, vital_of
from zpipe.daemon.workers.gate import Gate
from zpipe.daemon.workers.pool import Pool, make_pool
from zpipe.errors import ExitCode, OperatorError, PluginError
from zpipe.folders import instance_name, make_private, remove
from zpipe.hookspecs import Context

SWITCH_S = 0.0005
"""The loop's thread gets the interpreter after at most this much of a busy plugin (Python's default of 5 ms is ten times
the latency of three stages)."""


class Instance:
    """The parts of one running instance. Raises OperatorError where something outside is in the way."""

    def __init__(
        self, config: PipelineConfig, stage: str, instance: int, env: Mapping[str, str], fresh: bool, level: str
    ) -> None:
        self._env = env
        self._stage, self._instance = stage, instance
        self.settings = config.stages[stage]
        self.places = Places(config, env)
        self.name = instance_name(config.name, stage, instance)
        self.lock = InstanceLock(self.places.runtime(stage, instance), self.name)
        self.log = journal.start(f"{stage}.{instance}", level, env)
        state_dir = self.places.state(stage, instance)
        make_private(state_dir)
        cut_short = self.places.begin_life(stage, instance)
        self.store = Store(state_dir)
        self._crash_files = CrashFiles(state_dir)
        self.crash = self._crash_files.found(env, cut_short)
        self.crash.tell(self.log)
        plugin_dir = self.places.plugin_state(stage, instance)
        if fresh:
            self.store.forget()
            remove(plugin_dir)
        make_private(plugin_dir)
        self.incarnation = secrets.token_hex(6)
        self._leave_record(config)
        context = Context(
            pipeline=config.name,
            stage=stage,
            instance=instance,
            incarnation=self.incarnation,
            options=self.settings.options,
            config_dir=config.folder,
            state_dir=plugin_dir,
            log=self.log.getChild("plugin"),
            last=not any(outlet != DEAD for outlet, _ in config.consumers(stage)),
            batching=self.settings.batch is not None,
        )
        self.config = config
        self.traces = traces.start(config, context, self.log)
        plugin = plugins.load(self.settings.plugin, config.folder)
        here = self.settings.workers.kind == "thread"
        self.host = PluginHost(plugin, context, self.store, self.places.run, self.log, here)
        self.total: int | None = None
        self.replaying = env.get("ZPIPE_REPLAY") == "1"
        self._stops = 0
        self.mailbox = Mailbox()
        self.sockets = Sockets()
        os.register_at_fork(after_in_child=self.sockets.leave_to_parent)
        self._bind(stage, instance)
        self._join(env)

    def _bind(self, stage: str, instance: int) -> None:
        addresses = self.places.addresses(stage, instance)
        inbox = self.places.inbox(stage, instance, self.incarnation)
        high_water_mark = self.settings.queue.messages + HIGH_WATER_SLACK
        bound = self.sockets.bind(inbox, addresses.feedback, addresses.control, high_water_mark)
        me = Self(self.config.name, stage, instance, self.incarnation, bound)
        policy = stage_policy(self.config, self.settings, self.places.root)
        suspects = self.crash.suspects
        inputs = [(i.stage, i.outlet) for i in self.settings.inputs]
        links = self.config.consumers(stage)
        now = time.monotonic()
        self.stage = Stage(me, inputs, links, policy, now, secrets.token_bytes, random.random, self.vitals, suspects)
        if self.stage.source is not None:
            self.stage.source.silent = self.replaying

    def _join(self, env: Mapping[str, str]) -> None:
        policy, mailbox = self.stage.policy, self.mailbox
        hooks, context = self.traces.hooks(self.host.plugin.hooks), self.host.context
        gate = Gate()
        self.feeder: Feeder | None = None
        self.workers: Pool | None = None
        if self.host.plugin.is_source:
            enough = max(1, min(policy.link.section_messages, policy.unacked.messages // 4))
            source = silent if self.replaying else hooks["zpipe_source"]
            outlets = self.config.outlets(context.stage)
            self.feeder = Feeder(source, context, policy.link, self._wake, self._source_failed, enough, outlets)
        else:
            calls = self._crash_files.begin(policy.workers)
            self.workers = make_pool(
                self.config, self.host.plugin, context, policy.link, calls, gate, self._emitted, self._done, self.log
            )
        self._letter_log = DeadLetterLog(self.log, journal.is_terminal(env))
        self.loop = Loop(
            *(self.stage, self.sockets, mailbox, self.workers, self.feeder, self.store, gate, self.log),
            self._letter_log,
        )
        self.loop.run_id = lambda: self.places.run
        self.loop.on_stop = self._stopped
        self.loop.position.heard = self.host.committed
        self.loop.letters.remember(self.crash)
        self.outside = Outside(self.places, self.lock, self.stage.me, self.log, self.loop.setbacks, self._fail)
        self.loop.may_exit = self.outside.may_exit
        self.discovery = Discovery(self.config, self.places, self.stage, self.sockets)
        self.notifier = Notifier(env)
        self.loop.on_turn += [self.discovery.turn, self.notifier.turn, self._report, self.outside.turn]
        self.loop.on_remember = self.outside.remember
        self._signals = Signals()
        self.loop.on_fd[self._signals.fd] = self._signalled
        if env.get("ZPIPE_SUPERVISED"):
            self.loop.on_fd[sys.stdin.fileno()] = self._orphaned

    # ---- called on other threads: they touch nothing and only post

    def _wake(self) -> None:
        if self.mailbox.asleep:
            self.mailbox.wakeup.set()

    def _emitted(self, task: Task, chunks: list[Chunk]) -> None:
        """Blocks until the core has them and the gate says whether there is room for more."""
        taken = threading.Event()

        def take() -> None:
            self.stage.processing.emitted(task, chunks)
            self.mailbox.post(taken.set)  # runs in the next turn: this one still has to set the gate

        self.mailbox.post(take)
        taken.wait()

    def _done(self, task: Task, result: Result) -> None:
        self.traces.done(task, result)
        self.mailbox.post(lambda: self._came_back(task, result))

    def _source_failed(self, error: BaseException) -> None:
        self.mailbox.post(lambda: self._fail("source.failed", error))

    # ---- called on the loop's thread

    def _came_back(self, task: Task, result: Result) -> None:
        if self.outside.fails(task, result):
            self.lock.leave_word("hopeless")
        else:
            self.stage.task_done(task, result, time.monotonic())

    def _fail(self, event: str, error: BaseException) -> None:
        known = isinstance(error, OperatorError | PluginError)
        reason = str(error) if known else reason_of(error)
        self.log.error(
            fields(event=event, plugin=self.settings.plugin, reason=reason), exc_info=None if known else error
        )
        self.stage.failed()

    def _signalled(self) -> None:
        for number in self._signals.read():
            if number == signal.SIGHUP:
                self._reload()
                continue
            self._stops += 1
            if self._stops > 1:
                self.log.warning(fields(event="stop.now", signal=number.name, held=self.stage.inlet.held_messages))
                self.loop.stop(failed=True)
                return
            hint = "once more stops now: what is not finished is not acked"
            self.log.info(fields(event="leaving", signal=number.name, hint=hint))
            self.stage.leave(time.monotonic())

    def _reload(self) -> None:
        """SIGHUP: takes over what can change while running, and says what cannot."""
        self.notifier.send("RELOADING=1", f"MONOTONIC_USEC={int(time.monotonic() * 1e6)}")
        self.config = reload(self.config, self._env, self.stage, self.log)
        self._leave_record(self.config)
        self.notifier.send("READY=1")

    def _leave_record(self, config: PipelineConfig) -> None:
        """For commands that ask this instance. It does its work without: they then go by the file."""
        try:
            running.leave(self.places, config, self._stage, self._instance)
        except OSError as error:
            self.log.warning(fields(event="record.failed", reason=error))

    def _report(self, now: float) -> float:
        """STATUS for systemd, once a second."""
        if self.notifier.status_due(now):
            self.notifier.report(vital_of(self.stage, self.outside.held_by), now)
        return self.notifier.next_at

    def _orphaned(self) -> None:
        """The supervisor is gone: nothing is lost by stopping, what is held here is its upstream's."""
        self.log.error(fields(event="supervisor.gone"))
        self.loop.stop(failed=True)

    def _stopped(self, ended: bool) -> None:
        self.outside.mark(ended, self.stage.snapshot(time.monotonic()))
        self.notifier.send("STOPPING=1", "STATUS=stopped, all acked")

    def vitals(self) -> dict[str, Any]:
        read = self.feeder.read if self.feeder is not None else None
        saved, letters = self.loop.saved, self.loop.letters
        deaths = self.workers.deaths if self.workers is not None else {}
        held_by, run = self.outside.held_by, self.places.run
        return process_vitals(run, self.total, saved.finished, held_by, letters.due, read, self.crash, deaths)

    # ---- its life

    def open(self) -> None:
        """Opens the plugin, then lets it work. Does not block."""
        self.store.start()
        start_workers = self.workers.start if self.workers is not None else lambda: None
        self.host.open(start_workers, lambda opened: self.mailbox.post(lambda: self._opened(opened)))

    def _opened(self, opened: Opened | BaseException) -> None:
        if isinstance(opened, BaseException):
            self._fail("open.failed", opened)
            return
        self.loop.saved = opened.saved
        self.total = None if self.replaying else opened.total
        self.stage.opened()
        self.lock.leave_word("ready")
        if self.places.paused(self.stage.me.stage, self.stage.me.instance):
            self.stage.pause(True)
        self.notifier.ready(vital_of(self.stage, self.outside.held_by))
        for outlet in self.config.unread_outlets(self.stage.me.stage):
            hint = "no stage has it as its input: what leaves by it is counted as unrouted, and goes nowhere"
            self.log.warning(fields(event="outlet.unread", outlet=outlet, hint=hint))
        self.log.info(fields(event="ready", plugin=self.settings.plugin, incarnation=self.incarnation, pid=os.getpid()))
        if self.feeder is not None:
            if opened.complete and not self.replaying:
                self.stage.source_ended()
            else:
                self.feeder.start()

    def close(self) -> None:
        """Ends the plugin, the sockets, the store: in this order, so that what the plugin closes can still be stored."""
        if self.feeder is not None:
            self.feeder.close()
        if self.workers is not None:
            self.workers.close()
        if self.stage.state is State.STOPPED:
            self.host.close()
        self.store.close()
        self._letter_log.close()
        self.sockets.close()
        self.traces.close()
        self.notifier.close()
        if self.stage.state is State.STOPPED:
            self.places.end_life(self.stage.me.stage, self.stage.me.instance)
        else:
            self._crash_files.failed(ExitCode.FAILED)
        self.outside.close()
        self._signals.close()
        self.lock.release()


def run_stage(
    config: PipelineConfig,
    stage: str,
    instance: int,
    env: Mapping[str, str],
    fresh: bool = False,
    level: str = "info",
) -> ExitCode:
    """Runs one instance in this process until it is over. Raises OperatorError or PluginError if it cannot start."""
    sys.setswitchinterval(SWITCH_S)
    descriptors.raise_limit()
    places = Places(config, env)
    if places.run and places.marked(stage, instance) is not None:
        return ExitCode.DONE  # it stopped at the end of this run already; its restart has nothing to do
    parts = Instance(config, stage, instance, env, fresh, level)
    collector.tune()
    parts.open()
    try:
        parts.loop.run()
    finally:
        parts.close()
    parts.log.info(fields(event="exit", state=parts.stage.state.value, failed=parts.loop.failed))
    return ExitCode.FAILED if parts.loop.failed else ExitCode.DONE
