"""`exec`: what a program is given, what its answers mean, and what becomes of messages whose program fails them."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cbor2
import pytest

from zpipe import DROP, Context, Message, Reject, Retry, Throttled
from zpipe.errors import OperatorError
from zpipe.messages import BadRecord
from zpipe_plugins.exec import plugin as exec_plugin
from zpipe_plugins.exec.child import Stderr
from zpipe_plugins.exec.formats import FORMATS, Unreadable
from zpipe_plugins.exec.plugin import Options

PREAMBLE = """
import json, os, sys, time
def answers():
    for line in sys.stdin:
        yield json.loads(line)
def say(**answer):
    print(json.dumps(answer), flush=True)
"""
Open = Callable[..., Context]


@pytest.fixture
def start(make_context: Any, tmp_path: Path) -> Iterator[Open]:
    """start(program, …): a context of a stage that runs it. `program`: Python, or a command as a list."""
    opened: list[Context] = []

    def start(program: str | list[str], last: bool = False, batching: bool = False, **options: Any) -> Context:
        (tmp_path / "state").mkdir(exist_ok=True)
        command = program if isinstance(program, list) else [sys.executable, "-c", PREAMBLE + program]
        context: Context = make_context(Options(command, **options), last=last, batching=batching)
        context.scratch = exec_plugin.Plain()  # for the test to find
        context.scratch.open(context)
        opened.append(context)
        return context

    yield start
    for context in opened:
        context.scratch.close(context)


def messages(payloads: list[Any]) -> list[Message]:
    return [Message(payload, id=f"read:{n}") for n, payload in enumerate(payloads)]


def each(context: Context, payloads: list[Any]) -> list[Any]:
    made: list[Any] = context.scratch.process_each(messages(payloads), context)
    return made


def reasons(made: list[Any]) -> list[str]:
    return [f"{type(one).__name__}: {one}" for one in made]


def children(context: Context) -> list[int]:
    """The numbers of the programs that run, as they are kept for the next life of the stage."""
    [file] = (context.state_dir / "children").iterdir()
    return [int(life.partition("-")[0]) for life in file.read_text().split()]


# Mode `envelope`


def test_answers_come_in_any_order_and_mean_what_they_say(start: Open) -> None:
    context = start("""
for line in sys.stdin.readline(), *(sys.stdin.readline() for _ in range(7)):
    held = globals().setdefault("held", []); held.append(json.loads(line))
for m in reversed(held):
    id, what = m["id"], m["payload"]
    if what == "keep": say(id=id, payload={"seen": m})
    if what == "many": [say(id=id, payload=n, more=n < 2) for n in range(3)]
    if what == "few": say(id=id, payload="one", more=True); say(id=id, drop=True)
    if what == "drop": say(id=id, drop=True)
    if what == "reject": say(id=id, reject="why")
    if what == "retry": say(id=id, retry="2s", reason="not yet")
    if what == "null": say(id=id, payload=None)
    if what == "outlet": say(id=id, payload=1, outlet="o", headers={"a": 1})
sys.stdin.read()
""")
    given = messages(["keep", "many", "few", "drop", "reject", "retry", "null", "outlet"])
    given[0].headers = {"h": 1}
    keep, many, few, drop, reject, retry, null, outlet = context.scratch.process_each(given, context)
    assert keep == {"seen": {"id": "read:0", "payload": "keep", "headers": {"h": 1}}}
    assert (list(many), list(few)) == ([0, 1, 2], ["one"])
    assert drop is DROP
    assert isinstance(reject, Reject) and str(reject) == "why"
    assert isinstance(retry, Retry) and (retry.delay, str(retry)) == (2.0, "not yet")
    assert isinstance(null, Message) and null.payload is None
    assert (outlet.payload, outlet.outlet, outlet.headers) == (1, "o", {"a": 1})


@pytest.mark.parametrize(
    ("given", "seconds"), [("2s", 2.0), ("500ms", 0.5), ("1.5m", 90.0), ("1h", 3600.0), (3, 3.0), ("soon", None)]
)
def test_delays(given: Any, seconds: float | None) -> None:
    assert exec_plugin._seconds(given) == seconds


def test_messages_of_one_id_have_their_answers_in_order(start: Open) -> None:
    context = start('for m in answers(): say(id=m["id"], payload=m["payload"])')
    assert context.scratch.process_each([Message(n, id="same") for n in range(3)], context) == [0, 1, 2]


def test_a_last_stage_needs_no_payload(start: Open) -> None:
    source = 'for m in answers(): say(id=m["id"])'
    assert each(start(source, last=True), [1])[0].payload is None
    [made] = each(start(source), [1])
    assert isinstance(made, Reject) and "an answer has one of" in str(made)


def test_cbor_carries_bytes_both_ways(start: Open) -> None:
    context = start(
        "import cbor2\ndecode = cbor2.CBORDecoder(sys.stdin.buffer, read_size=1).decode\n"
        'while True: m = decode(); sys.stdout.buffer.write(cbor2.dumps({"id": m["id"], "payload": m["payload"] * 2}));'
        " sys.stdout.flush()",
        format="cbor",
    )
    assert each(context, [b"\0\xff", [1], "x" * 300_000]) == [b"\0\xff" * 2, [1, 1], "x" * 600_000]


def test_more_than_the_pipes_hold_in_both_directions(start: Open) -> None:
    context = start('for m in answers(): say(id=m["id"], payload=m["payload"])')
    payloads = ["x" * 100_000] * 60
    assert each(context, payloads) == payloads


# What a program does wrong


GARBAGE = """
for m in answers():
    if m["payload"] == "bad": print("Traceback: oops", flush=True)
    else: say(id=m["id"], payload=m["payload"])
"""


def test_garbage_is_the_dead_letter_of_its_message_and_of_no_other(start: Open) -> None:
    context = start(GARBAGE)
    made = each(context, [1, "bad", 2])
    assert made[0] == 1
    assert [type(one) for one in made[1:]] == [Throttled, Throttled]  # run again alone, without an attempt
    [bad], [good] = each(context, ["bad"]), each(context, [2])
    assert isinstance(bad, Reject) and good == 2
    assert "#2 wrote what cannot be read: 'Traceback: oops' (no JSON: Expecting value" in str(bad)


def test_an_answer_to_nobody(start: Open) -> None:
    [made] = each(start('for m in answers(): say(id="other", payload=1)'), [1])
    assert isinstance(made, Reject)
    assert str(made).endswith('wrote what cannot be read: {"id": "other", "payload": 1} (it has no message of that id)')


@pytest.mark.parametrize("wrong", [{"outlet": 5}, {"outlet": None}, {"outlet": 0}, {"headers": "x"}, {"headers": [1]}])
def test_an_answer_whose_outlet_or_headers_are_none(start: Open, wrong: dict[str, Any]) -> None:
    context = start(
        f'for m in answers(): say(id=m["id"], payload=m["payload"], **({wrong} if m["payload"] == 2 else {{}}))'
    )
    one, bad, three = each(context, [1, 2, 3])
    assert (one, three) == (1, 3)
    assert isinstance(bad, Reject) and str(bad).startswith('wrote what cannot be read: {"id": "read:1", "payload": 2, ')


def test_an_answer_in_cbor_whose_keys_are_no_text(start: Open) -> None:
    context = start(
        "import cbor2\ncbor2.CBORDecoder(sys.stdin.buffer, read_size=1).decode()\n"
        "sys.stdout.buffer.write(cbor2.dumps({1: 2})); sys.stdout.flush(); sys.stdin.read()",
        format="cbor",
    )
    [bad] = each(context, ["x"])
    assert isinstance(bad, Reject) and "wrote what cannot be read: " in str(bad)


def test_a_program_that_dies_fails_only_what_it_had(start: Open) -> None:
    context = start("""
for m in answers():
    if m["payload"] == "die": sys.stderr.write("at the end\\n"); os._exit(7)
    say(id=m["id"], payload=m["payload"])
""")
    made = each(context, ["a", "die", "b"])
    assert made[0] == "a" and [type(one) for one in made[1:]] == [Throttled, Throttled]
    [dead], [good] = each(context, ["die"]), each(context, ["b"])
    assert isinstance(dead, Retry) and good == "b"
    assert "ended with exit code 7, after it wrote to stderr: at the end" in str(dead)


def test_a_program_that_was_killed_while_idle_costs_nobody_an_attempt(start: Open) -> None:
    context = start('for m in answers(): say(id=m["id"], payload=os.getpid())')
    [first] = each(context, [1])
    os.kill(first, signal.SIGKILL)
    _wait(lambda: not _runs(first), "the program is gone")
    [second] = each(context, [2])
    assert isinstance(second, int) and second != first


def test_a_program_that_hangs_is_killed(start: Open) -> None:
    context = start(
        'for m in answers():\n    if m["payload"] == "hang": time.sleep(600)\n    say(id=m["id"], payload=1)',
        timeout=1.0,
    )
    assert each(context, [0]) == [1]
    [running] = children(context)
    [made] = each(context, ["hang"])
    assert isinstance(made, Retry) and str(made).endswith("#1 wrote no line within 1 s")
    assert not _runs(running)
    assert each(context, [0]) == [1]


def test_a_program_that_keeps_its_lines_back_is_the_stages_fault(start: Open) -> None:
    context = start('for m in answers(): sys.stdout.write(json.dumps(m) + "\\n")', timeout=0.3)
    os.environ.pop("PYTHONUNBUFFERED", None)
    context.scratch.children._env.pop("PYTHONUNBUFFERED")
    with pytest.raises(
        OperatorError, match=r"gave no line for its first batch within 0.3 s, but did when its input was closed"
    ):
        each(context, [1])


def test_a_program_that_is_slow_to_start_is_waited_for(start: Open) -> None:
    context = start('time.sleep(0.5)\nfor m in answers(): say(id=m["id"], payload=1)', timeout=0.1)
    assert each(context, [1]) == [1]


def test_a_program_that_never_answers_is_the_stages_fault(start: Open) -> None:
    context = start("sys.stderr.write('usage: nothing\\n'); sys.exit(2)")
    assert all(isinstance(each(context, [n])[0], Retry) for n in [0, 0])
    each_of = [Message(n, id=f"read:{n}") for n in (1, 2)]
    assert isinstance(context.scratch.process_each(each_of[:1], context)[0], Retry)
    with pytest.raises(
        OperatorError, match=r"no program of the stage has answered .* exit code 2, .* stderr: usage: nothing"
    ):
        context.scratch.process_each(each_of[1:], context)


def test_one_message_that_kills_is_not_the_stages_fault(start: Open) -> None:
    context = start("os._exit(1)")
    assert all(isinstance(each(context, [1])[0], Retry) for _ in range(4))


# Mode `line`


def test_a_line_for_each(start: Open) -> None:
    assert each(start(["sed", "-u", "s, .*,,"], mode="line", format="lines"), ["1 a", "2 b"]) == ["1", "2"]
    context = start("for m in answers(): print(json.dumps([m]), flush=True)", mode="line")
    assert each(context, [1, {"a": None}]) == [[1], [{"a": None}]]
    [null] = each(start('for m in answers(): print("null", flush=True)', mode="line"), [1])
    assert null.payload is None


def test_a_line_that_cannot_be_read_is_its_own_messages(start: Open) -> None:
    context = start("for m in answers(): print(m, flush=True)", mode="line")
    one, bad, two = each(context, [1, "x", 2])
    assert (one, two) == (1, 2)
    assert isinstance(bad, Reject) and "wrote what cannot be read: 'x'" in str(bad)


SHORT = "for m in answers():\n    if m != 'empty': print(json.dumps(m), flush=True)"


def test_a_missing_line_never_lets_an_answer_slip(start: Open) -> None:
    context = start(SHORT, mode="line", timeout=1.0)
    assert each(context, [0]) == [0]
    made = each(context, [1, "empty", 2, 3])
    assert [type(one) for one in made] == [Throttled] * 4  # nobody knows whose lines these were
    [empty] = each(context, ["empty"])
    assert isinstance(empty, Retry) and "wrote no line within 1 s" in str(empty)
    assert 'in mode "line" each needs a line' in str(empty) and "buffer" not in str(empty)
    assert [each(context, [n]) for n in (1, 2, 3)] == [[1], [2], [3]]


def test_a_program_that_ends_when_it_has_answered_has_answered(start: Open) -> None:
    for mode, answer in (("line", "print(m, flush=True)"), ("envelope", 'say(id=m["id"], payload=m["payload"])')):
        value = "m" if mode == "line" else 'm["payload"]'
        context = start(f"for m in answers():\n    {answer}\n    if {value} % 2: break", mode=mode)
        assert each(context, [0, 2, 1]) == [0, 2, 1]
        assert each(context, [3]) == [3]
        assert each(context, [4]) == [4]


def test_a_line_too_many(start: Open) -> None:
    context = start("for m in answers(): print(m, m, sep='\\n', flush=True)", mode="line")
    [made] = each(context, [1])
    assert isinstance(made, Reject) and "wrote 2 lines for 1, so nobody knows which are whose: [1, 1]" in str(made)


def test_a_line_that_comes_too_late_to_be_told_apart_ends_the_stage(start: Open) -> None:
    context = start(
        "for m in answers():\n    print(m, flush=True)\n    if m == 2: time.sleep(0.2); print(m, flush=True)",
        mode="line",
    )
    assert each(context, [1]) == [1] and each(context, [2]) == [2]
    child = context.scratch.children._idle[0]
    _wait(lambda: child._buffer or child._pump(0.0), "the line too many has come")
    with pytest.raises(OperatorError, match="wrote more than one line for each of its messages"):
        each(context, [3])


def test_payloads_that_are_no_line(start: Open) -> None:
    context = start(["cat"], mode="line", format="lines")
    good, wrong, broken = each(context, ["a", {"a": 1}, "a\nb"])
    assert good == "a"
    assert "takes payloads that are text, not a dict" in str(wrong) and "of one line" in str(broken)


# Mode `filter`


def test_a_filter_makes_what_it_writes_of_the_whole_batch(start: Open) -> None:
    context = start(["sort", "-rn"], mode="filter", batching=True)
    assert list(context.scratch.process_batch(messages([1, 3, 2]), context)) == [3, 2, 1]
    alone = start(["jq", "-c", ".[]"] if shutil.which("jq") else ["tr", "-d", "[]"], mode="filter")
    assert [list(one) for one in each(alone, [[1], [2]])] == [[1], [2]]


def test_a_filter_that_fails_fails_its_batch(start: Open) -> None:
    source = "said = list(answers())\nprint(len(said))\nif 'bad' in said: sys.exit(3)\nif 'odd' in said: print('odd')"
    context = start(source, mode="filter", batching=True)
    with pytest.raises(RuntimeError, match="ended with exit code 3"):
        context.scratch.process_batch(messages([1, "bad"]), context)
    with pytest.raises(RuntimeError, match="cannot be read: 'odd'"):
        context.scratch.process_batch(messages([1, "odd"]), context)
    with pytest.raises(Reject, match="cannot be read: 'odd'"):
        context.scratch.process_batch(messages(["odd"]), context)
    bad, good = each(context, ["bad", "good"])
    assert isinstance(bad, Retry) and list(good) == [1]


def test_a_filter_that_never_works_is_the_stages_fault(start: Open) -> None:
    context = start("sys.exit(2)", mode="filter", batching=True)
    for n in range(3):
        error = OperatorError if n == 2 else RuntimeError
        with pytest.raises(error, match="ended with exit code 2"):
            context.scratch.process_batch([Message(n, id=f"read:{n}")], context)


# With a `batch` table


def test_a_batch_is_halved_until_the_message_that_kills_is_alone(start: Open) -> None:
    context = start('for m in answers():\n    if m["payload"] == "die": os._exit(1)\n    say(id=m["id"], payload=1)')
    assert context.scratch.process_batch(messages([1, 1]), context) == [1, 1]
    with pytest.raises(RuntimeError):
        context.scratch.process_batch(messages(["die", 1]), context)
    [one] = context.scratch.process_batch(messages(["die"]), context)
    assert isinstance(one, Retry)


# As a source


def source(context: Context, count: int = 1000) -> list[Any]:
    found = []
    for item in context.scratch.source(context):
        found.append((item.position, item.payload) if isinstance(item, Message) else item)
        if len(found) >= count:
            context.stopping.set()
            break
    return found


def test_a_source_by_line_goes_on_after_its_position(start: Open) -> None:
    context = start(["printf", "a\nb\nc"], mode="line", format="lines")
    assert source(context) == [(0, "a"), (1, "b"), (2, "c")]
    context.position = 1
    assert source(context) == [(2, "c")]


def test_a_source_with_a_key_of_its_own_is_told_where_to_go_on(start: Open) -> None:
    program = """
first = json.loads(os.environ["ZPIPE_POSITION"] or "0")
for n in range(first + 10, 40, 10): say(position=n, payload={"n": n}, headers={"h": n})
"""
    context = start(program, key="position")
    assert source(context) == [(10, {"n": 10}), (20, {"n": 20}), (30, {"n": 30})]
    context.position = 20
    assert source(context) == [(30, {"n": 30})]
    assert source(start('print(json.dumps({"at": "x", "v": 1}))', mode="line", key="at")) == [
        ("x", {"at": "x", "v": 1})
    ]


def test_a_record_of_a_source_that_cannot_be_read(start: Open) -> None:
    found = source(start('print(1); print("oops"); print(2)', mode="line"))
    assert [position for position, _ in found] == [0, 1, 2]
    assert isinstance(found[1][1], BadRecord) and found[1][1].raw == b"oops"
    [(_, bad)] = source(start('print("[]")'))
    assert isinstance(bad, BadRecord) and 'is a map with a "payload"' in bad.reason
    for wrong in ({"outlet": 5}, {"headers": "x"}):
        (_, bad), (_, good) = source(start(f"say(payload=1, **{wrong}); say(payload=2)"))
        assert isinstance(bad, BadRecord) and bad.reason == '"outlet" is text, and "headers" is a map'
        assert good == 2


def test_a_record_without_a_position_has_an_id_of_its_own_and_the_same_one_again(start: Open) -> None:
    program = """
first = json.loads(os.environ["ZPIPE_POSITION"] or "0")
for n in range(first + 1, 4): print("oops"); print("oops"); print(json.dumps({"at": n}))
"""
    context = start(program, mode="line", key="at")

    def found() -> list[tuple[str, Any]]:
        return [(one.id, one.position) if isinstance(one, Message) else one for one in context.scratch.source(context)]

    whole = found()
    assert whole[:3] == [("stage:null:bad:1", None), ("stage:null:bad:2", None), (1, {"at": 1})]
    assert whole[3:6] == [("stage:1:bad:1", 1), ("stage:1:bad:2", 1), (2, {"at": 2})]
    context.position = 1
    assert found() == whole[3:]


def test_a_source_that_dies_is_started_again_and_gives_nothing_twice(start: Open, tmp_path: Path) -> None:
    context = start(
        "n = len(os.listdir('lives')); open(f'lives/{n}', 'w')\n"
        "for i in range(6):\n    print(i, flush=True)\n    if i == 2 * n + 1 and n < 2: os.kill(os.getpid(), 9)",
        mode="line",
    ) if (tmp_path / "lives").mkdir() is None else None  # fmt: skip
    assert context is not None
    assert [payload for _, payload in source(context)] == list(range(6))
    failing = start("sys.exit(3)", mode="line")
    failing.stopping.wait = lambda seconds: False  # type: ignore[method-assign,assignment]
    with pytest.raises(OperatorError, match="ended with exit code 3, as those before it, and gave nothing new"):
        source(failing)


def test_a_source_that_waits_hears_that_it_is_to_stop(start: Open) -> None:
    context = start(["sh", "-c", "echo 1; sleep 600"], mode="line")
    given = context.scratch.source(context)
    assert next(given) == (0, 1)
    context.stopping.set()
    assert list(given) == []


# Its stderr


def test_stderr_is_logged_by_line_with_the_programs_name(start: Open, caplog: pytest.LogCaptureFixture) -> None:
    context = start(
        'for m in answers():\n    sys.stderr.write("one\\ntwo\\x1b[0m\\n"); sys.stderr.flush()\n'
        '    say(id=m["id"], payload=1)'
    )
    assert each(context, [1]) == [1]
    name = Path(sys.executable).name
    _wait(lambda: len(caplog.records) >= 2, "both lines are logged")
    assert [record.getMessage() for record in caplog.records] == [f"{name}#1: one", f"{name}#1: two\ufffd[0m"]


def test_a_flood_of_stderr_holds_nobody_up_and_is_not_logged(start: Open, caplog: pytest.LogCaptureFixture) -> None:
    context = start(
        'for m in answers():\n    sys.stderr.write("x" * 99 + "\\n" + ("y" * 99 + "\\n") * 30_000); say(id=m["id"], payload=1)'
    )
    assert each(context, [1, 2, 3]) == [1, 1, 1]
    assert len(caplog.records) <= 60
    stderr = context.scratch.children._stderr
    _wait(
        lambda: "more lines of stderr, which are not logged" in caplog.text or stderr._unlogged > 80_000,
        "lines are counted",
    )


def test_what_is_closed_writes_to_no_descriptor_that_was_its_own() -> None:
    """A call that is under way when the stage closes asks for the last line of its program afterwards."""
    stderr = Stderr(logging.getLogger("zpipe.test"))
    stderr.close()
    pipes = [os.pipe2(os.O_NONBLOCK) for _ in range(8)]  # they get its numbers
    assert stderr.last("cat#1") == ""
    stderr.close()
    for reader, writer in pipes:
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        os.close(reader), os.close(writer)


# Its life


def test_programs_of_a_killed_stage_are_ended_by_its_next_life(start: Open, tmp_path: Path) -> None:
    first = start(["sh", "-c", "trap '' HUP TERM; while read line; do sleep 600; done; sleep 600"], timeout=0.2)
    left = first.scratch.children.start()
    [file] = (first.state_dir / "children").iterdir()
    file.rename(file.with_name("999999999-1"))  # its owner is gone
    start(["cat"])
    _wait(lambda: not _runs(left.pid), "the program of the life before is ended")
    first.scratch.children.drop(left)


def test_programs_of_a_stage_that_nobody_closes_end_with_it(make_context: Any) -> None:
    context = make_context(Options(["sh", "-c", 'while read n; do echo "$n"; done; sleep 600'], mode="line"))
    plugin = exec_plugin.Plain()
    plugin.open(context)
    assert plugin.process_each(messages([1]), context) == [1]
    [running] = children(context)
    del plugin
    gc.collect()
    assert not _runs(running)


def test_closing_lets_a_program_end_by_itself(start: Open, tmp_path: Path) -> None:
    context = start('for m in answers(): say(id=m["id"], payload=1)\nopen("ended", "w")')
    assert each(context, [1]) == [1]
    context.scratch.close(context)
    assert (tmp_path / "ended").exists()
    assert list((context.state_dir / "children").iterdir()) == []


# Its options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"command": []}, "command is empty"),
        ({"command": ["cat"], "format": "lines"}, 'format "lines" has no room for an id'),
        ({"command": ["cat"], "timeout": 0}, "allowed is any time above 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Options(**options)


def test_a_command_that_is_not_there(make_context: Any, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    for command, said in [
        ("surely-not-there", "there is no program 'surely-not-there' on the PATH"),
        ("./gone.sh", f"there is no file {tmp_path}/gone.sh"),
        ("./plain", f"{tmp_path}/plain is not executable: chmod +x {tmp_path}/plain"),
    ]:
        assert exec_plugin.Plain().check(Options([command]), tmp_path) == [("command", said)]
        with pytest.raises(OperatorError, match=said.replace("+", r"\+")):
            exec_plugin.Plain().open(make_context(Options([command])))
    assert exec_plugin.Plain().check(Options(["cat"]), tmp_path) == []


# Formats


@pytest.mark.parametrize("name", FORMATS)
def test_items_are_found_wherever_they_are_cut(name: str) -> None:
    values: list[Any] = ["a", "bc", "ü"] if name == "lines" else ["a", {"b": [1, None]}, 2.5, "ü\n"]
    data = b"".join(FORMATS[name].write(value) for value in values)
    for at in range(len(data) + 1):
        buffer = bytearray(data[:at])
        found = FORMATS[name].cut(buffer, False)
        buffer += data[at:]
        assert found + FORMATS[name].cut(buffer, True) == values
        assert not buffer


@pytest.mark.parametrize("lines", [b"1,2\n[3\n4]\n", b"[1\n2]\n", b"\n1\n", b" " + b"[" * 100_000])
def test_lines_that_are_json_only_together_are_none(lines: bytes) -> None:
    assert Unreadable in map(type, FORMATS["ndjson"].cut(bytearray(lines), True))


def test_a_line_without_an_end(monkeypatch: pytest.MonkeyPatch, start: Open) -> None:
    monkeypatch.setattr("zpipe_plugins.exec.formats.MOST_BYTES", 1000)
    for name in ("lines", "ndjson"):
        buffer = bytearray(b"1\n" + b"x" * 1001)
        one, long = FORMATS[name].cut(buffer, False)
        assert one in ("1", 1) and long.ends and long.why == "a line of more than 1000 bytes" and not buffer
        assert not FORMATS[name].cut(bytearray(b"x" * 1000), False)
    [made] = each(start(["sed", "-u", "s/a/" + "b" * 2000 + "/"], mode="line", format="lines"), ["a"])
    assert made == "b" * 2000, "it came with its end"


def test_a_broken_stream_of_cbor_fails_its_message(start: Open) -> None:
    source = (
        'import cbor2\ncbor2.CBORDecoder(sys.stdin.buffer, read_size=1).decode(); sys.stdout.buffer.write(b"\\xff")'
    )
    [made] = each(start(source + "; sys.stdout.flush(); sys.stdin.read()", mode="line", format="cbor"), [1])
    assert isinstance(made, Reject) and "no CBOR" in str(made)


def test_a_broken_stream_of_cbor() -> None:
    [bad] = FORMATS["cbor"].cut(bytearray(b"\xff" + cbor2.dumps(1)), False)
    assert bad.ends and bad.why.startswith("no CBOR")
    [cut] = FORMATS["cbor"].cut(bytearray(cbor2.dumps("abc")[:2]), True)
    assert cut.ends


# Waiting


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait(condition: Callable[[], object], what: str) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.005)
