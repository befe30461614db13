"""zpipe connects independent pipeline stages through bounded queues, peer to peer over ZeroMQ, with no broker.

A plugin needs nothing but this: ``from zpipe import hookimpl, Message, DROP, many, Retry, Reject, Throttled``.
"""

from zpipe.errors import Reject, Retry, Throttled
from zpipe.hookspecs import Context, Traits, hookimpl
from zpipe.messages import DROP, Message, many

__version__ = "0.1.0"
__all__ = ["DROP", "Context", "Message", "Reject", "Retry", "Throttled", "Traits", "__version__", "hookimpl", "many"]
