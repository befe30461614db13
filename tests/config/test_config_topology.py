"""Rules across stages; for bounds, both N and N + 1."""

from __future__ import annotations

import pytest
from config_texts import stages, step
from config_types import Problems, Read

from zpipe.config.loading import report_for
from zpipe.config.topology import advise

BATCHES = "./batches.py"


def batch_stage(keys: str, *, input: str = '"a"') -> str:
    return step("b", keys, plugin=BATCHES, input=input)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ([step("b", input='"b"')], ["7: stages.b.input: a stage cannot be its own input"]),
        (
            [step("b", input='"A"')],
            ["7: stages.b.input: there is no stage 'A'; stages are a, b (did you mean 'a'?)"],
        ),
        ([step("b", input='["a", "a"]')], ["7: stages.b.input[1]: names a twice"]),
        ([step("b", input="[]")], ["7: stages.b.input: must not be an empty list; leave the key out"]),
        (
            [step("b", input='"a."')],
            ['7: stages.b.input: must be a stage "NAME", or one of its outlets "NAME.OUTLET", not "a."'],
        ),
        (
            [step("b", input="7")],
            ['7: stages.b.input: must be a stage "NAME", or one of its outlets "NAME.OUTLET", not 7'],
        ),
        (
            [step("b", input='"a.x"')],
            ["7: stages.b.input: stage 'a' has no outlet 'x'; its outlets are errors, rest"],
        ),
        (
            [step("b", plugin="./source.py")],
            ["7: stages.b.input: plugin './source.py' is a source, which takes no input"],
        ),
        (
            ['[stages.b]\nplugin = "./step.py"'],
            ["5: stages.b: plugin './step.py' is not a source: give the stage an `input`, or a source for its plugin"],
        ),
        (
            ["instances = 2"],
            ["5: stages.a.instances: must be 1 in a head stage, not 2: each instance would read the whole source"],
        ),
        (
            [step("b", "batch = {}")],
            [
                "8: stages.b.batch: plugin './step.py' takes no batches (it has no zpipe_process_batch); "
                "leave `batch` out"
            ],
        ),
        ([batch_stage("")], [f"5: stages.b.batch: is required: plugin '{BATCHES}' takes only batches"]),
        ([step("b", 'workers = { kind = "process", timeout = "1s", recycle_messages = 9, memory = "1GiB" }')], []),
        ([step("b", 'workers = { timeout = "1s" }', plugin="./later.py")], []),
        ([step("b", 'workers = { kind = "process", timeout = "1s" }', plugin="./later.py")], []),
        (
            [step("b", 'workers = { timeout = "1s" }')],
            [
                "8: stages.b.workers.timeout: cannot be kept: plugin './step.py' is not async, and a thread that calls "
                'it cannot be stopped; add kind = "process"'
            ],
        ),
        (
            [step("b", 'workers = { recycle_messages = 9, memory = "1GiB" }')],
            [
                '8: stages.b.workers.recycle_messages: is for workers that can be replaced: kind = "process"',
                '8: stages.b.workers.memory: is for workers that can be replaced: kind = "process"',
            ],
        ),
        (
            ['workers = { kind = "process" }'],
            [
                "5: stages.a.workers.kind: plugin './source.py' is a source, which runs in the stage's own process: "
                "leave `kind` out"
            ],
        ),
        ([step("b", 'retry = { delay = "2m" }')], []),
        (
            [step("b", 'retry = { delay = "2m", max_delay = "1m" }')],
            ["8: stages.b.retry.max_delay: must not be below delay (120s)"],
        ),
    ],
)
def test_one_rule_each(problems: Problems, tables: list[str], said: list[str]) -> None:
    assert problems(stages(*tables)) == said


def test_outlets_are_free_where_the_plugin_declares_none(problems: Problems) -> None:
    assert problems(stages(step("b"), step("c", input='["b.anything", "b", "a.rest"]'))) == []


def test_every_stage_has_an_outlet_for_its_dead_letters(problems: Problems) -> None:
    assert problems(stages(step("b"), step("c", input='["a.dead", "b.dead"]'))) == []


def test_no_plugin_may_have_one_of_its_own_by_that_name(problems: Problems) -> None:
    (found,) = problems(stages(step("b", plugin="./odd_outlets.py")))
    assert found.endswith("declares an outlet 'dead', which is that of every stage's dead letters")


def test_each_cycle_is_printed_once(problems: Problems) -> None:
    found = problems(
        stages(
            step("b", input='["a", "d"]'), step("c", input='"b"'), step("d", input='["c", "e"]'), step("e", input='"d"')
        )
    )
    assert found == [
        "7: stages.b.input[1]: the stages make a cycle: b -> c -> d -> b",
        "15: stages.d.input[1]: the stages make a cycle: d -> e -> d",
    ]


def test_a_pipeline_needs_a_head(problems: Problems) -> None:
    found = problems('[pipeline]\nname = "t"\n' + step("b", input='"c"') + step("c", input='"b"'))
    assert found == [
        "3: stages: has no head: one stage must have no `input`, and a source for its plugin",
        "5: stages.b.input: the stages make a cycle: b -> c -> b",
    ]


def test_a_long_chain_is_no_cycle(problems: Problems) -> None:
    assert problems(stages(step("s0"), *(step(f"s{n}", input=f'"s{n - 1}"') for n in range(1, 1500)))) == []


def test_a_queue_has_room_for_one_of_each_producer(problems: Problems) -> None:
    def chain(messages: int) -> str:
        last = step("d", f"queue = {{ messages = {messages} }}", input='["b", "c", "c.x"]')
        return stages(step("b", "instances = 3"), step("c", "instances = 2"), last)

    assert problems(chain(5)) == []
    assert problems(chain(4)) == [
        "16: stages.d.queue.messages: must be at least 5, one for each upstream instance, not 4"
    ]


def test_a_batch_fits_in_the_queue(problems: Problems) -> None:
    keys = "queue = {{ messages = 50, bytes = 4096 }}\nbatch = {{ messages = {}, bytes = {} }}"
    assert problems(stages(batch_stage(keys.format(50, 4096)))) == []
    assert problems(stages(batch_stage(keys.format(51, 4097)))) == [
        "9: stages.b.batch.messages: 51 can never fill: queue.messages holds 50",
        "9: stages.b.batch.bytes: 4097B can never fill: queue.bytes holds 4KiB",
    ]


@pytest.mark.parametrize(("messages", "fits"), [(80, True), (81, False)])
def test_a_batch_fits_in_what_upstream_keeps(problems: Problems, messages: int, fits: bool) -> None:
    """Two instances of 30 and another stage of 20."""
    found = problems(
        stages(
            step("x", "instances = 2\nunacked = { messages = 30 }"),
            step("y", "unacked = { messages = 20 }"),
            batch_stage(f"batch = {{ messages = {messages} }}", input='["x", "y"]'),
        )
    )
    said = (
        "17: stages.b.batch.messages: 81 can never fill: "
        "stages.x.unacked.messages, stages.y.unacked.messages lets 80 be unacked at once"
    )
    assert found == ([] if fits else [said])


@pytest.mark.parametrize(("messages", "fits"), [(40, True), (41, False)])
def test_a_batch_fits_in_what_every_ancestor_keeps(problems: Problems, messages: int, fits: bool) -> None:
    found = problems(
        stages(
            "unacked = { messages = 40 }",
            step("x"),
            step("y", input='"x"'),
            batch_stage(f"batch = {{ messages = {messages} }}", input='"y"'),
        )
    )
    said = "17: stages.b.batch.messages: 41 can never fill: stages.a.unacked.messages lets 40 be unacked at once"
    assert found == ([] if fits else [said])


def test_a_batch_may_fill_by_another_path(problems: Problems) -> None:
    other = '[stages.wide]\nplugin = "./source.py"'
    narrow = "unacked = { messages = 1 }"
    assert problems(stages(narrow, other, step("x"), batch_stage("batch = {}", input='["x", "wide"]'))) == []


def test_nothing_is_concluded_from_a_value_that_was_wrong(problems: Problems) -> None:
    keys = "queue = { messages = -1 }\nbatch = { messages = 5000 }"
    [problem] = problems(stages(batch_stage(keys)))
    assert problem.startswith("8: stages.b.queue.messages: must be a whole number")


@pytest.mark.parametrize(
    ("keys", "before", "waits"),
    [
        ("batch = { messages = 40 }", "", True),
        ("batch = { messages = 39 }", "", False),
        ("batch = { messages = 40 }", 'buffer = { kind = "disk", bytes = "1GiB" }\n', False),
    ],
)
def test_a_batch_of_all_that_may_be_unacked_is_warned_of(read: Read, keys: str, before: str, waits: bool) -> None:
    """Its producer waits while it is worked on: what it may send next is unacked beside it."""
    config = read(stages(f"{before}unacked = {{ messages = 40 }}", batch_stage(keys)))
    report = report_for(config, "p.toml", {})
    advise(config, report)
    said = [str(mistake) for mistake in report.mistakes if "nothing more comes" in str(mistake)]
    assert len(said) == waits and all("stages.a.unacked.messages" in one for one in said)
