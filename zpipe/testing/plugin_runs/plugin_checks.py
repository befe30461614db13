"""`check_plugin`: what must hold of every plugin, tried with one. Must not live here: what one plugin does with its messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zpipe import plugin_loading
from zpipe.messages import BadRecord, Message
from zpipe.plugin_loading import Plugin
from zpipe.testing.plugin_runs.contexts import plugin_name
from zpipe.testing.plugin_runs.stage_run import StageRun, read, stage

N = 7
"""Messages of the largest batch that is tried."""


def check_plugin(
    plugin: Any,
    options: Any = None,
    payloads: Sequence[Any] = (),
    *,
    folder: Path | str | None = None,
    last: bool = False,
    batches: bool = True,
) -> None:
    """Tries what must hold of any plugin. Raises AssertionError with all that does not, and ConfigError for wrong options.

    payloads  what it can be given (a source needs none): with each of them, with none, and with several at once
    batches   try it in a stage with a `batch` table too, if it takes batches

    A message that comes again, after a kill for example, must make the same messages with the same ids. A source must give the
    same after a position as it gave there before. `open` and `close` must work in every life.
    """
    where = Path(folder or Path.cwd()).absolute()
    loaded = plugin_loading.load(plugin_name(plugin, where), where)
    if loaded.is_source and not payloads:
        problems = list(_source_problems(plugin, options, where))
    else:
        assert payloads, "give some payloads that the plugin can work on"
        problems = list(_stage_problems(loaded, plugin, options, payloads, where, last, batches))
    assert not problems, "\n".join(problems)


def _source_problems(plugin: Any, options: Any, folder: Path) -> Iterator[str]:
    whole = [_record(message) for message in read(plugin, options, limit=1000, folder=folder)]
    if len({repr(position) for position, _ in whole}) < len(whole):
        yield "zpipe_source: two messages have the same position, so they would have the same id"
    again = [_record(message) for message in read(plugin, options, limit=1000, folder=folder)]
    if again != whole:
        yield "zpipe_source: it gives other messages, or other positions, when it is read again from its beginning"
    for at in {0, len(whole) // 2, len(whole) - 1} if whole else ():
        position = whole[at][0]
        rest = [_record(message) for message in read(plugin, options, position, limit=1000 - at - 1, folder=folder)]
        if rest != whole[at + 1 :]:
            yield f"zpipe_source: after position {position!r} it does not give what it gave there before"


def _record(message: Message) -> tuple[Any, Any]:
    payload = message.payload
    return message.position, payload.raw if isinstance(payload, BadRecord) else payload


def _stage_problems(
    loaded: Plugin, plugin: Any, options: Any, payloads: Sequence[Any], folder: Path, last: bool, with_batches: bool
) -> Iterator[str]:
    many = [payloads[n % len(payloads)] for n in range(N)]
    batches: list[int | None] = [None] if loaded.takes_messages else []
    batches += [1, N] if loaded.takes_batches and with_batches else []
    for batch in batches:
        how = "zpipe_process" if batch is None else f"zpipe_process_batch, with {batch}"

        def new(batch: int | None = batch) -> StageRun:
            return stage(plugin, options, batch=batch, folder=folder, last=last)

        with new() as empty:  # opened and closed without a message
            empty.drain()
        most_calls = 1
        for payload in payloads:
            with new() as one:
                one.send(payload)
                one.drain()
                most_calls = max(most_calls, *one.attempts.values(), 1)
                yield from (f"{how}: {dead.payload!r} is a dead letter: {dead.reason}" for dead in one.dead)
        with new() as whole:
            whole.send_many(many)
            whole.drain()
        if most_calls == 1 < max(whole.attempts.values(), default=1):
            yield f"{how}: the call for several messages fails, though that for each of them does not"
        with new() as killed:
            killed.send_many(many[: N // 2])
            killed.kill()
            killed.send_many(many[N // 2 :])
            killed.drain()
        one_by_one = batch in (None, 1)
        if one_by_one and _made(whole) != _made(killed):
            yield f"{how}: after a kill it makes other messages than without, or with other ids"
        elif not one_by_one and _made(whole) and not _made(killed):
            yield f"{how}: after a kill it makes nothing"
        with new() as again:
            again.send_many(many)
            again.drain()
        if _made(again) != _made(whole):
            yield f"{how}: the same messages a second time make other messages, or others ids"


def _made(run: StageRun) -> list[tuple[str, str]]:
    """What came out, once each."""
    return sorted({(message.id, f"{message.outlet} {message.payload!r}") for message in run.sent})
