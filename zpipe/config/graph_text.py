"""A pipeline's graph as text, in the languages of mermaid and graphviz. Does not belong here: anything that does not follow
from the config alone."""

from __future__ import annotations

from collections.abc import Iterator

from zpipe.config.pipeline_config import PipelineConfig, StageConfig
from zpipe.config.reading.values import show_size


def mermaid(config: PipelineConfig) -> str:
    lines = ["flowchart LR"]
    # The stage names cannot be the ids: mermaid would take a stage called `end` for its keyword.
    ids = {name: f"s{number}" for number, name in enumerate(config.stages)}
    for stage in config.stages.values():
        lines.append(f'    {ids[stage.name]}["{"<br/>".join(map(_mermaid_text, _label(stage)))}"]')
    for upstream, outlet, downstream in _links(config):
        arrow = f'-->|"{_mermaid_text(outlet)}"|' if outlet else "-->"
        lines.append(f"    {ids[upstream]} {arrow} {ids[downstream]}")
    return "\n".join(lines) + "\n"


def dot(config: PipelineConfig) -> str:
    lines = [f"digraph {_dot_text(config.name)} {{", "    rankdir=LR;", "    node [shape=box];"]
    for stage in config.stages.values():
        lines.append(f"    {_dot_text(stage.name)} [label={_dot_text(*_label(stage))}];")
    for upstream, outlet, downstream in _links(config):
        label = f" [label={_dot_text(outlet)}]" if outlet else ""
        lines.append(f"    {_dot_text(upstream)} -> {_dot_text(downstream)}{label};")
    return "\n".join([*lines, "}"]) + "\n"


def _links(config: PipelineConfig) -> Iterator[tuple[str, str, str]]:
    for stage in config.stages.values():
        for entry in stage.inputs:
            yield entry.stage, entry.outlet, stage.name


def _label(stage: StageConfig) -> list[str]:
    label = [f"{stage.name} ×{stage.instances}" if stage.instances > 1 else stage.name, stage.plugin]
    if stage.hosts:
        on = {host: stage.hosts.count(host) for host in stage.hosts}
        label.append("on " + ", ".join(f"{host} ×{count}" if count > 1 else host for host, count in on.items()))
    if stage.inputs:
        label.append(f"queue {stage.queue.messages} / {show_size(stage.queue.bytes)}")
    if stage.batch:
        label.append(f"batch {stage.batch.messages} / {show_size(stage.batch.bytes)} / {stage.batch.timeout_s:g}s")
    return label


def _mermaid_text(text: str) -> str:
    return text.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")


def _dot_text(*lines: str) -> str:
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'
