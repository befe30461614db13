"""What commands are given to name a part of a pipeline: STAGE, STAGE.N or a link. Does not belong here: whether the part runs."""

from __future__ import annotations

from zpipe.config.pipeline_config import Input, PipelineConfig
from zpipe.config.stage_table import MOST_INSTANCES
from zpipe.errors import TargetError
from zpipe.plugin_loading import did_you_mean


def read_stage_target(config: PipelineConfig, target: str) -> tuple[str, int | None]:
    """The stage and the instance that STAGE or STAGE.N names. Raises TargetError that says what the pipeline has."""
    stage, dot, number = target.partition(".")
    config.stage(stage)
    if dot and not (number.isascii() and number.isdigit() and 0 < int(number) <= MOST_INSTANCES):
        known = ", ".join(
            f"{s.name}.1" + (f" to {s.name}.{s.instances}" * (s.instances > 1)) for s in config.stages.values()
        )
        raise TargetError(f"{target!r} is no STAGE.N with N from 1 to {MOST_INSTANCES}; {config.path} has {known}")
    return stage, int(number) if dot else None


def read_link(config: PipelineConfig, name: str) -> tuple[Input, str]:
    """The link FROM->TO or FROM.OUTLET->TO: where it comes from, and its consumer. Raises TargetError that names them all."""
    known = {
        f"{entry}->{stage.name}": (entry, stage.name) for stage in config.stages.values() for entry in stage.inputs
    }
    upstream, _, consumer = (part.strip() for part in name.partition("->"))
    found = known.get(f"{upstream}->{consumer}")
    if found is None:
        hint = did_you_mean(f"{upstream}->{consumer}", known)
        raise TargetError(f"{config.path} has no link {name!r}{hint}; it has {', '.join(known) or 'none'}")
    return found
