"""For the tests of plugins and pipelines: in this process, on a virtual clock, without sockets.

stage         one stage with a plugin: send it messages, see what comes out, let time pass, kill it
read          what a source gives after a position
pipeline      a whole pipeline of a config, whose stages can be killed and whose links can be spoiled
check_plugin  what must hold of every plugin, tried with one
make_context  a context for calling a hook by hand
load_fixture  the messages that `zpipe tap --save` has written

The plugins are real, and so is the core around them. The rest is a simulation: a pipeline of cores over a network that drops,
delays, duplicates, reorders and cuts. Nothing is random but by the seed, so every failure can be played again.

May live here: the clock, network, plugins and processes of tests. Names other than those above are zpipe's own, and may change.
"""

from zpipe.fixture import load_fixture
from zpipe.testing.clock import Clock
from zpipe.testing.network import Faults
from zpipe.testing.node import Node, seeded_bytes
from zpipe.testing.plugin_runs.contexts import make_context
from zpipe.testing.plugin_runs.pipeline_run import PipelineRun, pipeline
from zpipe.testing.plugin_runs.plugin_checks import check_plugin
from zpipe.testing.plugin_runs.simulated_pipeline import Dead
from zpipe.testing.plugin_runs.stage_run import StageRun, read, stage
from zpipe.testing.simulated_plugin import Disk, Spec, Stored
from zpipe.testing.simulation import Simulation

__all__ = [
    "Clock",
    "Dead",
    "Disk",
    "Faults",
    "Node",
    "PipelineRun",
    "Simulation",
    "Spec",
    "StageRun",
    "Stored",
    "check_plugin",
    "load_fixture",
    "make_context",
    "pipeline",
    "read",
    "seeded_bytes",
    "stage",
]
