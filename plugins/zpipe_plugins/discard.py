"""`discard`: takes every message and keeps nothing, for measuring and for trying out what comes before it."""

from __future__ import annotations

from zpipe import Context, Message, Traits, hookimpl

# The trailing `context` is not needed, but spares the daemon an adapter around each call: this is a hot path.


@hookimpl
def zpipe_traits() -> Traits:
    return Traits(is_sink=True)


@hookimpl
def zpipe_process(message: Message, context: Context) -> None:
    """Nothing."""


@hookimpl
def zpipe_process_batch(messages: list[Message], context: Context) -> None:
    """Nothing, for many."""
