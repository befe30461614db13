"""zpipe check CONFIG…, zpipe check --unit PIPELINE.STAGE.N"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from zpipe.config import MemoryStatement, load, open_to, worst_case
from zpipe.errors import ConfigError, ExitCode, Mistake
from zpipe.units import names


@click.command()
@click.argument("configs", metavar="CONFIG...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--unit", metavar="PIPELINE.STAGE.N", help="What that unit needs of /etc/zpipe/PIPELINE.toml; quiet if right."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON value on stdout, mistakes included.")
def command(configs: tuple[Path, ...], unit: str | None, as_json: bool) -> ExitCode:
    """Check configs: every mistake at once, and the memory they may take at the worst.

    The plugins named in them are imported, and their options checked. Nothing is started.
    """
    if unit is not None:
        if configs or as_json:
            raise click.UsageError("--unit names the config, and prints nothing but mistakes: leave the others out")
        found = names.parse(unit)
        names.find(found, load(found.config, only=found.stage))
        return ExitCode.DONE
    if not configs:
        raise click.UsageError("give a CONFIG, or --unit PIPELINE.STAGE.N")
    results = [_check(path) for path in configs]
    if as_json:
        files = [
            {
                "file": str(path),
                "ok": not mistakes,
                "mistakes": [_mistake(one) for one in mistakes],
                "insecure": insecure,
                "memory": _memory(memory) if memory is not None else None,
            }
            for path, mistakes, insecure, memory in results
        ]
        click.echo(json.dumps({"files": files}))
    else:
        for path, mistakes, insecure, memory in results:
            for one in mistakes:
                click.echo(str(one), err=True)
            if memory is not None:
                click.echo(f"{path}: OK")
                if insecure:
                    click.echo(f"  {insecure}")
                click.echo(_table(memory))
    return ExitCode.USAGE if any(mistakes for _, mistakes, _, _ in results) else ExitCode.DONE


def _check(path: Path) -> tuple[Path, tuple[Mistake, ...], str, MemoryStatement | None]:
    """(the file, its mistakes, what it is open to, its memory)"""
    try:
        config = load(path)
    except ConfigError as error:
        return path, error.mistakes, "", None
    return path, (), open_to(config.stages.values()), worst_case(config)


def _mistake(mistake: Mistake) -> dict[str, Any]:
    try:
        given = json.loads(json.dumps(mistake.given, allow_nan=False))
    except (TypeError, ValueError):  # TOML has dates, infinity and NaN, JSON has not
        given = str(mistake.given)
    return {
        "file": mistake.file,
        "line": mistake.line,
        "key": mistake.key,
        "given": given,
        "problem": mistake.problem,
        "nearest": mistake.nearest,
    }


def _memory(memory: MemoryStatement) -> dict[str, Any]:
    stages = [
        {
            "stage": row.stage,
            "instances": row.instances,
            "queue_bytes": row.queue_bytes,
            "unacked_bytes": row.unacked_bytes,
            "base_bytes": row.base_bytes,
            "instance_bytes": row.instance_bytes,
            "total_bytes": row.total_bytes,
        }
        for row in memory.rows
    ]
    return {"stages": stages, "total_bytes": memory.total_bytes}


def _table(memory: MemoryStatement) -> str:
    rows: list[tuple[str, ...]] = [("stage", "instances", "queue", "unacked", "base", "at worst")]
    for row in memory.rows:
        sizes = map(_mib, (row.queue_bytes, row.unacked_bytes, row.base_bytes, row.total_bytes))
        rows.append((row.stage, str(row.instances), *sizes))
    rows.append(("total", str(sum(row.instances for row in memory.rows)), "", "", "", _mib(memory.total_bytes)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def _mib(size: int) -> str:
    """Rounded up: it is a bound."""
    return f"{-(-size // 2**20):,} MiB" if size else "-"
