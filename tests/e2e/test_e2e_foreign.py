"""A stage in another language: `command` in place of a plugin. The program is the small map of the conformance tests."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from e2e_types import MakePipeline
from pipeline import Pipeline, wait_until

from zpipe import folders
from zpipe.runtime.places import Places

PROGRAM = Path(__file__).parents[1] / "conform" / "small_map.py"
CONFIG = """
[pipeline]
name = "mixed"

[telemetry]
interval = "200ms"

[stages.read]
plugin = "generate"
options = {{ count = {count}, rate = 2000 }}

[stages.up]
input = "read"
command = {command}
options = {{ answer = 42 }}

[stages.store]
input = "up"
plugin = "sqlite"
batch = {{ messages = 100, timeout = "50ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""


def config(count: int, *command: str) -> str:
    return CONFIG.format(count=count, command=json.dumps(list(command) or [sys.executable, str(PROGRAM)]))


def next_program(pipeline: Pipeline, killed: set[int]) -> tuple[int, int]:
    """The keeper of `up` and its program, once that is another than those that were killed."""

    def there() -> tuple[int, int] | None:
        keeper = pipeline.pid_at_work("up")
        with suppress(OSError):  # a keeper that is about to end
            found = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split() if keeper else []
            return (keeper, int(found[0])) if keeper and found and int(found[0]) not in killed else None
        return None

    keeper, program = wait_until(there, "the next program runs")  # type: ignore[misc]
    killed.add(program)
    return keeper, program


def test_a_program_that_is_killed_loses_nothing(make: MakePipeline) -> None:
    pipeline = make(config(12_000))  # for six seconds: the kills come in the first
    run = pipeline.run("--json")
    killed = set[int]()
    for done in (300, 900):
        wait_until(lambda done=done: pipeline.count() >= done, f"{done} rows")  # type: ignore[misc]
        os.kill(next_program(pipeline, killed)[1], signal.SIGKILL)
    wait_until(lambda: pipeline.count() >= 1500, "1500 rows")
    keeper, program = next_program(pipeline, killed)
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{program}").exists(), "the program ends with its keeper")
    ledger = run.ledger()
    assert ledger["stages"]["up"]["restarts"] == 3
    assert pipeline.query("SELECT count(*), min(id), max(id) FROM t") == [(12_000, 0, 11_999)]


def test_its_dead_letters_are_kept_for_it(make: MakePipeline) -> None:
    program = """
import os
import cbor2, zmq
dealer = zmq.Context.instance().socket(zmq.DEALER)
dealer.connect(os.environ["ZPIPE_DEAD_LETTERS"])
letter = {"origin": 1.5, "attempts": 3, "reason": "no such table", "source": "read"}
for number, payload in enumerate([{"n": 1}, {"n": 2}, "x" * 2_000_000, {"n": 2}]):
    sent = {"kind": "bury", "number": number, "id": f"read:{min(number, 3)}", "payload": cbor2.dumps(payload)}
    dealer.send(cbor2.dumps(sent | letter))
    answer = cbor2.loads(dealer.recv())
    assert answer["kind"] == "done" and answer["number"] == number, answer
least = {"kind": "bury", "number": 8, "id": "read:8", "payload": cbor2.dumps(8), "reason": "what and why alone"}
dealer.send(cbor2.dumps(least))
assert cbor2.loads(dealer.recv()) == {"kind": "done", "number": 8, "state": "STARTING"}
dealer.send(cbor2.dumps({"kind": "bury", "number": 9}))
assert cbor2.loads(dealer.recv())["kind"] == "refuse"
dealer.send(cbor2.dumps({"kind": "request", "number": 10, "what": "drain"}))
assert "takes `bury`" in cbor2.loads(dealer.recv())["reason"]
raise SystemExit(7)
"""
    pipeline = make(config(10, sys.executable, "bury.py"), bury=program)
    one = pipeline.stage("up")
    assert one.wait() == 1
    assert 'event=program.failed how="exit code 7"' in one.stderr
    listed = pipeline.zpipe("dead", "list", str(pipeline.path), "--json")
    assert listed.wait() == 0 and "no such table" in listed.stdout
    rows = pipeline.state(
        "SELECT id, reason, attempts, source, length(payload) FROM dead_letters ORDER BY number", "up"
    )
    assert [row[:4] for row in rows[:4]] == [(f"read:{n}", "no such table", 3, "read") for n in range(4)]
    assert rows[2][4] > 2_000_000
    assert rows[4][:4] == ("read:8", "what and why alone", 1, "read")
    for command in (("replay", "--all"), ("edit", "up.1/1", "--set", "n=3")):
        refused = pipeline.zpipe("dead", command[0], str(pipeline.path), *command[1:])
        assert refused.wait() == 2
        assert "of a program in another language" in refused.stderr and "Traceback" not in refused.stderr
    replay = pipeline.zpipe("dead", "replay", str(pipeline.path), "--all")
    assert replay.wait() == 2 and "send what `zpipe dead show --json` has of them to its input again" in replay.stderr


def test_its_keeper_survives_whatever_it_says_of_itself(make: MakePipeline) -> None:
    program = """
import os, time
import cbor2, zmq
folder = "{ZPIPE_RUNTIME_DIR}/{ZPIPE_PIPELINE}.{ZPIPE_STAGE}.{ZPIPE_INSTANCE}".format(**os.environ)
control = zmq.Context.instance().socket(zmq.XPUB)
control.bind(f"ipc://{folder}/control.sock")
control.recv(), control.recv()
who = {"pipeline": "mixed", "stage": "up", "instance": 1, "incarnation": "a", "ended": True}
counts = dict.fromkeys(("received", "completed", "filtered", "dead", "returned", "in_process", "queued"), 7)
sound = {**who, "state": "RUNNING", "links": [], **counts, "own": b"bytes"}
control.send_multipart([b"snapshot"])
for number in range(30):
    control.send_multipart([b"announcement", b"one", b"two"])
for state in ("RUNNING", "STOPPED"):
    for body in (sound, {**sound, "received": "many"}, {**sound, "completed": None}, {"x": b"bytes"}):
        control.send_multipart([b"snapshot", cbor2.dumps({"kind": "snapshot", "body": body})])
        control.send_multipart([b"announcement", cbor2.dumps({"kind": "announcement", **who, "state": state})])
        time.sleep(0.4)
"""
    pipeline = make(config(10, sys.executable, "says.py"), says=program)
    pipeline.env["NOTIFY_SOCKET"] = str(pipeline.home / "notify")  # what it counts is told there
    one = pipeline.stage("up")
    assert one.wait() == 0, one.stderr
    assert one.stderr.count("event=program.malformed") == 3 and one.stderr.count("PROTOCOL.md 5.9") == 1
    last = Places(pipeline.config, pipeline.env).last_account("up", 1)
    assert last is not None and last["received"] == 7 and "own" not in last


HOSTS = """
[hosts.here]
address = "127.0.0.1"
key = "{key}"
[hosts.there]
address = "192.0.2.7"
key = "{other}"
"""


@pytest.mark.parametrize("named", ["here", "there"])
def test_a_program_on_a_host_is_told_of_keys_and_addresses(make: MakePipeline, tmp_path: Path, named: str) -> None:
    """It is where the config has it, whatever else the machine is called."""
    tell = "import json, os, sys; print(os.environ['ZPIPE_KEY_FILE'], os.environ['ZPIPE_CONFIG'], sep='\\n', file=sys.stderr)"
    text = config(10, sys.executable, "-c", tell)
    for stage, host, port in (("read", "there", 7100), ("up", "here", 7100), ("store", "there", 7110)):
        text = text.replace(f"[stages.{stage}]", f'[stages.{stage}]\nhost = "{host}"\nport = {port}')
    pipeline = make(text)
    pipeline.env |= {"ZPIPE_KEYS_DIR": str(tmp_path / "keys"), "ZPIPE_HOST": named}
    made = [pipeline.zpipe("keys", "new", name, "--json") for name in ("here", "there")]
    assert [one.wait() for one in made] == [0, 0]
    key, other = (json.loads(one.stdout)["public"] for one in made)
    (tmp_path / "keys" / "there.key").unlink()
    pipeline.path.write_text(text + HOSTS.format(key=key, other=other))
    one = pipeline.stage("up")
    assert one.wait() == 1, one.stderr
    lines = one.stderr.splitlines()
    at = lines.index(str(tmp_path / "keys" / "here.key"))
    told = json.loads(lines[at + 1])
    assert told["host"] == "here" and told["hosts"]["there"] == {"address": "192.0.2.7", "keys": [other]}
    assert told["listen"] == {
        kind: f"tcp://127.0.0.1:{7100 + n}" for n, kind in enumerate(("feedback", "control", "inbox"))
    }
    [elsewhere] = told["inputs"][0]["elsewhere"]
    assert elsewhere == {
        "instance": 1,
        "host": "there",
        "feedback": "tcp://192.0.2.7:7100",
        "control": "tcp://192.0.2.7:7101",
    }


def test_mistakes_are_told_before_anything_starts(make: MakePipeline) -> None:
    pipeline = make(config(10).replace("options = { answer = 42 }", 'plugin = "discard"\nworkers = { count = 2 }'))
    checked = pipeline.zpipe("check", str(pipeline.path))
    assert checked.wait() == 2
    assert "stages.up.plugin: is for a stage with a plugin" in checked.stderr
    assert "stages.up.workers: is for a stage with a plugin" in checked.stderr


def test_a_command_that_is_not_there(make: MakePipeline) -> None:
    pipeline = make(config(10, "./no-such-program"))
    one = pipeline.stage("up")
    assert one.wait() == 1
    assert "stages.up.command: cannot start './no-such-program' in" in one.stderr and "Traceback" not in one.stderr


def test_a_program_that_ends_without_stopping_is_a_crash(make: MakePipeline) -> None:
    one = make(config(10, "true")).stage("up")
    assert one.wait() == 1
    assert 'hint="a program announces STOPPED before it ends"' in one.stderr


def test_its_last_words_count_though_it_has_published_nothing(make: MakePipeline) -> None:
    """A program may be over before its keeper's subscription has come."""
    program = """
import os, sys
import cbor2, zmq
dealer = zmq.Context.instance().socket(zmq.DEALER)
dealer.connect(os.environ["ZPIPE_DEAD_LETTERS"])
who = {"pipeline": "mixed", "stage": "up", "instance": 1, "incarnation": "a"}
counts = dict.fromkeys(("completed", "filtered", "dead", "returned", "in_process", "queued"), 0)
body = {**who, **counts, "state": "STOPPED", "links": [], "received": 7, "completed": 7}
for frame in ({"kind": "snapshot", "body": body}, {"kind": "announcement", **who, "state": "STOPPED", "ended": True}):
    dealer.send(cbor2.dumps(frame))
    answer = cbor2.loads(dealer.recv())
    assert answer["kind"] == "done" and answer["number"] == 0, answer
"""
    pipeline = make(config(10, sys.executable, "tells.py"), tells=program)
    one = pipeline.stage("up")
    assert one.wait() == 0, one.stderr
    last = Places(pipeline.config, pipeline.env).last_account("up", 1)
    assert last is not None and last["received"] == 7


def test_one_whose_producers_have_ended_in_the_run_is_not_started_again(make: MakePipeline) -> None:
    """Nothing can come to it any more, and it could not know."""
    pipeline = make(config(10, "touch", "started"))
    places = Places(pipeline.config, {**pipeline.env, "ZPIPE_RUN": "a run"})
    for ended in (False, True):
        folders.make_private(places.state("read", 1))
        places.mark("read", 1, ended, {})
        pipeline.env["ZPIPE_RUN"] = "a run"
        one = pipeline.stage("up")
        assert one.wait() == (0 if ended else 1), one.stderr
        assert (pipeline.folder / "started").exists() is not ended
        (pipeline.folder / "started").unlink(missing_ok=True)
    assert places.stopped_at_end("up", 1) is not None


def test_a_fresh_start_forgets_what_it_has_kept(make: MakePipeline) -> None:
    keeps = 'cd "$ZPIPE_STATE_DIR/mixed.up.1/plugin"; ls >&2; touch "kept by a program"'
    pipeline = make(config(10, "sh", "-c", keeps))
    assert pipeline.stage("up").wait() == 1
    again = pipeline.stage("up")
    assert again.wait() == 1 and "kept by a program" in again.stderr
    fresh = pipeline.stage("up", 1, "--fresh")
    assert fresh.wait() == 1 and "kept by a program\n" not in fresh.stderr.replace(keeps, "")


REPLAY = """
[pipeline]
name = "mixed"

[stages.read]
plugin = "generate"
options = {{ count = 20 }}

[stages.up]
input = "read"
command = {command}

[stages.store]
input = "up"
plugin = "python"
retry = {{ attempts = 1 }}
options = {{ function = "check.py:check" }}
"""
CHECK = """
from pathlib import Path

def check(payload):
    if payload["id"] == 7 and not Path(__file__).with_name("mended").exists():
        raise ValueError("seven")
"""


def test_letters_of_others_are_replayed_beside_it(make: MakePipeline) -> None:
    """The run ends once every instance has its letters in hand, and a program's snapshots have the program's pid."""
    pipeline = make(REPLAY.format(command=json.dumps([sys.executable, str(PROGRAM)])), check=CHECK)
    first = pipeline.run("--json").ledger()
    assert first["stages"]["store"]["dead"] == 1
    (pipeline.folder / "mended").touch()
    replay = pipeline.zpipe("dead", "replay", str(pipeline.path), "--all")
    assert replay.wait(20) == 0, replay.stderr
    listed = pipeline.zpipe("dead", "list", str(pipeline.path), "--json")
    assert listed.wait() == 0 and "seven" not in listed.stdout, listed.stdout
