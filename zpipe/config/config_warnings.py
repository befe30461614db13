"""Warnings about a config: what is allowed in it, but is most likely not meant.

A warning is a Mistake, with file, line and key, but it stops nothing. Does not belong here: looking at anything but the config
and its plugins.
"""

from __future__ import annotations

from zpipe.config.mistakes import MistakeReport
from zpipe.config.pipeline_config import PipelineConfig
from zpipe.core.work.task import DEAD


def advise(config: PipelineConfig, report: MistakeReport) -> None:
    """Adds the warnings to `report`. The config must have been loaded with its plugins."""
    for stage in config.stages.values():
        path = ("stages", stage.name)
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
