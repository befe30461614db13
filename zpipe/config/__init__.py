"""The config of a pipeline: one TOML file, checked as a whole before anything is started.

May live here: the package's public names.
"""

from zpipe.config.addresses import Address, open_to
from zpipe.config.addresses import parse as parse_address
from zpipe.config.advice import advise
from zpipe.config.drawing import dot, mermaid
from zpipe.config.loading import load, report_of
from zpipe.config.memory import MemoryRow, MemoryStatement, worst_case
from zpipe.config.pipeline import Input, PipelineConfig, StageConfig, Workers

__all__ = [
    "Address",
    "Input",
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
