"""The types of zpipe for a plugin's options: secrets from variables, files and credentials, durations, sizes, tables within
tables, and what a plugin says of each."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import pytest
from config_texts import stages, step
from config_types import Problems, Read

from zpipe import Duration, Secret, Size
from zpipe.config import load
from zpipe.config.loading import credentials_for
from zpipe.config.plugin_options import Option, options_of
from zpipe.config.reading.value_files import MOST_BYTES
from zpipe.errors import ConfigError

Write = Callable[[str], Path]
PLUGIN = """
from dataclasses import dataclass, field
from typing import Annotated

import zpipe

@dataclass
class Server:
    host: str
    token: zpipe.Secret | None = None
    timeout: zpipe.Duration = 30.0

@dataclass
class Options:
    token: Annotated[zpipe.Secret, "of the account that writes"]
    wait: Annotated[zpipe.Duration, "between two looks"] = 0.5
    most: Annotated[zpipe.Size | None, "a message"] = None
    waits: list[zpipe.Duration] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)
    by_name: dict[str, Server] = field(default_factory=dict)
    either: int | zpipe.Secret = 0

class Step(zpipe.Map[Options]):
    def process(self, message, context):
        return message.payload

    def check(self, options, config_dir):
        if options.token.reveal() == "refused":
            yield "token", f"{options.token} is not taken"
"""


@pytest.fixture(autouse=True)
def secretive(write: Write) -> Path:
    path = write("").with_name("secretive.py")
    path.write_text(PLUGIN)
    return path


def options_text(keys: str) -> str:
    return stages(step("b", f"[stages.b.options]\n{keys}", plugin="./secretive.py"))


def options(read: Read, keys: str, **env: str) -> Any:
    return read(options_text(keys), {"ZPIPE_RUNTIME_DIR": "/r", "T": "hunter2", **env}).stages["b"].options


def test_all_of_them_are_filled(read: Read) -> None:
    made = options(
        read,
        """
token = "Bearer ${T}"
wait = "1.5m"
most = "${MOST}"
waits = [0, "2h"]
servers = [{ host = "a", timeout = "250ms", token = "${T}" }, { host = "b" }]
by_name = { c = { host = "d", timeout = 3 } }
either = "${T}"
""",
        MOST="64KiB",
    )
    assert (made.token.reveal(), made.wait, made.most, made.waits) == ("Bearer hunter2", 90.0, 65536, [0.0, 7200.0])
    assert [(one.host, one.timeout) for one in made.servers] == [("a", 0.25), ("b", 30.0)]
    assert (made.servers[0].token, made.servers[1].token) == (Secret("hunter2"), None)
    assert (made.by_name["c"].host, made.by_name["c"].timeout, made.either) == ("d", 3.0, Secret("hunter2"))
    assert "hunter2" not in repr(made)


@pytest.mark.parametrize(
    "shown",
    [repr, str, "{}".format, lambda one: f"{one}{one!r}{[one]}", lambda one: f"{copy.deepcopy(one)}", "%s".__mod__],
)
def test_a_secret_does_not_show_itself(shown: Callable[[Secret], str]) -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in shown(secret)
    assert "***" in shown(secret)


def test_a_secret_is_what_it_holds() -> None:
    assert Secret("a") == copy.copy(Secret("a")) != Secret("b")
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert Secret("a") != "a"


def test_what_does_not_fit_is_said_all_at_once(problems: Problems) -> None:
    given = """
token = "in the file"
wiat = 1
wait = -1
most = "3 KB"
waits = ["1s", "1w"]
servers = [{ host = "a", timeuot = 1 }, { timeout = "x" }]
by_name = { c = { host = 3, token = "also here" } }
either = "in the file too"
"""
    found = problems(options_text(given.strip()))
    secret = 'a secret, by "${VAR}", "${file:PATH}" or "${credential:NAME}"'
    time = 'must be a time such as 5 (seconds), "500ms", "1s", "2m", "1h" or "30d", or 0, at most "8760h",'
    assert [problem.partition(" not ")[0] for problem in found] == [
        f"9: stages.b.options.token: must be {secret}, and",
        "10: stages.b.options.wiat: is",
        f"11: stages.b.options.wait: {time}",
        '12: stages.b.options.most: must be a size such as 1000, "4KiB", "64MiB" or "2GB", or 0,',
        f"13: stages.b.options.waits[1]: {time}",
        "14: stages.b.options.servers[0].timeuot: is",
        "14: stages.b.options.servers[1].host: is required: a string",
        f"14: stages.b.options.servers[1].timeout: {time}",
        "15: stages.b.options.by_name.c.host: must be a string,",
        f"15: stages.b.options.by_name.c.token: must be {secret}, and",
        f"16: stages.b.options.either: must be a whole number or {secret},",
    ]
    assert found[1].endswith("(did you mean 'wait'?)")
    assert found[5].endswith("(did you mean 'timeout'?)")


def test_what_stands_in_the_place_of_a_secret_is_not_shown(write: Write) -> None:
    given = 'token = "in the file"\neither = "in the file"\nservers = [{ host = "a", token = ["in the file"] }]'
    with pytest.raises(ConfigError) as raised:
        load(write(options_text(given)), env={"ZPIPE_RUNTIME_DIR": "/r"})
    assert len(raised.value.mistakes) == 3
    assert all(mistake.given == "***" for mistake in raised.value.mistakes)
    assert "in the file" not in str(raised.value).replace("stand in the file", "")


def test_a_default_in_the_file_is_taken_for_a_secret_and_an_empty_one_is_not(read: Read, problems: Problems) -> None:
    assert options(read, 'token = "${NONE:-for tests}"').token == Secret("for tests")
    [problem] = problems(options_text('token = "${E}"'), {"ZPIPE_RUNTIME_DIR": "/r", "E": ""})
    assert problem == "9: stages.b.options.token: must not be empty, as ${E} is"


def test_a_plugin_that_refuses_a_secret_does_not_show_it(problems: Problems) -> None:
    [problem] = problems(options_text('token = "${T}"'), {"ZPIPE_RUNTIME_DIR": "/r", "T": "refused"})
    assert problem == "9: stages.b.options.token: *** is not taken"


# Files and credentials


@pytest.mark.parametrize(
    ("content", "value"), [(b"a b", "a b"), (b"a\n", "a"), (b"a\r\n", "a"), (b"a\n\n", "a\n"), (b"a\nb\n", "a\nb")]
)
def test_a_file_gives_its_text_without_its_last_line_end(
    read: Read, tmp_path: Path, content: bytes, value: str
) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "k: 1").write_bytes(content)
    assert options(read, 'token = "${file:keys/k: 1}"').token == Secret(value)
    assert options(read, f'token = "${{file:{tmp_path}/keys/k: 1}}"').token == Secret(value)
    assert options(read, 'token = "x"\n'.replace("x", "a${credential:k}b"), CREDENTIALS_DIRECTORY=_link(tmp_path)).token
    assert options(read, 'token = "${file:-x}"', file="of a variable").token == Secret("of a variable")


def _link(tmp_path: Path) -> str:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "k").symlink_to(tmp_path / "keys" / "k: 1")
    return str(tmp_path / "store")


def test_a_file_may_give_any_value(read: Read, write: Write) -> None:
    write("").with_name("count").write_text("3\n")
    assert read(stages(step("b", 'instances = "${file:count}"'))).stages["b"].instances == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("${file:secert}", "secert cannot be read: No such file or directory (did you mean 'secret'?)"),
        ("${file:.}", "is not a file"),
        ("${file:fifo}", "fifo is not a file"),
        ("${file:long}", "long is too long for a value: 1 MiB are allowed"),
        ("${file:binary}", "binary is not text in UTF-8"),
        ("${file:}", "${file:} is not ${VAR}, ${VAR:-default}, ${file:PATH} or ${credential:NAME}"),
        ("${fiel:secret}", "${fiel:secret} is not ${VAR}"),
        ("${file:${T}}", "is not ${VAR}"),
        ("${credential:api/x}", "'api/x' is no name of a credential"),
        ("${credential:..}", "'..' is no name of a credential"),
        ("${credential:apo}", "(did you mean 'api'?); a unit has it by LoadCredential=apo, which `zpipe units` writes"),
    ],
)
def test_what_cannot_be_read_is_said_at_its_line(problems: Problems, tmp_path: Path, given: str, said: str) -> None:
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "long").write_bytes(b"x" * (MOST_BYTES + 1))
    (tmp_path / "binary").write_bytes(b"hunter2\xff")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "api").write_text("hunter2")
    env = {"ZPIPE_RUNTIME_DIR": "/r", "CREDENTIALS_DIRECTORY": str(tmp_path / "store")}
    [problem] = problems(options_text(f'token = "{given}"'), env)
    assert problem.startswith("9: stages.b.options.token: ")
    assert said in problem
    assert "hunter2" not in problem


def test_a_file_that_just_fits(read: Read, tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * MOST_BYTES)
    assert len(options(read, 'token = "${file:long}"').token.reveal()) == MOST_BYTES


def test_a_credential_outside_of_a_unit(problems: Problems) -> None:
    [problem] = problems(options_text('token = "${credential:api}"'), {"ZPIPE_RUNTIME_DIR": "/r"})
    assert problem == (
        "9: stages.b.options.token: the credential api is given to a unit of systemd, and this is none: $CREDENTIALS_DIRECTORY "
        "is not set; by hand, set it to a folder with a file api, such as /etc/credstore"
    )


def test_a_stage_reads_no_options_of_another(write: Write) -> None:
    text = stages(
        step("b", 'options = { token = "${credential:one}" }', plugin="./secretive.py"),
        step("c", 'options = { token = "${credential:two}" }', plugin="./secretive.py", input='"b"'),
    )
    folder = write(text).parent / "store"
    folder.mkdir()
    (folder / "one").write_text("1")
    env = {"ZPIPE_RUNTIME_DIR": "/r", "CREDENTIALS_DIRECTORY": str(folder)}
    config = load(write(text), env=env, only="b")
    assert config.stages["b"].options.token == Secret("1")
    assert [credentials_for(config, stage) for stage in ("b", "c", "a", "")] == [["one"], ["two"], [], []]
    with pytest.raises(ConfigError, match=r"options.token: there is no credential two in .*LoadCredential=two"):
        load(write(text), env=env, only="c")
    with pytest.raises(ConfigError, match=r"options.token: there is no credential two"):
        load(write(text), env=env)


@pytest.mark.parametrize("keys", ["use = [{ U }]", "use = { U }", 'use = ["./used.py", { U }]'])
def test_nor_those_of_what_another_uses(write: Write, keys: str) -> None:
    used = 'plugin = "./used.py", options = { token = "${credential:two}" }'
    text = stages(step("b", keys.replace("U", used)), step("c", input='"b"'))
    (write(text).parent / "used.py").write_text(
        PLUGIN.replace("Map[", "Wrapper[").replace("process(self, message", "wrap(self, call, message")
    )
    config = load(write(text), env={"ZPIPE_RUNTIME_DIR": "/r"}, only="c")
    assert [credentials_for(config, stage) for stage in ("b", "c", "")] == [["two"], [], []]


# What a plugin says of its options


class Mode(Enum):
    FAST = 1
    SAFE = 2


@dataclass
class Node:
    name: Annotated[str, "of the node"]
    below: list[Node] = field(default_factory=list)
    made: int = field(default=0, init=False)


@dataclass
class Declared:
    node: Node
    nodes: Annotated[dict[str, list[Node]] | None, "all"] = None
    wait: Duration = 90.0
    most: Annotated[Size, "a read"] = 65536
    rest: Duration | None = 0.25
    mode: Mode = Mode.SAFE


def test_what_is_known_of_options() -> None:
    node = [
        Option("name", "a string", True, None, "of the node", []),
        Option("below", "a list, each a table", False, [], "", []),
    ]
    assert options_of(Declared) == [
        Option("node", "a table", True, None, "", node),
        Option("nodes", "a table, each a list, each a table", False, None, "all", node),
        Option("wait", 'a time such as "30s"', False, "90s", "", []),
        Option("most", 'a size such as "64MiB"', False, "64KiB", "a read", []),
        Option("rest", 'a time such as "30s"', False, "250ms", "", []),
        Option("mode", '"FAST" or "SAFE"', False, "SAFE", "", []),
    ]


def test_a_secret_is_not_shown_where_it_is_a_default() -> None:
    @dataclass
    class Odd:
        token: Secret = dataclasses.field(default=Secret("hunter2"))

    [option] = options_of(Odd)
    assert "hunter2" not in str(option)
