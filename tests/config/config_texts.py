"""Short ways to write a config."""

from __future__ import annotations


def stages(*tables: str) -> str:
    """A config of a head stage `a` and the tables given."""
    return "\n".join(['[pipeline]\nname = "t"', '[stages.a]\nplugin = "./source.py"', *tables])


def step(name: str, keys: str = "", *, plugin: str = "./step.py", input: str = '"a"') -> str:
    return f'[stages.{name}]\nplugin = "{plugin}"\ninput = {input}\n{keys}'
