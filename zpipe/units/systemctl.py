"""Asks the service manager, by `systemctl`, to read unit files again or to stop a target. Not here: anything of one instance."""

from __future__ import annotations

import subprocess
from pathlib import Path

from zpipe.config import PipelineConfig
from zpipe.errors import OperatorError
from zpipe.units.unit_files import target_name
from zpipe.units.unit_names import config_path

BOOTED = Path("/run/systemd/system")
"""A folder that is there if and only if systemd is the service manager (sd_booted(3))."""


def reload_manager() -> bool:
    """Has a running manager read the unit files again; False if none runs. Raises OperatorError."""
    if not BOOTED.is_dir():
        return False
    try:
        done = subprocess.run(["systemctl", "daemon-reload"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise OperatorError(f"cannot run systemctl: {error.strerror}") from error
    if done.returncode:
        raise OperatorError(f"systemctl daemon-reload failed: {done.stderr.strip()}")
    return True


def stop_drained_target(config: PipelineConfig) -> str:
    """Stops the target of a pipeline whose units have all ended. Returns what is left to do if this user may not, and else "".

    systemd leaves a target active when the units that it wants end by themselves, and no setting changes that:
    StopWhenUnneeded= only counts who wants the target, which multi-user.target always does, and BindsTo= would end it with
    the first unit.
    """
    if not BOOTED.is_dir() or config.path.absolute() != config_path(config.name):
        return ""
    target = target_name(config.name)
    # What was drained may have been somebody's own run of the same file, while the units go on.
    if not _succeeds("is-active", "--quiet", target) or _succeeds("is-active", "--quiet", f"zpipe@{config.name}.*"):
        return ""
    if _succeeds("--no-ask-password", "stop", target):
        return ""
    return f"{target} is active still, with nothing in it: `systemctl stop {target}` as root"


def _succeeds(*arguments: str) -> bool:
    try:
        return subprocess.run(["systemctl", *arguments], capture_output=True, check=False).returncode == 0
    except OSError:
        return False  # without systemctl there is no target either
