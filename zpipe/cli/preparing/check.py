"""zpipe check CONFIG…, zpipe check --unit PIPELINE.STAGE.N"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from zpipe.cli import known_names
from zpipe.cli.parameters import json_or_text
from zpipe.config import PipelineConfig, jetstream_table, load, parse_address
from zpipe.config.addresses import describe_insecurity
from zpipe.config.loading import report_for
from zpipe.config.memory_estimate import MemoryRow, estimate_memory
from zpipe.config.reading.mistakes import MistakeReport
from zpipe.config.topology import advise
from zpipe.errors import ConfigError, ExitCode, Mistake, TargetError
from zpipe.operate import buffer_disks
from zpipe.runtime.places import Places
from zpipe.units import sandbox, unit_names


@click.command()
@click.argument(
    "configs", metavar="CONFIG...", nargs=-1, type=click.Path(path_type=Path), shell_complete=known_names.pipelines
)
@click.option(
    "--unit", metavar="PIPELINE.STAGE.N", help="What that unit needs of /etc/zpipe/PIPELINE.toml; quiet if right."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON value on stdout, mistakes included.")
def command(configs: tuple[Path, ...], unit: str | None, as_json: bool) -> ExitCode:
    """Check configs: every mistake at once, what is hardly meant, and the memory they may take at the worst.

    The plugins named in them are imported, and so are the functions of `python` stages; their options are checked. Nothing is
    started. Warnings do not change the exit code. Of a config in /etc/zpipe it also says what its units may not do.
    """
    if unit is not None:
        if configs or as_json:
            raise click.UsageError("--unit names the config, and prints nothing but mistakes: leave the others out")
        found, pipeline = unit_names.load(unit)
        sandbox.check_network(pipeline.stages[found.stage])
        return ExitCode.DONE
    if not configs:
        raise click.UsageError("give a CONFIG, or --unit PIPELINE.STAGE.N")
    results = [_check(path) for path in configs]
    if as_json:
        click.echo(json.dumps({"files": [_as_json(one) for one in results]}))
    else:
        for one in results:
            for mistake in one.mistakes:
                click.echo(str(mistake), err=True)
            for warning in one.warnings:
                click.echo(f"warning: {warning}", err=True)
            if one.memory is not None:
                click.echo(f"{one.path}: OK")
                if one.insecure:
                    click.echo(f"  {one.insecure}")
                click.echo(_table(one.memory))
                for instance, host, ports in one.placed:
                    click.echo(f"  {instance} on {host}" + f", tcp {ports}" * bool(ports))
                if one.network:
                    click.echo(f"needs the network: {', '.join(one.network)} (zpipe units opens their units)")
    return ExitCode.USAGE if any(one.mistakes for one in results) else ExitCode.DONE


@dataclass(frozen=True)
class _Result:
    """What was found out about one config. With mistakes, `memory` is None and everything else is empty.

    network   the stages that need the network
    insecure  a sentence that says who can take part in the pipeline without a key; "" if nobody can
    placed    (instance, host, its ports) where the pipeline has hosts
    """

    path: Path
    mistakes: tuple[Mistake, ...]
    warnings: tuple[Mistake, ...] = ()
    network: tuple[str, ...] = ()
    insecure: str = ""
    memory: list[MemoryRow] | None = None
    placed: tuple[tuple[str, str, str], ...] = ()


def _check(path: Path) -> _Result:
    try:
        config = load(path)
    except ConfigError as error:
        return _Result(path, error.mistakes)
    report = report_for(config, str(path), os.environ)
    advise(config, report)
    jetstream_table.advise(config.stages.values(), report)
    _check_this_machine(config, report)
    if config.path == unit_names.config_path(config.name):  # its units read it there
        sandbox.warn_of_paths(config, report, Path("/"))
        sandbox.warn_of_network(config, report, Path("/"))
    network = tuple(stage.name for stage in config.stages.values() if stage.traits.needs_network)
    insecure = describe_insecurity(config.stages.values(), config.insecure)
    return _Result(path, (), tuple(report.mistakes), network, insecure, estimate_memory(config), _placed(config))


def _check_this_machine(config: PipelineConfig, report: MistakeReport) -> None:
    """Whether it is a host of the pipeline, if it is said to be one, and has room for its buffers."""
    try:
        places = Places(config, os.environ)
    except TargetError as error:
        report.add(("hosts",), str(error))
        return
    for one in buffer_disks.examine(config, places):
        if one.problem:
            report.add(("stages", one.instances[0][0], "buffer"), f"does not fit here: {one.whose} {one.problem}")


def _placed(config: PipelineConfig) -> tuple[tuple[str, str, str], ...]:
    """Where each instance runs, and the ports that a firewall has to let through to it."""
    found = []
    for stage in config.stages.values():
        ports = [parse_address(text).port for text in stage.listen]
        for number, host in enumerate(stage.hosts, 1):
            shown = f"{ports[number - 1]}-{ports[number - 1] + 2}" if ports else ""
            found.append((f"{stage.name}.{number}", host, shown))
    return tuple(found)


def _as_json(result: _Result) -> dict[str, Any]:
    return {
        "file": str(result.path),
        "ok": not result.mistakes,
        "mistakes": [_mistake(one) for one in result.mistakes],
        "warnings": [_mistake(one) for one in result.warnings],
        "network": list(result.network),
        "insecure": result.insecure,
        "placed": [dict(zip(("instance", "host", "ports"), row, strict=True)) for row in result.placed],
        "memory": _memory(result.memory) if result.memory is not None else None,
    }


def _mistake(mistake: Mistake) -> dict[str, Any]:
    return {**mistake._asdict(), "given": json_or_text(mistake.given)}  # TOML has dates, infinity and NaN


def _memory(memory: list[MemoryRow]) -> dict[str, Any]:
    stages = [{**row._asdict(), "instance_bytes": row.instance_bytes, "total_bytes": row.total_bytes} for row in memory]
    return {"stages": stages, "total_bytes": sum(row.total_bytes for row in memory)}


def _table(memory: list[MemoryRow]) -> str:
    rows: list[tuple[str, ...]] = [("stage", "instances", "queue", "unacked", "base", "at worst")]
    for row in memory:
        sizes = map(_mib, (row.queue_bytes, row.unacked_bytes, row.base_bytes, row.total_bytes))
        rows.append((row.stage, str(row.instances), *sizes))
    total = _mib(sum(row.total_bytes for row in memory))
    rows.append(("total", str(sum(row.instances for row in memory)), "", "", "", total))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def _mib(size: int) -> str:
    """The size in MiB, rounded up since it is a bound."""
    return f"{-(-size // 2**20):,} MiB" if size else "-"
