"""What a stage's table must not say with the hooks that its plugin has."""

from __future__ import annotations

from pathlib import Path

from config_texts import stages, step
from config_types import Problems

TIMED = "import zpipe\nclass T(zpipe.Map):\n  def process(self, message): return 1\n  def tick(self): pass\n"


def test_tick_needs_a_tick(problems: Problems) -> None:
    [found] = problems(stages(step("b", 'tick = "2s"')))
    assert "stages.b.tick: is how often a plugin's tick is called, and plugin './step.py' has none" in found


EACH = "import zpipe\nclass E(zpipe.BatchMap):\n  {}def process_batch(self, messages): pass\n"
EACH += "  {}def process_each(self, messages): pass\n"


def test_a_timeout_is_for_the_hook_that_is_called(problems: Problems, tmp_path: Path) -> None:
    (tmp_path / "each.py").write_text(EACH.format("", "async "))
    (tmp_path / "batch.py").write_text(EACH.format("async ", ""))
    timeout, batch = 'workers = { timeout = "5s" }', "batch = { messages = 5 }"
    assert problems(stages(step("b", timeout, plugin="./each.py"))) == []
    assert problems(stages(step("b", f"{timeout}\n{batch}", plugin="./batch.py"))) == []
    for more, plugin in ((timeout, "batch"), (f"{timeout}\n{batch}", "each")):
        [found] = problems(stages(step("b", more, plugin=f"./{plugin}.py")))
        assert f"cannot be kept: plugin './{plugin}.py' is not async" in found


def test_a_tick_belongs_to_one_process(problems: Problems, tmp_path: Path) -> None:
    (tmp_path / "timed.py").write_text(TIMED)
    [found] = problems(stages(step("b", 'tick = "2s"\nworkers = { kind = "process" }', plugin="./timed.py")))
    assert 'stages.b.workers.kind: must be "thread": the plugin has zpipe_tick, which belong to one process' in found
    assert problems(stages(step("b", 'tick = "2s"', plugin="./timed.py"))) == []
