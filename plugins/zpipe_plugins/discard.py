"""`discard`: takes every message and keeps nothing. It is for measuring, and for trying out the stages before it."""

from __future__ import annotations

from zpipe import Context, Message, Sink, override

# `context` is not needed. But with all arguments there, the daemon needs no adapter around each call, which is a hot path.


class Discard(Sink[None]):
    @override
    def process(self, message: Message, context: Context[None]) -> None:
        """Does nothing."""

    @override
    def process_batch(self, messages: list[Message], context: Context[None]) -> None:
        """Does nothing."""
