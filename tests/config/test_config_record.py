"""What an instance leaves of its config: what comes back, what is kept out, and where a file differs from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from config_texts import stages, step
from config_types import Read

from zpipe.config import config_record
from zpipe.hookspecs import Traits

ENV = {"ZPIPE_RUNTIME_DIR": "/r", "V": "open-sesame", "HOST": "127.0.0.1"}
TEXT = stages(
    step("b", 'limit = { kind = "fixed", rate = 5 }\nbatch = { messages = 7 }', plugin="./batches.py"),
    step("c", '[stages.c.options]\nname = "${V}"', plugin="./typed.py", input='["b", "a.errors"]'),
    step("d", 'listen = ["tcp://${HOST}:7000"]\nworkers = { kind = "process", timeout = "5s" }', input='"c"'),
    '[telemetry]\nprometheus = "127.0.0.1:9464"\n',
    "[security]\ninsecure = true\n",
)


def made(read: Read, text: str = TEXT, stage: str = "b", at: float = 1.0) -> config_record.ConfigRecord:
    return config_record.make(read(text, ENV), stage, 1, at, Path("/s"))


def test_a_record_comes_back_without_what_is_the_plugins_own(read: Read) -> None:
    one = made(read)
    written = config_record.write(one)
    back = config_record.read(written)
    stages_ = {name: replace(stage, options=None, traits=Traits()) for name, stage in one.config.stages.items()}
    assert back == replace(one, config=replace(one.config, stages=stages_, text="", traces=""))
    assert back.config.stages["d"].listen == ("tcp://127.0.0.1:7000",), "where it is reached is needed"
    assert "open-sesame" not in written
    assert back.hash != made(read, TEXT + "# more\n").hash


USED = """
from dataclasses import dataclass
import zpipe

@dataclass
class Options:
    word: str

class Mark(zpipe.Wrapper[Options]):
    def wrap(self, call, messages, context):
        return call(messages)
"""


def test_the_options_of_what_a_stage_uses_are_kept_out(read: Read, tmp_path: Path) -> None:
    (tmp_path / "used.py").write_text(USED)
    text = stages(step("b", 'use = { plugin = "./used.py", options = { word = "${V}" } }'))
    one = made(read, text)
    assert one.config.stages["b"].use[0].options.word == "open-sesame"
    written = config_record.write(one)
    assert "open-sesame" not in written
    assert [use.plugin for use in config_record.read(written).config.stages["b"].use] == ["./used.py"]


def test_the_address_of_traces_is_kept_out(read: Read) -> None:
    one = made(read)
    traced = replace(one, config=replace(one.config, traces="http://user:open-sesame@127.0.0.1/"))
    assert "open-sesame" not in config_record.write(traced)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.pop("config"),
        lambda value: value.update(format=2),
        lambda value: value.update(stage="zzz"),
        lambda value: value.update(instance="1"),
        lambda value: value["config"].update(name=5),
        lambda value: value["config"]["stages"]["b"].update(queue=None),
        lambda value: value["config"].update(stages=[]),
    ],
)
def test_what_is_no_record_is_refused(read: Read, change: object) -> None:
    value = json.loads(config_record.write(made(read)))
    change(value)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"."):
        config_record.read(json.dumps(value))
    for text in ("", "[]", "5", "nul"):
        with pytest.raises(ValueError, match=r"."):
            config_record.read(text)


def test_differences_name_tables_and_pass_over_comments(read: Read) -> None:
    one = made(read)
    assert config_record.differences([one], TEXT + "\n# a word\n") == []
    assert config_record.differences([one], TEXT.replace("rate = 5", "rate = 6")) == ["stages.b"]
    assert config_record.differences([one], TEXT.replace('name = "${V}"', 'name = "${W}"')) == ["stages.c"]
    assert config_record.differences([one], TEXT.replace("insecure = true", "insecure = false")) == ["security"]
    assert config_record.differences([one], TEXT.replace("[stages.d]", "[stages.e]")) == ["stages.e", "stages.d"]


def test_each_instance_knows_its_own_stage_best(read: Read) -> None:
    newer = TEXT.replace("rate = 5", "rate = 6").replace('"5s"', '"6s"')
    old_b, new_d = made(read, TEXT, "b", 1.0), made(read, newer, "d", 2.0)
    both = config_record.merged([new_d, old_b])
    assert (both.stages["b"].limit.rate, both.stages["d"].workers.timeout_s) == (5.0, 6.0)  # type: ignore[union-attr]
    assert config_record.differences([new_d, old_b], newer) == ["stages.b"], "b was not started again"
    new_b = made(read, newer, "b", 3.0)
    assert config_record.differences([new_d, old_b, new_b], newer) == ["stages.b"], "one instance of b was not"
    assert config_record.differences([new_d, new_b], newer) == []


def test_a_stage_that_still_runs_is_known_though_the_newest_config_has_it_no_more(read: Read) -> None:
    shorter = stages(step("c", '[stages.c.options]\nname = "${V}"', plugin="./typed.py"))
    old_d, new_c = made(read, TEXT, "d", 1.0), made(read, shorter, "c", 2.0)
    assert list(config_record.merged([old_d, new_c]).stages) == ["a", "c", "d"]
    assert config_record.merged([old_d, new_c]).stages["c"].inputs == new_c.config.stages["c"].inputs
