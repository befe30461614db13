"""`discard`: takes every message and keeps nothing. It is for measuring, and for trying out the stages before it."""

from __future__ import annotations

from zpipe import Context, Message, Traits, hookimpl

# `context` is not needed. But with all arguments there, the daemon needs no adapter around each call, which is a hot path.


@hookimpl
def zpipe_traits() -> Traits:
    return Traits(is_sink=True)


@hookimpl
def zpipe_process(message: Message, context: Context) -> None:
    """Does nothing."""


@hookimpl
def zpipe_process_batch(messages: list[Message], context: Context) -> None:
    """Does nothing."""
