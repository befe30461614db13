"""The config of a pipeline: one TOML file, which is checked as a whole before anything is started.

This file has the package's public names and nothing else.
"""

from zpipe.config.addresses import Address, describe_insecurity
from zpipe.config.addresses import parse as parse_address
from zpipe.config.config_warnings import advise
from zpipe.config.graph_text import dot, mermaid
from zpipe.config.loading import load, report_for
from zpipe.config.memory_estimate import MemoryRow, MemoryStatement, estimate_memory
from zpipe.config.pipeline_config import Input, InstanceKey, PipelineConfig, StageConfig, Workers

__all__ = [
    "Address",
    "Input",
    "InstanceKey",
    "MemoryRow",
    "MemoryStatement",
    "PipelineConfig",
    "StageConfig",
    "Workers",
    "advise",
    "describe_insecurity",
    "dot",
    "estimate_memory",
    "load",
    "mermaid",
    "parse_address",
    "report_for",
]
