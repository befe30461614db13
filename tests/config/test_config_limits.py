"""The table `limit`, and the number of workers that follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_texts import stages, step
from config_types import Problems, Read

from zpipe.core.policy import LimitPolicy

ASYNC = """
from zpipe import hookimpl

@hookimpl
async def zpipe_process(message, context):
    return message.payload

@hookimpl
def zpipe_process_batch(messages, context):
    return None
"""


@pytest.mark.parametrize(
    ("limit", "policy"),
    [
        ("{}", LimitPolicy("aimd", 10, 200, None)),
        ('{ kind = "aimd", start = 20, max = 50, rate = 0.5 }', LimitPolicy("aimd", 20, 50, 0.5)),
        ("{ max = 4 }", LimitPolicy("aimd", 4, 4, None)),
        ("{ start = 4, rate = 50 }", LimitPolicy("aimd", 4, 200, 50.0)),
        ("{ rate = 50 }", LimitPolicy("fixed", 10, None, 50.0)),
        ('{ kind = "fixed", max = 7 }', LimitPolicy("fixed", 10, 7, None)),
        ('{ kind = "fixed", rate = 50 }', LimitPolicy("fixed", 10, None, 50.0)),
        ('{ kind = "aimd", rate = "${X:-5}" }', LimitPolicy("aimd", 10, 200, 5.0)),
    ],
)
def test_limits(read: Read, limit: str, policy: LimitPolicy) -> None:
    assert read(stages(step("b", f"limit = {limit}"))).stages["b"].limit == policy


def test_without_one(read: Read) -> None:
    assert read(stages(step("b"))).stages["b"].limit is None


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (
            '{ kind = "fixed", start = 5, max = 7 }',
            '.start: is where kind = "aimd" starts; with "fixed" leave it out, as the limit is always max',
        ),
        ('{ kind = "fixed" }', ': kind "fixed" needs max, or rate, or both'),
        ("{ start = 300 }", ".start: must not be above max (200)"),
        ("{ start = 5, max = 4 }", ".start: must not be above max (4)"),
        ("{ rate = 0 }", ".rate: must be a number of calls a second from 0.001 to 1,000,000, not 0"),
        ("{ rate = nan }", ".rate: must be a number of calls a second from 0.001 to 1,000,000, not nan"),
        ('{ rate = "5" }', '.rate: must be a number of calls a second from 0.001 to 1,000,000, not "5"'),
        ("{ maxx = 5 }", ".maxx: is not a key here; allowed: kind, max, rate, start (did you mean 'max'?)"),
        ('"aimd"', ': must be a table, not "aimd"'),
    ],
)
def test_mistakes(problems: Problems, limit: str, said: str) -> None:
    assert problems(stages(step("b", f"limit = {limit}"))) == [f"8: stages.b.limit{said}"]


@pytest.mark.parametrize(
    ("keys", "count"),
    [
        ("limit = {}", 200),
        ("limit = { max = 50 }", 50),
        ("limit = { max = 50 }\nworkers = { count = 3 }", 3),
        ("limit = { max = 50 }\nbatch = {}", 1),
        ("limit = { rate = 50 }", 1),
        ("", 1),
    ],
)
def test_an_async_hook_has_as_many_calls_as_its_limit(read: Read, tmp_path: Path, keys: str, count: int) -> None:
    (tmp_path / "asynchronous.py").write_text(ASYNC)
    assert read(stages(step("b", keys, plugin="./asynchronous.py"))).stages["b"].workers.count == count


def test_threads_stay_as_many_as_they_are(read: Read) -> None:
    assert read(stages(step("b", "limit = {}"))).stages["b"].workers.count == 1
