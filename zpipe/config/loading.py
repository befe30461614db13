"""Reads a config file into a checked PipelineConfig, or reports all of its mistakes at once. Does not belong here: what one
key allows."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zpipe import folders, plugin_loading
from zpipe.config import addresses, hosts, jetstream_table, topology, trusted_keys
from zpipe.config.pipeline_config import PipelineConfig, StageConfig, Use, Workers
from zpipe.config.plugin_options import fill
from zpipe.config.reading import values
from zpipe.config.reading.key_lines import KeyPath, key_lines
from zpipe.config.reading.mistakes import MistakeReport, dotted, shown
from zpipe.config.reading.table_reader import TableReader
from zpipe.config.reading.variable_expansion import UNSET, credential_names, expand, secrets
from zpipe.config.stage_table import read_stage
from zpipe.core.policy import LinkPolicy, StagePolicy
from zpipe.errors import ConfigError, Mistake, OperatorError, PluginError, install_command
from zpipe.plugin_loading import Plugin

_OPENTELEMETRY = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def load(
    path: Path | str,
    *,
    env: Mapping[str, str] = os.environ,
    only: str | None = None,
    ask_plugins: bool = True,
    text: str | None = None,
) -> PipelineConfig:
    """The pipeline that the file describes. Raises ConfigError with every mistake in it.

    only         the one stage whose plugin is imported; "" for none. The options of all other stages stay None, and checks that
                 need a plugin are made for this stage only. A daemon does not need the plugins of its neighbours.
    ask_plugins  also let each plugin check its own options, which may import the user's code
    text         what the file says, where it need not be read
    """
    file, path = str(path), Path(path).absolute()
    text = _read(file, path) if text is None else text
    raw = _parse(file, text)
    report = MistakeReport(file, key_lines(text))
    raw = expand(
        raw, env, path.parent, lambda where, problem, given: report.add(where, problem, given=given), unread(only)
    )
    report.hide(secrets(raw), text)
    config = replace(_pipeline(TableReader(report, (), raw), path, env), text=text)
    loaded = _plugins(config, only, report)
    if config.traces and only != "" and not _is_installed(*_OPENTELEMETRY):
        report.add(("telemetry", "traces"), f"needs OpenTelemetry: {install_command('otel')}", given=config.traces)
    stages = {}
    for name, stage in config.stages.items():
        stage = _with_plugin(stage, loaded.get(name), raw["stages"][name], report)
        if stage.use and only in (None, name):
            stage = replace(stage, use=_read_uses(stage, raw["stages"][name], config.folder, report))
        stages[name] = _with_traits(stage, loaded.get(name), config.folder, ask_plugins, report)
        if stage.use and only in (None, name) and not report.mistakes:
            stages[name] = _with_traits_of_uses(stages[name], config.folder, ask_plugins, report)
    if stages:
        topology.check(stages, loaded, report)
        jetstream_table.check(stages, config.insecure, runs=only != "", report=report)
    try:
        addresses.check(config.name, stages.values(), config.insecure, env, report)
    except OperatorError as error:
        report.add((), str(error))
    if report.mistakes:
        raise ConfigError(report.mistakes)
    return replace(config, stages=jetstream_table.with_network(stages))


def report_for(config: PipelineConfig, file: str, env: Mapping[str, str]) -> MistakeReport:
    """A new report for a config that was loaded: it knows the lines, and hides the values that came from `env`.

    file  the path as the user named it
    """
    report = MistakeReport(file, key_lines(config.text))
    raw = expand(_parse(file, config.text), env, config.folder, lambda where, problem, given: None)
    report.hide(secrets(raw), config.text)
    return report


def unread(only: str | None) -> Callable[[KeyPath], bool]:
    """Which strings of a config are not expanded where the plugins of one stage are loaded (None: of all): the options of the
    other stages. What these refer to may be given to their instances alone."""

    def skip(path: KeyPath) -> bool:
        match path:
            case ("stages", stage, "options", *_):
                return only not in (None, stage)
            case ("security", "nats", *_):
                return only == ""
            case ("stages", stage, "use", *inner):
                return only not in (None, stage) and "options" in inner[:2]
            case _:
                return False

    return skip


def credentials_for(config: PipelineConfig, stage: str) -> list[str]:
    """The credentials that an instance of the stage reads; with "", those that whoever loads no plugin does."""
    return credential_names(tomllib.loads(config.text), unread(stage))


def read_options(
    text: str, path: Path, env: Mapping[str, str], stage: str, plugin: Plugin
) -> tuple[Any, tuple[Use, ...]]:
    """The options of one stage, and what it uses, from the text of a config that was checked before. A worker process reads
    them this way.

    Raises ConfigError if they are wrong now, because the environment or the plugin has changed.
    """
    report = MistakeReport(str(path), key_lines(text))
    raw = expand(_parse(str(path), text), env, path.parent, lambda where, problem, given: None, unread(stage))
    report.hide(secrets(raw), text)
    stages = raw["stages"]
    config = read_stage(stage, TableReader(report, ("stages", stage), stages[stage]))
    options = _options(config, plugin, stages[stage], report)
    uses = _read_uses(config, stages[stage], path.parent, report) if config.use else ()
    if report.mistakes:
        raise ConfigError(report.mistakes)
    return options, uses


def _read(file: str, path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        near = plugin_loading.nearest_name(path.name, (p.name for p in path.parent.glob("*.toml")))
        nearest = near if isinstance(error, FileNotFoundError) else ""
        raise ConfigError([Mistake(file, 0, "", None, problem, nearest)]) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problem = f"is not UTF-8: byte 0x{error.object[error.start]:02x}"
        raise ConfigError([Mistake(file, line, "", None, problem)]) from error


def _parse(file: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _TOML_PLACE.search(message)
        line = int(place.group(1) or text.count("\n") + 1) if place else 0
        problem = f"is not TOML: {_TOML_PLACE.sub('', message)}"
        if "Cannot overwrite" in message or "twice" in message:
            problem += " (a key or a table stands here a second time)"
        given = text.split("\n")[line - 1].strip() if line else None
        raise ConfigError([Mistake(file, line, "", given, problem)]) from error
    except RecursionError as error:
        raise ConfigError([Mistake(file, 0, "", None, "is nested too deeply")]) from error


def _pipeline(top: TableReader, path: Path, env: Mapping[str, str]) -> PipelineConfig:
    pipeline, stages = top.table("pipeline"), top.table("stages")
    telemetry, security = top.table("telemetry"), top.table("security")
    name = pipeline.require("name", values.name, "pipeline")
    port = pipeline.get("port", values.whole_number(most=65535), PipelineConfig.port)
    insecure = security.get("insecure", values.boolean, False)
    trusted = _trusted(top, path, env)
    machines = hosts.read_hosts(top.table("hosts"), trusted)
    config = PipelineConfig(
        name=name,
        path=path,
        stages=hosts.place(_stages(stages), machines, trusted, port, insecure, top.report),
        interval_s=telemetry.get("interval", values.duration(), StagePolicy().interval_s),
        peer_timeout_s=pipeline.get("peer_timeout", values.duration(), LinkPolicy().peer_timeout_s),
        insecure=insecure,
        hosts=machines,
        port=port,
        nats=jetstream_table.read_security(security.table("nats"), path.parent),
        log_level=telemetry.get("log_level", values.log_level, "info"),
        traces=telemetry.get("traces", values.url, PipelineConfig.traces),
        trace_rate=telemetry.get("trace_rate", values.rate, PipelineConfig.trace_rate),
        prometheus=telemetry.get("prometheus", values.address, PipelineConfig.prometheus),
    )
    pipeline.report_unknown_keys()
    telemetry.report_unknown_keys()
    security.report_unknown_keys()
    top.report_unknown_keys()
    return config


def _trusted(top: TableReader, path: Path, env: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The public keys that are kept beside the private ones. A pipeline without hosts needs none."""
    if "hosts" not in top:
        return {}
    try:
        return trusted_keys.read(folders.keys_folder(env, path))
    except (ValueError, OperatorError) as error:
        top.report.add(("hosts",), str(error))
        return {}


def _stages(table: TableReader) -> dict[str, StageConfig]:
    if not table.values and not table.report.has_mistake_at("stages"):
        table.report.add(("stages",), "has no stages: at least one [stages.NAME] is required")
    found = {}
    for name in table.values:
        try:
            values.name(name)
        except ValueError as problem:
            table.report.add((*table.path, name), f"the name of a stage {problem}", given=name)
        if isinstance(table.values[name], dict):
            found[name] = read_stage(name, table.table(name))
        else:
            table.table(name)
    return found


def _plugins(config: PipelineConfig, only: str | None, report: MistakeReport) -> dict[str, Plugin]:
    """The plugins that could be loaded, by stage. A plugin that several stages name is imported once."""
    loaded: dict[str, Plugin | PluginError] = {}
    found = {}
    for stage in config.stages.values():
        if not stage.plugin or only not in (None, stage.name):
            continue
        if stage.plugin not in loaded:
            try:
                loaded[stage.plugin] = plugin_loading.load(stage.plugin, config.folder)
            except PluginError as error:
                loaded[stage.plugin] = error
        result = loaded[stage.plugin]
        if isinstance(result, Plugin):
            found[stage.name] = result.in_stage(has_input=bool(stage.inputs))
        else:
            report.add(("stages", stage.name, "plugin"), str(result), given=stage.plugin)
    return found


def _with_traits(
    stage: StageConfig, plugin: Plugin | None, folder: Path, problems: bool, report: MistakeReport
) -> StageConfig:
    """The stage with the traits that its plugin declares. With `problems`, the plugin also says what is wrong with its
    options, which have the right types by then."""
    path = ("stages", stage.name, "options")
    if plugin is None or report.has_mistake_at(*path):
        return stage
    try:
        for option, problem in plugin.problems(stage.options, folder) if problems else ():
            report.add((*path, option), problem, given=getattr(stage.options, option, None))
        return replace(stage, traits=plugin.traits(stage.options, folder))
    except PluginError as error:
        report.add(("stages", stage.name, "plugin"), str(error), given=stage.plugin)
        return stage


def _is_installed(*modules: str) -> bool:
    """Whether the modules can be found. They are not imported: only a daemon needs that."""
    try:
        return all(find_spec(module) is not None for module in modules)
    except ImportError:  # the package that one of them is in cannot be imported
        return False


def _with_plugin(
    stage: StageConfig, plugin: Plugin | None, raw: Mapping[str, Any], report: MistakeReport
) -> StageConfig:
    """The stage with what depends on its plugin: options, outlets and the number of workers."""
    if stage.command:
        return stage
    if plugin is not None:
        _check_hooks(stage, plugin, raw, report)
    options = _options(stage, plugin, raw, report)
    known = plugin is not None and (options is not None or plugin.options_type is None)
    outlets = _outlets(stage, plugin, options, report) if plugin is not None and known else None
    return replace(stage, options=options, outlets=outlets, workers=_workers(stage, plugin))


def _read_uses(stage: StageConfig, raw: Mapping[str, Any], folder: Path, report: MistakeReport) -> tuple[Use, ...]:
    """What the stage uses, with its options. Only what has mistakes, which are then in the report, is left without."""
    given = raw["use"] if isinstance(raw["use"], list) else [raw["use"]]
    if len(given) != len(stage.use):
        return stage.use  # some could not be read
    found = []
    for index, (use, entry) in enumerate(zip(stage.use, given, strict=True)):
        path = ("stages", stage.name, "use", index)
        options = entry.get("options", {}) if isinstance(entry, dict) else {}
        try:
            plugin = plugin_loading.load(use.plugin, folder)
        except PluginError as error:
            report.add(path, str(error), given=use.plugin)
            continue
        if not plugin.is_wrapper:
            report.add(path, f"plugin {use.plugin!r} is none to be used beside another: it has no zpipe_wrap")
        elif plugin.options_type is not None:
            use = replace(use, options=fill(plugin.options_type, options, (*path, "options"), report))
        elif options:
            report.add((*path, "options"), f"plugin {use.plugin!r} takes no options", given=options)
        found.append(use)
    return tuple(found)


def _with_traits_of_uses(stage: StageConfig, folder: Path, problems: bool, report: MistakeReport) -> StageConfig:
    """What is used needs a network, or writes, in the stage's process."""
    traits = stage.traits
    for index, use in enumerate(stage.use):
        path = ("stages", stage.name, "use", index)
        try:
            plugin = plugin_loading.load(use.plugin, folder)
            for option, problem in plugin.problems(use.options, folder) if problems else ():
                report.add((*path, "options", option), problem, given=getattr(use.options, option, None))
            own = plugin.traits(use.options, folder)
        except PluginError as error:
            report.add(path, str(error), given=use.plugin)
            continue
        needs_network = traits.needs_network or own.needs_network
        traits = replace(traits, needs_network=needs_network, writes=(*traits.writes, *own.writes))
    return replace(stage, traits=traits)


def _check_hooks(stage: StageConfig, plugin: Plugin, raw: Mapping[str, Any], report: MistakeReport) -> None:
    path = ("stages", stage.name)
    if plugin.is_wrapper:
        problem = f"plugin {stage.plugin!r} is for the `use` of a stage, beside a plugin of its own"
        report.add((*path, "plugin"), problem, given=stage.plugin)
    if stage.use and plugin.is_source and not stage.inputs:
        report.add((*path, "use"), "is for stages with messages to process, and this is a source", given=raw["use"])
    timed = [hook for hook in ("zpipe_tick", "zpipe_flush") if hook in plugin.hooks]
    if "tick" in raw and "zpipe_tick" not in timed:
        problem = f"is how often a plugin's tick is called, and plugin {stage.plugin!r} has none"
        report.add((*path, "tick"), problem, given=raw["tick"])
    if timed and stage.workers.kind == "process":
        problem = f'must be "thread": the plugin has {" and ".join(timed)}, which belong to one process'
        report.add((*path, "workers", "kind"), problem, given="process")


def _outlets(stage: StageConfig, plugin: Plugin, options: Any, report: MistakeReport) -> tuple[str, ...] | None:
    try:
        return plugin.outlets(options)
    except PluginError as error:
        report.add(("stages", stage.name, "plugin"), str(error), given=stage.plugin)
        return None


def _workers(stage: StageConfig, plugin: Plugin | None) -> Workers:
    """An async stage with a limit gets as many workers as the limit may allow calls, since a coroutine costs next to nothing."""
    workers, limit = stage.workers, stage.limit
    if plugin is None or limit is None or limit.max is None or workers.count_given or workers.kind != "thread":
        return workers
    return replace(workers, count=limit.max) if plugin.is_called_async(stage.batch is not None) else workers


def _options(stage: StageConfig, plugin: Plugin | None, raw: Mapping[str, Any], report: MistakeReport) -> Any:
    path = ("stages", stage.name, "options")
    given = raw.get("options", {})
    if not isinstance(given, dict):
        if given is not UNSET:
            report.add(path, f"must be a table, not {shown(given)}", given=given)
        return None
    if plugin is None:
        return None
    if plugin.options_type is None:
        if given:
            report.add(path, f"plugin {stage.plugin!r} takes no options; {dotted(path)} must be left out", given=given)
        return None
    return fill(plugin.options_type, given, path, report)
