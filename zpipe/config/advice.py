"""What is allowed in a config and yet most likely not meant. May live here: finding it; each has its line and says what to do."""

from __future__ import annotations

from zpipe.config.model import PipelineConfig
from zpipe.config.report import Report


def advise(config: PipelineConfig, report: Report) -> None:
    """Of a config that was loaded without mistakes."""
    for stage in config.stages.values():
        for outlet in config.unread_outlets(stage.name):
            problem = (
                f'no stage reads the outlet {outlet!r} of {stage.name!r} (input = "{stage.name}.{outlet}"): '
                "what leaves by it is counted as unrouted, and goes nowhere"
            )
            report.add(("stages", stage.name), problem, given=outlet)
