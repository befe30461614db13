"""The config of a pipeline: one TOML file, which is checked as a whole before anything is started.

This file has the package's public names and nothing else.
"""

from zpipe.config.addresses import Address, open_to
from zpipe.config.addresses import parse as parse_address
from zpipe.config.advice import advise
from zpipe.config.graph_text import dot, mermaid
from zpipe.config.loading import load, report_of
from zpipe.config.memory import MemoryRow, MemoryStatement, worst_case
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
    "dot",
    "load",
    "mermaid",
    "open_to",
    "parse_address",
    "report_of",
    "worst_case",
]
