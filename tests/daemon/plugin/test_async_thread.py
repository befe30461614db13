"""Async hooks on the one event loop of an instance: a source that is ahead, ends, fails, and is interrupted."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from zpipe import Context
from zpipe.daemon.plugin.async_thread import MOST_ITEMS, AsyncSource, AsyncThread


@pytest.fixture
def thread() -> Iterator[AsyncThread]:
    made = AsyncThread(logging.getLogger("t"))
    yield made
    made.close()


@pytest.fixture
def context() -> Context:
    return Context("p", "s", 1, "1", None, Path(), Path(), logging.getLogger("t"))


def test_an_outcome_is_what_a_hook_returned_or_awaits(thread: AsyncThread) -> None:
    async def hook() -> tuple[str, object]:
        return threading.current_thread().name, asyncio.get_running_loop()

    assert thread.outcome(5) == 5
    name, loop = thread.outcome(hook())
    assert name == "zpipe-asyncio" and thread.outcome(hook()) == (name, loop), "all hooks have one loop"


@pytest.mark.parametrize("count", [0, 1, MOST_ITEMS - 1, MOST_ITEMS, MOST_ITEMS + 1, 10 * MOST_ITEMS])
def test_all_that_a_source_yields_comes_in_order(thread: AsyncThread, context: Context, count: int) -> None:
    async def source(context: Context) -> AsyncIterator[Any]:
        for n in range(count):
            if n % 7 == 0:
                await asyncio.sleep(0)
            yield n, n

    assert list(AsyncSource(source, thread)(context)) == [(n, n) for n in range(count)]


def test_a_source_is_not_far_ahead(thread: AsyncThread, context: Context) -> None:
    made = []

    async def source(context: Context) -> AsyncIterator[Any]:
        for n in range(100 * MOST_ITEMS):
            made.append(n)
            yield n, n

    items = AsyncSource(source, thread)(context)
    for n in range(50 * MOST_ITEMS):
        assert next(items) == (n, n)
        assert len(made) - n <= 2 * MOST_ITEMS


def test_a_source_that_fails_does_so_after_what_it_gave(thread: AsyncThread, context: Context) -> None:
    async def source(context: Context) -> AsyncIterator[Any]:
        yield 1, 1
        raise OSError("gone")

    items = AsyncSource(source, thread)(context)
    assert next(items) == (1, 1)
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_a_source_that_waits_is_cancelled_and_cleans_up(thread: AsyncThread, context: Context) -> None:
    cleaned = threading.Event()

    async def source(context: Context) -> AsyncIterator[Any]:
        try:
            yield 1, 1
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    one = AsyncSource(source, thread)
    items = one(context)
    assert next(items) == (1, 1)
    one.interrupt()
    assert list(items) == [] and cleaned.wait(60)


def test_a_source_that_has_failed_can_be_read_again(thread: AsyncThread, context: Context) -> None:
    tries = []

    async def source(context: Context) -> AsyncIterator[Any]:
        tries.append(len(tries))
        yield len(tries), 1
        if len(tries) == 1:
            raise OSError("gone")

    one = AsyncSource(source, thread)
    items = one(context)
    assert next(items) == (1, 1)
    with pytest.raises(OSError, match="gone"):
        next(items)
    assert list(one(context)) == [(2, 1)]
    context.stopping.set()
    assert list(one(context)) in ([], [(3, 1)]), "it is interrupted"
