"""zpipe connects independent pipeline stages through bounded queues, peer to peer over ZeroMQ, with no broker.

A plugin needs nothing but this: a base class (`Source`, `Map`, `BatchMap`, `Sink`) or `hookimpl`, and what its hooks take and
return.
"""

from typing import TYPE_CHECKING

from zpipe.errors import Reject, Retry, Throttled
from zpipe.hookspecs import Context, Traits, hookimpl
from zpipe.messages import DROP, Message, many
from zpipe.option_types import Duration, Secret, Size
from zpipe.plugin_classes import BatchMap, Map, Sink, Source, Wrapper

if TYPE_CHECKING:
    from typing_extensions import override
else:

    def override(method):
        """Marks a method that is a hook, so that a type checker finds a misspelt one: `typing.override`, for Python 3.11 too."""
        return method


__version__ = "0.2.0"
__all__ = [
    "DROP",
    "BatchMap",
    "Context",
    "Duration",
    "Map",
    "Message",
    "Reject",
    "Retry",
    "Secret",
    "Sink",
    "Size",
    "Source",
    "Throttled",
    "Traits",
    "Wrapper",
    "__version__",
    "hookimpl",
    "many",
    "override",
]
