"""Puts the commit that a wheel or a source distribution is built of into it, as zpipe/commit, for `zpipe --version`.

A checkout has no such file, and is asked itself. Does not belong here: any other file of a distribution (pyproject.toml).
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMMIT = "zpipe/commit"


class CommitHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        self.folder = TemporaryDirectory()
        source = Path(self.root, COMMIT)  # of a source distribution
        if not source.is_file():
            source = Path(self.folder.name, "commit")
            source.write_text(f"{commit_of(Path(self.root))}\n")
        # It is named also where it would be found, so that it is at the same place in each wheel.
        build_data["force_include"][str(source)] = COMMIT

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self.folder.cleanup()


def commit_of(checkout: Path) -> str:
    """With "-dirty" where something is not committed; "unknown" if this is no checkout, or there is no git."""
    if not (checkout / ".git").exists():
        return "unknown"
    command = ["git", "--no-optional-locks", "describe", "--always", "--exclude=*", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
