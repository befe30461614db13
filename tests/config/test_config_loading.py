"""Whole files: what they become, and every mistake at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from config_texts import stages, step
from config_types import Problems, Read
from unprivileged import as_unprivileged_user, folder_for_anybody

from zpipe.config import Input, Workers, load
from zpipe.core.policy import BatchPolicy, Bound, DeadPolicy, RetryPolicy, StagePolicy
from zpipe.errors import ConfigError, ExitCode

Write = Callable[[str], Path]

FULL = """
[pipeline]
name = "index"
peer_timeout = "3s"
[telemetry]
interval = "500ms"
[security]
insecure = true
[stages.read]
plugin = "./source.py"
listen = "tcp://192.0.2.1:7000"
unacked = { messages = 300, bytes = "1MiB" }
[stages.parse]
input = ["read", "read.errors"]
plugin = "./typed.py"
instances = "${INSTANCES:-2}"
workers = { kind = "thread", count = 4 }
queue = { messages = 300, bytes = "2MiB" }
retry = { attempts = 1, delay = "0s", max_delay = "2s", deaths = 7 }
listen = ["tcp://127.0.0.1:7010", "tcp://[::1]:7010", "tcp://localhost:7020"]
options = { name = "${WHO}", count = "${N:-5}" }
[stages.store]
input = "parse"
plugin = "./batches.py"
batch = { messages = 200, bytes = "1MiB", timeout = "250ms" }
"""


def test_a_full_config_is_read(read: Read, tmp_path: Path) -> None:
    config = read(FULL, {"WHO": "world", "ZPIPE_RUNTIME_DIR": "/r"})
    assert (config.name, config.peer_timeout_s, config.interval_s, config.insecure) == ("index", 3.0, 0.5, True)
    assert (config.path, config.folder) == (tmp_path / "pipeline.toml", tmp_path)
    assert list(config.stages) == ["read", "parse", "store"]
    parse = config.stages["parse"]
    assert parse.inputs == (Input("read"), Input("read", "errors"))
    assert (parse.instances, parse.workers) == (2, Workers("thread", 4))
    assert (parse.queue, config.stages["read"].unacked) == (Bound(300, 2 * 2**20), Bound(300, 2**20))
    assert parse.retry == RetryPolicy(1, 0.0, 2.0, 7)
    assert parse.listen == ("tcp://127.0.0.1:7010", "tcp://[::1]:7010", "tcp://localhost:7020")
    assert (parse.options.name, parse.options.count, type(parse.options.name)) == ("world", 5, str)
    assert config.stages["store"].batch == BatchPolicy(200, 2**20, 0.25)
    assert config.consumers("read") == [("", "parse"), ("errors", "parse")]


def test_defaults_are_those_of_the_policies(read: Read) -> None:
    config = read(stages(step("b", "batch = {}", plugin="./batches.py")))
    stage, policy = config.stages["b"], StagePolicy()
    assert (stage.queue, stage.unacked, stage.retry) == (policy.queue, policy.unacked, policy.retry)
    assert stage.dead == policy.dead
    assert (stage.batch, stage.workers, stage.instances) == (BatchPolicy(), Workers(), 1)
    assert (stage.options, stage.listen) == (None, ())
    assert (config.interval_s, config.peer_timeout_s, config.insecure) == (1.0, 5.0, False)


def test_limits_on_dead_letters(read: Read) -> None:
    keys = 'dead = { messages = 5, bytes = "1kB", age = "30d", storm = 1 }'
    assert read(stages(step("b", keys))).stages["b"].dead == DeadPolicy(5, 1000, 30 * 86_400.0, 1.0)


@pytest.mark.parametrize("storm", ["0", "1.5", "-0.1", "true", '"half"', "nan"])
def test_a_share_is_above_0_and_at_most_1(problems: Problems, storm: str) -> None:
    (found,) = problems(stages(step("b", f"dead = {{ storm = {storm} }}")))
    assert "stages.b.dead.storm: must be a number above 0, at most 1, not " in found


def test_a_default_batch_gives_way_to_a_small_queue(read: Read) -> None:
    keys = 'batch = {}\nqueue = { messages = 10, bytes = "1KiB" }'
    assert read(stages(step("b", keys, plugin="./batches.py"))).stages["b"].batch == BatchPolicy(10, 1024, 1.0)


def test_a_daemon_imports_the_plugin_of_its_own_stage_only(write: Write, tmp_path: Path) -> None:
    path = write(stages(step("b", 'options = { name = "n" }', plugin="./typed.py")))
    (tmp_path / "source.py").write_text("raise AssertionError('imported')")
    config = load(path, env={"ZPIPE_RUNTIME_DIR": "/r"}, only="b")
    assert config.stages["b"].options.name == "n"
    with pytest.raises(ConfigError, match="imported"):
        load(path, env={"ZPIPE_RUNTIME_DIR": "/r"})


MANY = """\
[pipeline]
name = "my index"
peer_timout = "5s"

[telemetry]
interval = 0

[security]
insecure = "yes"
curve = "keys"

[stages.read]
plugin = "./source.py"
instances = 2

[stages.parse]
input = "raed"
plugin = "./typed.py"
workers = { kind = "fork", count = 0, timeout = 0, kin = 9 }
queue = { message = 10, bytes = "64Mib" }
retry = { attempts = 0, delay = "5s", max_delay = "1s" }
limit = { kind = "amd" }
[stages.parse.options]
nmae = "x"
count = "3"
mode = "fats"
path = "${NOWHERE}/x"

[stages.store]
input = [
  "parse",
  "parse",
  "read.error",
]
plugin = "./batchs.py"
batch = { messages = 5000, timeout = "1 day" }
listen = "tcp://0.0.0.0:70000"

[stages."a.b"]
plugin = "./step.py"
[metrics]
"""

MANY_PROBLEMS = """\
2: pipeline.name: must be 1 to 40 letters, digits, '-' or '_', not "my index"
3: pipeline.peer_timout: is not a key here; allowed: name, peer_timeout, port (did you mean 'peer_timeout'?)
6: telemetry.interval: must be a time such as 5 (seconds), "500ms", "1s", "2m", "1h" or "30d", above 0, at most "8760h", not 0
9: security.insecure: must be true or false, not "yes"
10: security.curve: is not a key here; allowed: insecure, nats (did you mean 'insecure'?)
14: stages.read.instances: must be 1 in a head stage, not 2: each instance would read the whole source
17: stages.parse.input: there is no stage 'raed'; stages are read, parse, store, a.b (did you mean 'read'?)
19: stages.parse.workers.kind: must be "thread" or "process", not "fork"
19: stages.parse.workers.count: must be a whole number from 1 to 1000, not 0
19: stages.parse.workers.timeout: must be a time such as 5 (seconds), "500ms", "1s", "2m", "1h" or "30d", above 0, \
at most "8760h", not 0
19: stages.parse.workers.kin: is not a key here; allowed: count, kind, memory, recycle_messages, timeout (did you mean 'kind'?)
20: stages.parse.queue.bytes: must be a size such as 1000, "4KiB", "64MiB" or "2GB", at least 1 byte, not "64Mib"
20: stages.parse.queue.message: is not a key here; allowed: bytes, messages (did you mean 'messages'?)
21: stages.parse.retry.attempts: must be a whole number from 1 to 1000000000, not 0
22: stages.parse.limit.kind: must be "aimd" or "fixed", not "amd"
23: stages.parse.options.name: is required: a string
24: stages.parse.options.nmae: is not an option here; allowed: name, count, rate, loud, path, tags, sizes, pair, colour, level, \
weights, either, mode, server, extra (did you mean 'name'?)
25: stages.parse.options.count: must be a whole number, not "3"
26: stages.parse.options.mode: must be "fast" or "safe" or 3, not "fats" (did you mean 'fast'?)
27: stages.parse.options.path: the environment variable NOWHERE is not set; set it, or give a default: ${NOWHERE:-…}
32: stages.store.input[1]: names parse twice
33: stages.store.input[2]: stage 'read' has no outlet 'error'; its outlets are errors, rest (did you mean 'errors'?)
35: stages.store.plugin: plugin './batchs.py': no file FOLDER/batchs.py (did you mean 'batches.py'?)
36: stages.store.batch.timeout: must be a time such as 5 (seconds), "500ms", "1s", "2m", "1h" or "30d", above 0, \
at most "8760h", not \
"1 day"
36: stages.store.batch.messages: 5000 can never fill: queue.messages holds 4096
37: stages.store.listen: must be "tcp://HOST:PORT" with a PORT from 1 to 65534 (control uses PORT + 1), not \
"tcp://0.0.0.0:70000"
39: stages."a.b": the name of a stage must be 1 to 40 letters, digits, '-' or '_', not "a.b"
39: stages."a.b": plugin './step.py' is not a source: give the stage an `input`, or a source for its plugin
41: metrics: is not a key here; allowed: hosts, pipeline, security, stages, telemetry
"""


def test_every_mistake_is_told_at_once(problems: Problems, tmp_path: Path) -> None:
    found = "\n".join(problems(MANY)).replace(str(tmp_path), "FOLDER") + "\n"
    assert found == MANY_PROBLEMS


def test_a_mistake_holds_its_parts(write: Write) -> None:
    path = write('[pipeline]\nname = "t"\n[stages.a]\nplugin = "./source.py"\ninstnaces = 3')
    with pytest.raises(ConfigError) as raised:
        load(path, env={"ZPIPE_RUNTIME_DIR": "/r"})
    [mistake] = raised.value.mistakes
    assert (mistake.file, mistake.line, mistake.key) == (str(path), 5, "stages.a.instnaces")
    assert (mistake.given, mistake.nearest) == (3, "instances")
    assert raised.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pipeline]\nname = \n", "2: is not TOML: Invalid value"),
        ('[pipeline]\nname = "a"\nname = "b"', "3: is not TOML: Cannot overwrite a value (a key or a table stands"),
        ("[stages.a]\n[stages.a]", "2: is not TOML: Cannot declare ('stages', 'a') twice (a key or a table"),
        ("[pipeline", "1: is not TOML: Expected ']' at the end of a table declaration"),
        ('a = """\n\n', "3: is not TOML: Unterminated string"),
        ("a = " + "[" * 20000, " is nested too deeply"),
    ],
)
def test_what_is_not_toml(problems: Problems, text: str, said: str) -> None:
    [problem] = problems(text)
    assert problem.startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["pipeline.name: is required", "stages: has no stages: at least one [stages.NAME] is required"]),
        (
            "pipeline = 5\nstages = []",
            ["1: pipeline: must be a table", "pipeline.name: is", "2: stages: must be a table"],
        ),
        ('[pipeline]\nname = "t"\n[stages]\na = 1', ["4: stages.a: must be a table, not 1"]),
        ('[pipeline]\nname = "t"\n[stages.a]', ["3: stages.a.plugin: is required"]),
    ],
)
def test_files_with_little_in_them(problems: Problems, text: str, said: list[str]) -> None:
    found = "\n".join(problems(text))
    for part in said:
        assert part in found


@pytest.mark.parametrize("key", ["key"])
def test_keys_of_later_versions_are_never_ignored(problems: Problems, key: str) -> None:
    [problem] = problems(stages(step("b", f"{key} = {{}}")))
    assert problem.startswith(
        f"8: stages.b.{key}: is not available in this version; allowed: batch, buffer, codec, command, dead, host, input, "
    )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, content in {"right.toml": b"", "latin.toml": b"a = 1\nb = '\xe9'"}.items():
        (tmp_path / name).write_bytes(content)
    for name, said in {
        "rihgt.toml": "cannot be read: No such file or directory (did you mean 'right.toml'?)",
        ".": "cannot be read: Is a directory",
        "latin.toml": "latin.toml:2: is not UTF-8: byte 0xe9",
    }.items():
        with pytest.raises(ConfigError) as raised:
            load(tmp_path / name)
        assert str(raised.value).endswith(said)


def test_a_file_without_the_right_to_read_it() -> None:
    with folder_for_anybody() as folder:
        path = folder / "p.toml"
        path.touch(mode=0)
        with as_unprivileged_user(), pytest.raises(ConfigError, match="cannot be read: Permission denied"):
            load(path)


def test_a_default_is_shown_with_what_it_came_from(problems: Problems) -> None:
    env = {"ZPIPE_RUNTIME_DIR": "/r"}
    [problem] = problems(stages(step("b", 'instances = "${COUNT:-many}"')), env)
    assert problem.endswith('not "many" (from ${COUNT:-many})')


def test_the_environment_is_read_when_load_is_called(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZPIPE_TEST_COUNT", "3")
    assert load(write(stages(step("b", 'instances = "${ZPIPE_TEST_COUNT}"')))).stages["b"].instances == 3
