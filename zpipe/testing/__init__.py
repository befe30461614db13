"""A whole pipeline of cores on a virtual clock, over a network that drops, delays, duplicates, reorders and cuts.

May live here: the clock, network, plugins and processes of tests. Nothing sleeps and nothing is random but by the seed,
so every failure is a list of events that can be played again. For a plugin's own tests: `load_fixture`, the messages that
`zpipe tap --save` has written.
"""

from zpipe.fixture import load_fixture
from zpipe.testing.clock import Clock
from zpipe.testing.network import Faults
from zpipe.testing.node import Node, seeded_bytes
from zpipe.testing.simulated_plugin import Disk, Spec, Stored
from zpipe.testing.simulation import Simulation

__all__ = ["Clock", "Disk", "Faults", "Node", "Simulation", "Spec", "Stored", "load_fixture", "seeded_bytes"]
