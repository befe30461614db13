"""The config of a pipeline: one TOML file, which is checked as a whole before anything is started.

This file has the names that other rooms use most, and nothing else.
"""

from zpipe.config.addresses import Address
from zpipe.config.addresses import parse as parse_address
from zpipe.config.loading import load
from zpipe.config.pipeline_config import Input, InstanceKey, PipelineConfig, StageConfig, Workers

__all__ = ["Address", "Input", "InstanceKey", "PipelineConfig", "StageConfig", "Workers", "load", "parse_address"]
