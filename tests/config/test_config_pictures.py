"""The graph and the memory statement of a config."""

from __future__ import annotations

from config_texts import stages, step
from config_types import Read

from zpipe.config.graph_text import dot, mermaid
from zpipe.config.memory_estimate import estimate_memory

MIB = 2**20
TEXT = stages(
    step("end", "instances = 2\nqueue = { messages = 10, bytes = 4096 }"),
    step("rest", 'batch = { timeout = "250ms" }', plugin="./batches.py", input='["end", "a.rest"]'),
)


def test_mermaid(read: Read) -> None:
    assert mermaid(read(TEXT)) == (
        "flowchart LR\n"
        '    s0["a<br/>./source.py"]\n'
        '    s1["end ×2<br/>./step.py<br/>queue 10 / 4KiB"]\n'
        '    s2["rest<br/>./batches.py<br/>queue 4096 / 64MiB<br/>batch 100 / 4MiB / 0.25s"]\n'
        "    s0 --> s1\n"
        "    s1 --> s2\n"
        '    s0 -->|"rest"| s2\n'
    )


def test_dot(read: Read) -> None:
    assert dot(read(TEXT)) == (
        'digraph "t" {\n'
        "    rankdir=LR;\n"
        "    node [shape=box];\n"
        '    "a" [label="a\\n./source.py"];\n'
        '    "end" [label="end ×2\\n./step.py\\nqueue 10 / 4KiB"];\n'
        '    "rest" [label="rest\\n./batches.py\\nqueue 4096 / 64MiB\\nbatch 100 / 4MiB / 0.25s"];\n'
        '    "a" -> "end";\n'
        '    "end" -> "rest";\n'
        '    "a" -> "rest" [label="rest"];\n'
        "}\n"
    )


def test_the_memory_at_the_worst(read: Read) -> None:
    head, middle, last = estimate_memory(read(TEXT))
    assert (head.queue_bytes, head.unacked_bytes) == (0, 2 * 128 * MIB)
    assert (middle.queue_bytes, middle.unacked_bytes, middle.instances) == (4096 + 16 * MIB, 128 * MIB, 2)
    assert (last.queue_bytes, last.unacked_bytes) == (80 * MIB, 0)
    assert middle.total_bytes == 2 * middle.instance_bytes
