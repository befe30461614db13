"""One instance: its parts made from its config and joined, started, run and ended.

This is the only module that knows every part of the daemon. Each part gets what it needs by its constructor. Must not live here:
what a part does.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zpipe import plugin_loading
from zpipe.config import PipelineConfig
from zpipe.core import events
from zpipe.core.downstream.outlet_sessions import HIGH_WATER_SLACK
from zpipe.core.lifecycle import State
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.wire.peer_address import as_ip, tcp_parts
from zpipe.core.work.task import DEAD, Chunk, Result, Task
from zpipe.daemon import event_record
from zpipe.daemon.discovery import Discovery
from zpipe.daemon.event_record import RecordedStage
from zpipe.daemon.links.disk_buffers import DiskBuffers
from zpipe.daemon.loop import LinkShell, Loop, Part
from zpipe.daemon.loop_handover import Handover
from zpipe.daemon.mailbox import Mailbox
from zpipe.daemon.outages import Outage
from zpipe.daemon.plugin import traces
from zpipe.daemon.plugin.async_thread import AsyncSource, AsyncThread
from zpipe.daemon.plugin.plugin_host import Opened, PluginHost
from zpipe.daemon.plugin.service_wait import ServiceWait
from zpipe.daemon.plugin.source_thread import SourceThread, not_read
from zpipe.daemon.plugin.wrapping import wrapped
from zpipe.daemon.reload import reload
from zpipe.daemon.service.health import Health
from zpipe.daemon.service.limited_log import LimitedLog
from zpipe.daemon.service.process_memory import tune_garbage_collector
from zpipe.daemon.service.refusals import Refusals
from zpipe.daemon.service.sdnotify import Notifier, ServiceStatus
from zpipe.daemon.service.status import process_figures, status_of
from zpipe.daemon.stage_policy import hold_refusal, stage_policy
from zpipe.daemon.storage.dead_letter_log import DeadLetterLog
from zpipe.daemon.storage.dead_letter_store import DeadLetterStore
from zpipe.daemon.storage.last_life import LastLifeFiles
from zpipe.daemon.storage.position_writer import PositionWriter
from zpipe.daemon.storage.store import Store
from zpipe.daemon.workers.pool import Pool, make_pool
from zpipe.daemon.workers.thread_pool import ThreadPool
from zpipe.errors import ExitCode, OperatorError, PluginError
from zpipe.folders import instance_name, make_private, remove
from zpipe.hookspecs import Context, Holds
from zpipe.runtime import environment, file_descriptors, locks, logs, running_pipelines, this_host
from zpipe.runtime.exception_text import reason_of
from zpipe.runtime.logs import fields
from zpipe.runtime.places import Places, RemoteAddresses
from zpipe.runtime.signals import FOLDER_CHANGED, Signals
from zpipe.transport import keyring
from zpipe.transport.sockets import Bound, Sockets

if TYPE_CHECKING:
    from zpipe.daemon.links.jetstream_links import JetStreamLinks

SWITCH_S = 0.0005
"""The loop's thread gets the interpreter after at most this much of a busy plugin. Python's default of 5 ms is ten times the
latency of three stages."""


class Instance:
    """The parts of one running instance. Raises OperatorError or PluginError if it cannot be made."""

    def __init__(
        self,
        config: PipelineConfig,
        stage: str,
        instance: int,
        env: Mapping[str, str],
        fresh: bool,
        level: str,
        record: Path | None,
    ) -> None:
        self._config = config
        self._env = env
        self._settings = config.stages[stage]
        self._number = instance
        self._incarnation = os.urandom(6).hex()
        self._replaying = env.get(environment.REPLAY) == "1"
        self._total: int | None = None
        self._stop_signals = 0
        self._host = config.host_of(stage, instance)
        if self._host:  # the config says on which host an instance is, not the name of this machine
            env = self._env = {**env, environment.HOST: self._host}
        self._places = Places(config, env)
        self._pair = keyring.pair_from(this_host.own_key(config, env, self._host), self._host) if self._host else None
        self._lock = locks.InstanceLock(
            self._places.runtime(stage, instance), instance_name(config.name, stage, instance)
        )
        self.log = logs.start(f"{stage}.{instance}", level, env)
        self._record = event_record.begin(record, self.log) if record is not None else None
        self._open_state(fresh)
        self._leave_record(config)
        self._context = self._make_context()
        self._traces = traces.start(config, self._context, self.log)
        self._async_thread = AsyncThread(self.log)
        self._service_wait = ServiceWait(self.log, self._settings.plugin)
        self._plugin_host = self._make_plugin_host()
        self._mailbox = Mailbox()
        self._sockets = Sockets(self._pair, keyring.trusted_by(config, stage))
        self._limited_log = LimitedLog(self.log)
        public = self._pair.public if self._pair is not None else ""
        self._refusals = Refusals(config, self._host, public, stage, self._limited_log)
        os.register_at_fork(after_in_child=self._sockets.leave_to_parent)
        self.stage = self._make_stage()
        if fresh:
            self._buffers.say_kept()
        self._link_shells = self._make_link_shells()
        self._source = self._make_source()
        self._output_room = threading.Event()
        self._handover = Handover()
        os.register_at_fork(after_in_child=self._handover.leave_to_parent)
        self._workers = self._make_workers()
        self._letter_log = DeadLetterLog(self.log, logs.is_terminal(env))
        self._dead_letters = DeadLetterStore(
            self.stage, self._store, self._mailbox, self._last_life, self.log, self._letter_log
        )
        self._position_writer = PositionWriter(
            self._store,
            self._mailbox,
            Outage(self.log, "position.unwritten", "position.written", f"cannot write {self._store.path}"),
            completed_by=lambda: self._places.run or self._incarnation,
            stored=lambda count, ended: self._tell(events.PositionStored(count, ended)),
            committed=self._plugin_host.committed,
        )
        outages = [self._position_writer.outage, self._dead_letters.outage, self._service_wait.outage]
        outages += self._buffers.outages
        self._health = Health(self._places, self._lock, self.stage.me, self.log, outages, self._fail)
        self._notifier = Notifier(env, self._status)
        self._signals = Signals()
        self._signals.watch_folder(self._places.root)
        watch = self._signals.watch_folder
        self._discovery = Discovery(self._config, self._places, self.stage, self._sockets, watch)
        self.loop = self._make_loop()
        os.register_at_fork(after_in_child=self.loop.leave_to_parent)

    # ---- making the parts

    def _open_state(self, fresh: bool) -> None:
        """Opens what earlier lives have left in the state folder."""
        stage, instance = self._settings.name, self._number
        folder, plugin_folder = self._places.state(stage, instance), self._places.plugin_state(stage, instance)
        make_private(folder)
        cut_short = self._places.begin_life(stage, instance)
        self._store = Store(folder)
        self._last_life_files = LastLifeFiles(folder)
        self._last_life = self._last_life_files.found(self._env, cut_short)
        self._last_life.write_to(self.log)
        if fresh:
            self._store.forget_position()
            remove(plugin_folder)
        make_private(plugin_folder)

    def _make_context(self) -> Context:
        config, settings = self._config, self._settings
        return Context(
            pipeline=config.name,
            stage=settings.name,
            instance=self._number,
            incarnation=self._incarnation,
            options=settings.options,
            config_dir=config.folder,
            state_dir=self._places.plugin_state(settings.name, self._number),
            log=self.log.getChild("plugin"),
            last=not any(outlet != DEAD for outlet, _ in config.consumers(settings.name)),
            batching=settings.batch is not None,
            instances=settings.instances,
            holds=Holds(refusal=hold_refusal(settings)),
        )

    def _make_plugin_host(self) -> PluginHost:
        plugin = plugin_loading.load(self._settings.plugin, self._config.folder).in_stage(
            has_input=bool(self._settings.inputs)
        )
        plugin = wrapped(plugin, self._settings.use, self._context)
        in_process = self._settings.workers.kind == "thread"
        return PluginHost(
            plugin,
            self._context,
            self._store,
            self._places.run,
            self.log,
            self._async_thread,
            self._service_wait,
            in_process,
        )

    def _make_jetstream_links(self) -> JetStreamLinks | None:
        """None if the instance has none: then their modules are not imported."""
        config, me = self._config, (self._settings.name, self._number)
        ends = [me[0], *(consumer for _, consumer in config.consumers(me[0]))]
        if not any(config.stages[name].link is not None for name in ends):
            return None
        from zpipe.daemon.links.jetstream_links import JetStreamLinks

        return JetStreamLinks(config, me, self._incarnation, self._places.run, self._last_life.suspects)

    def _make_link_shells(self) -> dict[str, LinkShell]:
        jetstream = self._jetstream.shells(self.stage, self._mailbox) if self._jetstream is not None else {}
        return {**self._buffers.shells(self.stage), **jetstream}

    def _make_stage(self) -> Stage:
        config, settings = self._config, self._settings
        policy = replace(
            stage_policy(config, settings, self._places.root, self._plugin_host.plugin.hooks, self._host),
            leaves_stored=self._env.get(environment.LEAVE_BUFFERS) == "1",
        )
        folder = self._places.state(settings.name, self._number)
        self._buffers = DiskBuffers(config, settings.name, policy, folder, self._mailbox, self.log)
        self._jetstream = self._make_jetstream_links()
        addresses = self._places.addresses(settings.name, self._number)
        address = self._places.inbox(settings.name, self._number, self._incarnation)
        high_water_mark = settings.queue.messages + HIGH_WATER_SLACK
        remote = self._places.remote(settings.name, self._number)
        inbox = self._sockets.bind(
            address,
            addresses.feedback,
            addresses.control,
            high_water_mark,
            _bound(remote) if remote else None,
            settings.queue.bytes,
        )
        make_stage: Callable[..., Stage] = Stage if self._record is None else partial(RecordedStage, self._record)
        return make_stage(
            Identity(
                config.name, settings.name, self._number, self._incarnation, inbox, remote.inbox if remote else ""
            ),
            [(i.stage, i.outlet) for i in settings.inputs],
            config.consumers(settings.name),
            policy,
            time.monotonic(),
            random_bytes=os.urandom,
            jitter=random.random,
            process_figures=self._process_figures,
            suspects=self._last_life.suspects,
            silent=self._replaying,
            remote=[
                key
                for entry in settings.inputs
                for key in ((entry.stage, n) for n in range(1, config.stages[entry.stage].instances + 1))
                if self._places.other_host(*key)
            ],
            outgoing=[*self._buffers.outgoing, *(self._jetstream.outgoing if self._jetstream is not None else ())],
            incoming=self._jetstream.incoming if self._jetstream is not None else (),
        )

    def _make_source(self) -> SourceThread | None:
        if not self._plugin_host.plugin.is_source:
            return None
        outlets, plugin = self._config.outlets(self._settings.name), self._plugin_host.plugin
        hooks, interrupt = plugin.hooks, _nothing
        if "zpipe_source" in plugin.is_async:
            source = AsyncSource(hooks["zpipe_source"], self._async_thread)
            hooks, interrupt = {**hooks, "zpipe_source": source}, source.interrupt
        hook = not_read if self._replaying else self._traces.hooks(hooks)["zpipe_source"]
        wake, turn, failed = self._mailbox.wake, self._turn_for_source, self._source_failed
        singly = "zpipe_ack" in plugin.hooks
        waits = self._service_wait
        return SourceThread(hook, self._context, self.stage, outlets, wake, turn, failed, waits, interrupt, singly)

    def _make_workers(self) -> Pool | None:
        if self._plugin_host.plugin.is_source:
            return None
        policy = self.stage.policy
        calls = self._last_life_files.begin(policy.workers)
        return make_pool(
            self._config,
            self._plugin_host.plugin,
            self._context,
            policy.link,
            calls,
            self._emitted,
            self._done,
            self._done_here,
            self.log,
            self._handover,
            self._async_thread,
        )

    def _make_loop(self) -> Loop:
        parts: list[Part] = [self._position_writer, self._dead_letters, self._discovery, self._notifier, self._health]
        parts.append(self._service_wait)
        watched = {self._signals.fd: self._signalled}
        if self._env.get(environment.SUPERVISED):
            watched[sys.stdin.fileno()] = self._supervisor_gone
        return Loop(
            self.stage,
            self._sockets,
            self._mailbox,
            self._workers,
            self._source,
            self._output_room,
            self._position_writer,
            self._dead_letters,
            self._health,
            self._stopped,
            self._plugin_host.acked,
            parts,
            watched,
            self.log,
            self._limited_log,
            self._refusals,
            self._handover,
            self._workers if isinstance(self._workers, ThreadPool) else None,
            self._link_shells,
        )

    # ---- called on other threads: they touch nothing and only post

    def _emitted(self, task: Task, chunks: list[Chunk]) -> None:
        """Blocks until the core has the chunks, and there is room for more."""
        taken = threading.Event()

        def take() -> None:
            self._tell(events.OutputsEmitted(task, chunks))
            self._mailbox.post(taken.set)  # runs in the next turn: this one still has to set `output_room`

        self._mailbox.post(take)
        taken.wait()
        self._output_room.wait()

    def _done(self, task: Task, result: Result) -> None:
        self._traces.done(task, result)
        self._mailbox.post(lambda: self._came_back(task, result))

    def _source_failed(self, error: BaseException) -> None:
        self._mailbox.post(lambda: self._end_source(error))

    # ---- called by the thread that drives the loop, or takes a turn of it

    def _tell(self, event: events.Event) -> None:
        self.stage.handle(event, time.monotonic())

    def _turn_for_source(self) -> None:
        self.loop.turn_for_source()

    def _done_here(self, task: Task, result: Result) -> None:
        self._traces.done(task, result)
        self._came_back(task, result)

    def _came_back(self, task: Task, result: Result) -> None:
        if self._health.fails(task, result):
            self._lock.note_state(locks.CANNOT_GO_ON)
        else:
            self._tell(events.CallFinished(task, result))

    def _end_source(self, error: BaseException) -> None:
        if isinstance(error, OperatorError):  # it would fail again after a restart
            self._lock.note_state(locks.CANNOT_GO_ON)
        self._fail("source.failed", error)

    def _fail(self, event: str, error: BaseException) -> None:
        known = isinstance(error, OperatorError | PluginError)
        reason = str(error) if known else reason_of(error)
        self.log.error(
            fields(event=event, plugin=self._settings.plugin, reason=reason), exc_info=None if known else error
        )
        self._tell(events.Failed())

    def _signalled(self) -> None:
        for number in self._signals.read():
            if number == signal.SIGHUP:
                self._reload()
                continue
            if number == FOLDER_CHANGED:
                self._discovery.look_soon()
                continue
            self._stop_signals += 1
            if self._stop_signals > 1:
                self.log.warning(fields(event="stop.now", signal=number.name, held=self.stage.held_messages))
                self.loop.stop(failed=True)
                return
            hint = "once more stops now: what is not finished is not acked"
            self.log.info(fields(event="leaving", signal=number.name, hint=hint))
            self._tell(events.OrderGiven("leave"))

    def _reload(self) -> None:
        """SIGHUP: takes over what can change while running, and logs what cannot."""
        self._notifier.reloading()
        self._config = reload(self._config, self._env, self.stage, self.log)
        self._refusals.trust(self._config)
        for session in self._sockets.trust(keyring.trusted_by(self._config, self._settings.name)):
            self._tell(events.SessionLost(session))
        self._leave_record(self._config)
        self._notifier.reloaded()

    def _leave_record(self, config: PipelineConfig) -> None:
        """Leaves the config where commands that ask this instance find it. If that fails, they go by the config file."""
        try:
            running_pipelines.write_record(self._places, config, self._settings.name, self._number)
        except OSError as error:
            self.log.warning(fields(event="config_record.unwritten", reason=error))

    def _supervisor_gone(self) -> None:
        """Stops at once. Nothing is lost: upstream still answers for what is held here."""
        self.log.error(fields(event="supervisor.gone"))
        self.loop.stop(failed=True)

    def _stopped(self, ended: bool) -> None:
        self._health.mark_stopped(ended, self.stage.snapshot(time.monotonic()))
        self._notifier.stopping()

    def _status(self) -> ServiceStatus:
        return status_of(self.stage, self._held_by)

    @property
    def _held_by(self) -> str:
        return self._health.held_by or (self._jetstream.held_by if self._jetstream is not None else "")

    def _process_figures(self) -> dict[str, Any]:
        return process_figures(
            run=self._places.run,
            total=self._total,
            finished_before=self._position_writer.finished_before,
            held_by=self._held_by,
            replay_due=self._dead_letters.replay_due,
            read=self._source.read if self._source is not None else None,
            last_life=self._last_life,
            worker_deaths=self._workers.deaths if self._workers is not None else {},
            worker_pids=self._workers.pids if self._workers is not None else (),
            refusals=self._refusals.figures(self._unreached()),
            plugin_metrics=self._context.metrics.figures(),
        )

    def _unreached(self) -> dict[tuple[str, int], tuple[str, float]]:
        """The address of each upstream instance whose end is awaited and that is not connected, and for how many seconds."""
        awaited = self.stage.peers.waiting_for()
        found = self._sockets.unreached().items()
        return {peer: of for peer, of in found if peer[0] in awaited or f"{peer[0]}.{peer[1]}" in awaited}

    # ---- its life

    def open(self) -> None:
        """Opens the plugin, then lets it work. Does not block."""
        self._store.start()
        for shell in self._link_shells.values():
            shell.start()
        start_workers = self._workers.start if self._workers is not None else lambda: None
        self._plugin_host.open(start_workers, lambda opened: self._mailbox.post(lambda: self._opened(opened)))

    def _opened(self, opened: Opened | BaseException) -> None:
        if isinstance(opened, BaseException):
            self._fail("open.failed", opened)
            return
        self._position_writer.go_on_from(opened.saved)
        self._total = None if self._replaying else opened.total
        self._tell(events.Opened())
        self._lock.note_state(locks.READY)
        if self._places.paused(self._settings.name, self._number):
            self._tell(events.OrderGiven("pause"))
        self._notifier.ready()
        for outlet in self._config.unread_outlets(self._settings.name):
            hint = "no stage has it as its input: what leaves by it is counted as unrouted, and goes nowhere"
            self.log.warning(fields(event="outlet.unread", outlet=outlet, hint=hint))
        self.log.info(
            fields(event="ready", plugin=self._settings.plugin, incarnation=self._incarnation, pid=os.getpid())
        )
        if self._source is not None:
            if opened.complete and not self._replaying:
                self._tell(events.SourceEnded())
            else:
                # In the next turn: at the end of this one the source of a paused stage is told that it has no room.
                self._mailbox.post(self._source.start)

    def close(self) -> None:
        """Ends the plugin, the store, the sockets: in this order, so that what the plugin closes can still be stored."""
        if self._source is not None:
            self._source.close()
        if self._workers is not None:
            self._workers.close()
        if self.stage.state is State.STOPPED:
            self._plugin_host.close()
        if self._record is not None:
            self._record.close()
        self._store.close()
        self._async_thread.close()
        self._letter_log.close()
        for shell in self._link_shells.values():
            shell.close()
        self._sockets.close()
        self._traces.close()
        self._notifier.close()
        if self.stage.state is State.STOPPED:
            self._places.end_life(self._settings.name, self._number)
        else:
            self._last_life_files.failed(ExitCode.FAILED)
        self._health.close()
        self._signals.close()
        self._lock.release()


def _nothing() -> None:
    """The `interrupt` of a source that is not async: such a source looks at `context.stopping` by itself."""


def _bound(remote: RemoteAddresses) -> Bound:
    """Where the sockets for other hosts are bound: at this host's address if the config gives an IP address. A name may stand for
    loopback here, or for another address tomorrow, so with a name they are bound at every address of the machine."""
    wanted = (remote.inbox, remote.feedback, remote.control)
    return Bound(*(text if as_ip((parts := tcp_parts(text))[0]) else f"tcp://*:{parts[1]}" for text in wanted))


def run_stage(
    config: PipelineConfig,
    stage: str,
    instance: int,
    env: Mapping[str, str],
    fresh: bool,
    level: str,
    record: Path | None,
) -> ExitCode:
    """Runs one instance in this process until it is over, with its events kept in the file `record`. Raises OperatorError or
    PluginError if it cannot start."""
    sys.setswitchinterval(SWITCH_S)
    file_descriptors.raise_limit()
    places = Places(config, env)
    if places.run and places.stopped_at_end(stage, instance) is not None:
        return ExitCode.DONE  # it stopped at the end of this run already; its restart has nothing to do
    running = Instance(config, stage, instance, env, fresh, level, record)
    tune_garbage_collector()
    running.open()
    try:
        running.loop.run()
    finally:
        running.close()
    running.log.info(fields(event="exit", state=running.stage.state.value, failed=running.loop.failed))
    return ExitCode.FAILED if running.loop.failed else ExitCode.DONE
