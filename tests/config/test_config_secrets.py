"""What came from a ${VAR}, a file or a credential may be a secret, so no mistake shows it: not in words, and not in the JSON of
`zpipe check`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from config_texts import stages, step

from zpipe.config import load
from zpipe.errors import ConfigError

Write = Callable[[str], Path]
SECRET = "s3cr\\et 'of' \"many\" words"
PICKY = """
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal
from zpipe import hookimpl

class Mode(Enum):
    FAST = "fast"
    SAFE = "safe"

@dataclass
class Options:
    url: str = ""
    tags: list[bool] = field(default_factory=list)
    mode: Mode = Mode.FAST
    word: Literal["a", "b"] = "a"

    def __post_init__(self):
        if self.url:
            raise ValueError(f"url is {self.url!r}: it must not be {self.url}, nor {self.url.removeprefix('https://')!r}")

@hookimpl
def zpipe_options():
    return Options

@hookimpl
def zpipe_process(message):
    return message
"""


@pytest.mark.parametrize(
    "keys",
    [
        'options = { url = "${V}" }',
        'options = { url = "https://${V}" }',
        'options = { tags = ["${V}"] }',
        'options = { mode = "${V}" }',
        'options = { word = "${V}" }',
        'options = { mode = { x = "${V}" } }',
        'options = "${V}"',
        'options = { none = "${V}" }',
        'options = { none = { deep = ["${V}"] } }',
        'instances = "${V}"',
        'batch = { timeout = "${V}" }',
        'batch = { bytes = "${V}" }',
        'workers = { kind = "${V}" }',
        'listen = ["${V}"]',
        'nonsense = "${V}"',
        'input = "${V}"',
    ],
)
@pytest.mark.parametrize("value", [SECRET, "hunter2", "zq"])
@pytest.mark.parametrize("reference", ["${V}", "${file:V}", "${credential:V}"])
def test_a_value_from_outside_of_the_file_is_never_shown(write: Write, keys: str, value: str, reference: str) -> None:
    folder = write("").parent
    (folder / "picky.py").write_text(PICKY)
    (folder / "V").write_text(f"{value}\n")
    text = stages(step("b", keys.replace("${V}", reference), plugin="./picky.py"))
    if keys.startswith("input"):
        text = text.replace('input = "a"\n', "", 1)
    with pytest.raises(ConfigError) as raised:
        load(write(text), env={"ZPIPE_RUNTIME_DIR": "/r", "V": value, "CREDENTIALS_DIRECTORY": str(folder)})
    said = "\n".join(f"{one} {json.dumps(one.given)} {one.nearest}" for one in raised.value.mistakes)
    for form in (value, repr(value)[1:-1], json.dumps(value)[1:-1]):
        assert not re.search(rf"(?<![\w:]){re.escape(form)}(?!\w)", said), said
    assert "V}" in said, "it says which variable, file or credential"


def test_a_line_of_a_long_secret_is_not_shown_either(write: Write) -> None:
    folder = write("").parent
    (folder / "picky.py").write_text(PICKY.replace("removeprefix('https://')", "splitlines()[1]"))
    (folder / "key.pem").write_text("-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n}\n-----END KEY-----\n")
    with pytest.raises(ConfigError) as raised:
        load(write(stages(step("b", 'options = { url = "${file:key.pem}" }', plugin="./picky.py"))))
    assert "MIIE" not in str(raised.value)
    assert "${file:key.pem}" in str(raised.value)


def test_another_key_does_not_tell_it_either(write: Write) -> None:
    """The plugin of `b` has a mistake that names the address of `c`."""
    text = stages(step("b", "instances = 0"), step("c", 'listen = ["tcp://${H}:7000", "tcp://${H}:7001"]', input='"b"'))
    with pytest.raises(ConfigError) as raised:
        load(write(text), env={"ZPIPE_RUNTIME_DIR": "/r", "H": "127.0.0.77"})
    assert "127.0.0.77" not in str(raised.value)
    assert "tcp://${H}:7001 clashes with tcp://${H}:7000" in str(raised.value)
