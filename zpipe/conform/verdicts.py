"""What can come of a case, and the kinds of stages. Must not live here: a case, or what finds it out."""

from __future__ import annotations

from typing import Literal

Kind = Literal["map", "sink"]
KINDS: tuple[Kind, ...] = ("map", "sink")


class NotKept(Exception):
    """The stage did something else than the protocol says.

    sent      what the neighbours had sent
    expected  what had to come
    came      what came instead
    """

    def __init__(self, sent: str, expected: str, came: str) -> None:
        super().__init__(f"sent: {sent}; expected: {expected}; came: {came}")
        self.sent, self.expected, self.came = sent, expected, came


class NeverSpoke(NotKept):
    """The stage ended, or the time was up, before it had said anything to anybody. So it would be in every other case too."""


class NotApplicable(Exception):
    """The case asks for something that a stage need not have, and this one does not."""
