"""The config of a pipeline: one TOML file, checked as a whole before anything is started. Here are the names that others use
most."""

from zpipe.config.addresses import Address
from zpipe.config.addresses import parse as parse_address
from zpipe.config.loading import load
from zpipe.config.pipeline_config import Input, InstanceKey, PipelineConfig, StageConfig, Use, Workers

__all__ = [
    "Address",
    "Input",
    "InstanceKey",
    "PipelineConfig",
    "StageConfig",
    "Use",
    "Workers",
    "load",
    "parse_address",
]
