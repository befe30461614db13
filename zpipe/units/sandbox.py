"""Tells before a start what the sandbox of the shipped units will not let a stage do: use the network, or write to a path. Does
not belong here: opening the sandbox, which `unit_files` does."""

from __future__ import annotations

import os
import pwd
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from zpipe.config import PipelineConfig, StageConfig
from zpipe.config.reading.mistakes import MistakeReport
from zpipe.folders import instance_name
from zpipe.units import install, unit_files, unit_names
from zpipe.units.unit_names import Unit, UnitError

DATA = Path("/var/lib/zpipe/data")
STATE = Path("/var/lib/zpipe")
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))
_SETTING = re.compile(r"^(ReadWritePaths|BindPaths|ProtectSystem|PrivateTmp)=(.*)$", re.MULTILINE)


def check_network(stage: StageConfig) -> None:
    """Raises UnitError if the stage needs the network and this process may not use it. Otherwise each of its messages would
    become a dead letter."""
    if not stage.traits.needs_network:
        return
    try:
        socket.socket(socket.AF_INET).close()
    except OSError as error:
        raise UnitError(
            f"stage {stage.name!r}: its plugin needs the network, from which this process is cut off ({error.strerror}): "
            "`zpipe units CONFIG --install` opens its unit"
        ) from None


def warn_of_paths(config: PipelineConfig, report: MistakeReport, root: Path) -> None:
    """Reports the paths that the units of a pipeline may not write, as if the config were in /etc/zpipe."""
    for stage in config.stages.values():
        for written in stage.traits.writes:
            path = Path(os.path.normpath(config.folder / written))
            if path.is_relative_to(config.folder):
                path = unit_names.config_path(config.name).parent / path.relative_to(config.folder)
            if why := _unwritable(path, Unit(config.name, stage.name, 1), root / install.FOLDER):
                report.add(("stages", stage.name, "options"), why)


def warn_of_network(config: PipelineConfig, report: MistakeReport, root: Path) -> None:
    """Reports installed units that are cut off from the network although their stage needs it."""
    for stage in config.stages.values():
        unit = Unit(config.name, stage.name, 1)
        if stage.traits.needs_network and _is_cut_off(root / install.FOLDER, unit):
            problem = (
                f"plugin {stage.plugin!r} needs the network, from which {unit_files.service_name(unit)} is cut off"
            )
            report.add(("stages", stage.name, "plugin"), f"{problem}: zpipe units {config.path} --install")


def _is_cut_off(folder: Path, unit: Unit) -> bool:
    """Whether the unit is installed, and without the line that `zpipe units` would write for the network."""
    if not (folder / unit_files.target_name(unit.pipeline)).exists():
        return False
    return not any(unit_files.NETWORK in content.splitlines() for content in _drop_ins(folder, unit))


def _unwritable(path: Path, unit: Unit, folder: Path) -> str:
    """Why the unit may not write the path, and what to do about it; "" if it may, as far as can be seen."""
    allowed, private_tmp = [DATA, STATE / instance_name(unit.pipeline, unit.stage, unit.instance)], True
    for content in _drop_ins(folder, unit):
        for key, value in _SETTING.findall(content):
            if key == "ProtectSystem" and value != "strict":
                return ""
            if key == "PrivateTmp":
                private_tmp = value in ("yes", "true", "1", "on")
            elif key != "ProtectSystem":
                allowed += [Path(one.lstrip("-+").split(":")[-1]) for one in value.split()]
    if path.is_relative_to("/dev"):
        return ""
    if private_tmp and any(path.is_relative_to(one) for one in _TEMPORARY):
        return f"{path} is in a folder for temporary files that is the unit's own, and gone when it stops: use {DATA}"
    if not any(path.is_relative_to(one) for one in allowed):
        hint = (
            f"put it in {DATA}, or name its folder in ReadWritePaths= (systemctl edit {unit_files.service_name(unit)})"
        )
        return f"{path} is not to be written by its unit (ProtectSystem=strict): {hint}"
    nearest = next((one for one in (path, *path.parents) if os.path.exists(one)), path)
    return (
        "" if _may_write(nearest) else f"{nearest} is not to be written by user {install.USER}, whom the unit runs as"
    )


def _drop_ins(folder: Path, unit: Unit) -> Iterator[str]:
    for name in (unit_files.TEMPLATE, unit_files.service_name(unit)):
        for path in sorted((folder / f"{name}.d").glob("*.conf")):
            try:
                yield path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue


def _may_write(path: Path) -> bool:
    """Whether the user of the units may write to the path. True if that cannot be known: there is no such user, or this one may
    not look."""
    try:
        user, found = pwd.getpwnam(install.USER), path.stat()
        groups = os.getgrouplist(user.pw_name, user.pw_gid)
    except (KeyError, OSError):
        return True
    if found.st_uid == user.pw_uid:
        return bool(found.st_mode & 0o200)
    return bool(found.st_mode & (0o020 if found.st_gid in groups else 0o002))
