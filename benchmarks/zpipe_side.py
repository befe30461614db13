"""The same three stages run by `zpipe run`. Its sink plugin does the measuring."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.workload import (
    COUNT,
    FIELDS,
    LATENCY_COUNT,
    LATENCY_RATE,
    LATENCY_WARM_UP,
    WARM_UP,
    LatencyPercentiles,
    latency,
)

HERE = Path(__file__).parent
TIMEOUT_S = 300

CONFIG = """\
[pipeline]
name = "bench"

[stages.generate]
plugin = "generate"
options = {{ count = {total}, {rate}fields = {fields} }}

[stages.map]
input = "generate"
plugin = "python"
options = {{ function = "mapper.py:touch" }}

[stages.discard]
input = "map"
plugin = "./sinks.py"
options = {{ result = "{result}", measure = "{measure}", warm_up = {warm_up}, count = {count} }}
"""


def throughput(count: int = COUNT) -> float:
    """Messages a second, at the sink."""
    return float(_run("rate", WARM_UP, count))


def idle_latency(count: int = LATENCY_COUNT) -> LatencyPercentiles:
    return latency(_run("ages", LATENCY_WARM_UP, count, rate=f"rate = {LATENCY_RATE}, "))


def _run(measure: str, warm_up: int, count: int, rate: str = "") -> Any:
    with tempfile.TemporaryDirectory(prefix="zpipe-bench-") as name:
        folder = Path(name)
        result = folder / "result.json"
        for plugin in ("mapper.py", "sinks.py"):
            shutil.copy(HERE / plugin, folder / plugin)
        config = folder / "bench.toml"
        config.write_text(
            CONFIG.format(
                total=warm_up + count,
                rate=rate,
                fields=_inline_table(FIELDS),
                result=result,
                measure=measure,
                warm_up=warm_up,
                count=count,
            )
        )
        _zpipe_run(config)
        return json.loads(result.read_text())


def _zpipe_run(config: Path) -> None:
    """Runs a config to its end. Anything but a balanced ledger is an error that shows what zpipe has printed."""
    folders = {"ZPIPE_RUNTIME_DIR": str(config.parent / "r"), "ZPIPE_STATE_DIR": str(config.parent / "s")}
    process = subprocess.Popen(
        [Path(sys.executable).with_name("zpipe"), "run", config, "--json"],
        env={**os.environ, **folders},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, errors = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.terminate()  # zpipe run stops its stages in order
        _, errors = process.communicate()
        raise RuntimeError(f"zpipe run did not end within {TIMEOUT_S} s:\n{errors[-2000:]}") from None
    if process.returncode:
        raise RuntimeError(f"zpipe run ended with {process.returncode}:\n{errors[-2000:]}")


def _inline_table(fields: dict[str, Any]) -> str:
    """The fields as a TOML table. TOML writes strings, numbers and booleans as JSON does."""
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in fields.items()) + " }"
