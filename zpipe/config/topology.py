"""Checks across stages: whether the stages of a config make a pipeline that can run. Does not belong here: checks of one key by
itself."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from zpipe.config.pipeline_config import Input, PipelineConfig, StageConfig
from zpipe.config.reading.mistakes import MistakeReport
from zpipe.config.reading.values import show_size
from zpipe.core.work.task import DEAD
from zpipe.plugin_loading import Plugin, nearest_name

Stages = Mapping[str, StageConfig]


def check(stages: Stages, plugins: Mapping[str, Plugin], report: MistakeReport) -> None:
    """Reports what is wrong across stages. `plugins` has the plugins that could be loaded, by stage."""
    for stage in stages.values():
        _check_inputs(stage, stages, report)
        _check_room(stage, stages, report)
        _check_outlets(stage, report)
        if plugin := plugins.get(stage.name):
            _check_role(stage, plugin, report)
            _check_batch_plugin(stage, plugin, report)
            _check_workers(stage, plugin, report)
    has_cycle = _check_cycles(stages, report)
    if not any(not one.inputs and not report.has_mistake_at("stages", one.name, "input") for one in stages.values()):
        report.add(("stages",), "has no head: one stage must have no `input`, and a source for its plugin")
    for stage in stages.values():
        _check_batch_queue(stage, report)
    if not has_cycle:
        _check_batch_upstream(stages, report)


def _check_inputs(stage: StageConfig, stages: Stages, report: MistakeReport) -> None:
    seen: set[Input] = set()
    for index, entry in enumerate(stage.inputs):
        path = ("stages", stage.name, "input", index)
        given = str(entry)
        if entry in seen:
            report.add(path, f"names {given} twice", given=given)
        seen.add(entry)
        if entry.stage == stage.name:
            report.add(path, "a stage cannot be its own input", given=given)
        elif entry.stage not in stages:
            others = [name for name in stages if name != stage.name]
            problem = f"there is no stage {entry.stage!r}; stages are {', '.join(stages)}"
            report.add(path, problem, given=given, nearest=nearest_name(entry.stage, others))
        elif (outlets := stages[entry.stage].outlets) is not None and entry.outlet not in ("", DEAD, *outlets):
            has = f"its outlets are {', '.join(outlets)}" if outlets else "it has only the default one"
            problem = f"stage {entry.stage!r} has no outlet {entry.outlet!r}; {has}"
            report.add(path, problem, given=given, nearest=nearest_name(entry.outlet, outlets))


def _check_outlets(stage: StageConfig, report: MistakeReport) -> None:
    if stage.outlets is not None and DEAD in stage.outlets:
        problem = f"plugin {stage.plugin!r} declares an outlet {DEAD!r}, which is that of every stage's dead letters"
        report.add(("stages", stage.name, "plugin"), problem, given=stage.plugin)


def _check_role(stage: StageConfig, plugin: Plugin, report: MistakeReport) -> None:
    if report.has_mistake_at("stages", stage.name, "input") and not stage.inputs:
        return
    if not stage.inputs and not plugin.is_source:
        problem = f"plugin {stage.plugin!r} is not a source: give the stage an `input`, or a source for its plugin"
        report.add(("stages", stage.name), problem)
    elif stage.inputs and plugin.is_source:
        problem = f"plugin {stage.plugin!r} is a source, which takes no input"
        report.add(("stages", stage.name, "input"), problem, given=[i.stage for i in stage.inputs])
    if not stage.inputs and stage.instances > 1 and not stage.traits.divides:
        problem = f"must be 1 in a head stage, not {stage.instances}: each instance would read the whole source"
        report.add(("stages", stage.name, "instances"), problem, given=stage.instances)


def _check_batch_plugin(stage: StageConfig, plugin: Plugin, report: MistakeReport) -> None:
    path = ("stages", stage.name, "batch")
    if stage.batch and not plugin.takes_batches:
        report.add(path, f"plugin {stage.plugin!r} takes no batches (it has no zpipe_process_batch); leave `batch` out")
    elif not stage.batch and plugin.takes_batches and not plugin.takes_messages and not report.has_mistake_at(*path):
        report.add(path, f"is required: plugin {stage.plugin!r} takes only batches")


def _check_workers(stage: StageConfig, plugin: Plugin, report: MistakeReport) -> None:
    path, workers = ("stages", stage.name, "workers"), stage.workers
    if report.has_mistake_at(*path):
        return
    if plugin.is_source and workers.kind == "process":
        problem = f"plugin {stage.plugin!r} is a source, which runs in the stage's own process: leave `kind` out"
        report.add((*path, "kind"), problem, given="process")
    elif (
        not plugin.is_source
        and workers.kind == "thread"
        and workers.timeout_s is not None
        and not plugin.is_called_async(stage.batch is not None)
    ):
        problem = (
            f"cannot be kept: plugin {stage.plugin!r} is not async, and a thread that calls it cannot be stopped; "
            'add kind = "process"'
        )
        report.add((*path, "timeout"), problem, given=f"{workers.timeout_s:g}s")


def _check_room(stage: StageConfig, stages: Stages, report: MistakeReport) -> None:
    upstream = {entry.stage for entry in stage.inputs if entry.stage in stages}
    producers = sum(stages[name].instances for name in upstream)
    path = ("stages", stage.name, "queue", "messages")
    if stage.queue.messages < producers and not report.has_mistake_at(*path):
        problem = f"must be at least {producers}, one for each upstream instance, not {stage.queue.messages}"
        report.add(path, problem, given=stage.queue.messages)


def _check_cycles(stages: Stages, report: MistakeReport) -> bool:
    upstream = {
        name: {i.stage for i in stage.inputs if i.stage in stages and i.stage != name} for name, stage in stages.items()
    }
    order = list(stages)
    found = False
    while True:
        try:
            TopologicalSorter(upstream).prepare()
            return found
        except CycleError as error:
            # Each stage is upstream of the next one. The message begins with the stage that comes first in the file.
            cycle = error.args[1][:-1]
            first = cycle.index(min(cycle, key=order.index))
            cycle = [*cycle[first:], *cycle[:first]]
            path = ("stages", cycle[0], "input", [i.stage for i in stages[cycle[0]].inputs].index(cycle[-1]))
            problem = f"the stages make a cycle: {' -> '.join([*cycle, cycle[0]])}"
            report.add(path, problem, given=cycle[-1])
            # The cycle is opened here, so that the next search finds another one, if there is one.
            upstream[cycle[0]].discard(cycle[-1])
            found = True


def _check_batch_queue(stage: StageConfig, report: MistakeReport) -> None:
    if stage.batch is None:
        return
    batch, queue = stage.batch, stage.queue
    for key, wanted, room, size in (
        ("messages", batch.messages, queue.messages, str),
        ("bytes", batch.bytes, queue.bytes, show_size),
    ):
        path = ("stages", stage.name, "batch", key)
        if (
            wanted > room
            and not report.has_mistake_at(*path)
            and not report.has_mistake_at("stages", stage.name, "queue")
        ):
            problem = f"{size(wanted)} can never fill: queue.{key} holds {size(room)}"
            report.add(path, problem, given=wanted)


def _check_batch_upstream(stages: Stages, report: MistakeReport) -> None:
    """A batch acks its inputs only when it is done. So every stage before it must be allowed as many unacked messages as a batch
    has."""
    if any(report.has_mistake_at("stages", name, key) for name in stages for key in ("input", "unacked", "instances")):
        return
    for name, (arriving, narrow) in _unacked_before(stages).items():
        batch, path = stages[name].batch, ("stages", name, "batch", "messages")
        if batch is not None and batch.messages > arriving and not report.has_mistake_at(*path):
            problem = f"{batch.messages} can never fill: {_bounds(narrow)} lets {arriving} be unacked at once"
            report.add(path, problem, given=batch.messages)


def _unacked_before(stages: Stages) -> dict[str, tuple[int, frozenset[str]]]:
    """For each stage with inputs: how many messages on their way to it can be unacked at once, and the stages whose bounds limit
    that."""
    found: dict[str, tuple[int, frozenset[str]]] = {}
    most: dict[str, tuple[int, frozenset[str]]] = {}
    for name in TopologicalSorter({s.name: {i.stage for i in s.inputs} for s in stages.values()}).static_order():
        stage = stages[name]
        own = stage.unacked.messages * stage.instances
        upstream = [most[u] for u in {i.stage for i in stage.inputs}]
        arriving = sum(count for count, _ in upstream)
        narrow = frozenset[str]().union(*(names for _, names in upstream))
        most[name] = (arriving, narrow) if upstream and arriving < own else (own, frozenset([name]))
        if upstream:
            found[name] = arriving, narrow
    return found


def _bounds(stages: frozenset[str]) -> str:
    return ", ".join(f"stages.{name}.unacked.messages" for name in sorted(stages))


# ---- what is allowed, but is most likely not meant


def _foreign_on_hosts(config: PipelineConfig, stage: StageConfig) -> str:
    """What a program has to do itself where a pipeline has several hosts; "" where it has one."""
    if not stage.listen:
        return ""
    keys = ", with the key of ZPIPE_KEY_FILE" if config.has_keys else ""
    names = [entry.stage for entry in stage.inputs] + [name for _, name in config.consumers(stage.name)]
    own, beside = set(stage.hosts), {host for name in names for host in config.stages[name].hosts}
    others = sorted(beside - own if len(own) == 1 else beside | own)
    if not others:
        return f"is seen on its own host only, unless its program binds what `listen` says{keys}"
    does = f"its program has to bind what `listen` says, and to connect to them, over tcp{keys}"
    cure = "the examples in C and Node do not, so keep such a stage on one host with those beside it"
    return f"meets stages on other hosts ({', '.join(others)}): {does}; {cure}"


def advise(config: PipelineConfig, report: MistakeReport) -> None:
    """Adds warnings to `report`: mistakes that stop nothing. The config must have been loaded with its plugins."""
    for stage in config.stages.values():
        path = ("stages", stage.name)
        if stage.command and (problem := _foreign_on_hosts(config, stage)):
            report.add((*path, "command"), f"{problem} (PROTOCOL.md, section 16)")
        readers = [config.stages[name] for _, name in config.consumers(stage.name)]
        if stage.buffer is not None and all(reader.link is not None for reader in readers):
            why = "what reads from it does so over a cluster, which stores it" if readers else "no stage reads from it"
            report.add((*path, "buffer"), f"stores nothing: {why}")
        if not stage.inputs and all(outlet == DEAD for outlet, _ in config.consumers(stage.name)):
            report.add(path, "is a head that no stage reads: its messages go nowhere")
        for index, entry in enumerate(stage.inputs):
            if config.stages[entry.stage].traits.is_sink and entry.outlet != DEAD:
                sink = f"stage {entry.stage!r} is a sink (plugin {config.stages[entry.stage].plugin!r})"
                report.add((*path, "input", index), f"{sink}: nothing ever comes out of it", given=entry.stage)
        for outlet in config.unread_outlets(stage.name):
            problem = (
                f'no stage reads the outlet {outlet!r} of {stage.name!r} (input = "{stage.name}.{outlet}"): '
                "what leaves by it is counted as unrouted, and goes nowhere"
            )
            report.add(path, problem, given=outlet)
    for name, (arriving, narrow) in _unacked_before(config.stages).items():
        stage = config.stages[name]
        kept = stage.link is not None or any(config.stages[one].buffer is not None for one in narrow)
        if stage.batch is not None and stage.batch.messages == arriving and not kept:
            problem = (
                f"{arriving} is as many as {_bounds(narrow)} lets be unacked at once: nothing more comes while a batch is worked "
                "on. Let twice as many be unacked, and make `queue` as large, or the batch smaller"
            )
            report.add(("stages", name, "batch", "messages"), problem, given=arriving)
