"""The target of a pipeline whose units have all ended. May live here: having systemd know of it.

systemd leaves a target active when the units that it wants end by themselves, and has no setting for it: StopWhenUnneeded=
counts only who wants the target, which is multi-user.target for good, and BindsTo= would end it with the first unit.
"""

from __future__ import annotations

import subprocess

from zpipe.config import PipelineConfig
from zpipe.units.install import BOOTED
from zpipe.units.names import config_path
from zpipe.units.text import target_name


def settle(config: PipelineConfig) -> str:
    """Stops the target if it is active. What is left to do, in words, where this user may not."""
    if not BOOTED.is_dir() or config.path.absolute() != config_path(config.name):
        return ""
    target = target_name(config.name)
    if not _done("systemctl", "is-active", "--quiet", target) or _done(
        "systemctl", "--no-ask-password", "stop", target
    ):
        return ""
    return f"{target} is active still, with nothing in it: `systemctl stop {target}` as root"


def _done(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False  # no systemctl, so no target either
