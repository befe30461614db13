"""What is allowed in a config and yet most likely not meant. May live here: finding it; each has its line and says what to do."""

from __future__ import annotations

from zpipe.config.lines import key_lines
from zpipe.config.model import PipelineConfig
from zpipe.config.report import Report
from zpipe.errors import Mistake


def advise(config: PipelineConfig, file: str) -> list[Mistake]:
    """The warnings of a config that was loaded without mistakes. `file`: as the user named it."""
    report = Report(file, key_lines(config.text))
    for stage in config.stages.values():
        for outlet in config.unread_outlets(stage.name):
            problem = (
                f'no stage reads the outlet {outlet!r} of {stage.name!r} (input = "{stage.name}.{outlet}"): '
                "what leaves by it is counted as unrouted, and goes nowhere"
            )
            report.add(("stages", stage.name), problem, given=outlet)
    return report.mistakes
