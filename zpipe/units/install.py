"""The unit files on this machine: compared with what they should be, and changed. Does not belong here: what they say
(`unit_files`)."""

from __future__ import annotations

import difflib
import importlib.util
import os
import pwd
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import zpipe
from zpipe.config import PipelineConfig
from zpipe.errors import OperatorError, install_command
from zpipe.folders import SYSTEM_CONFIGS
from zpipe.units import unit_files
from zpipe.units.unit_names import config_path

FOLDER = Path("etc/systemd/system")
PACKAGED = Path("usr/lib/systemd/system")
"""Where the Debian package has the templates."""
USER = "zpipe"
CREDENTIALS = Path("/etc/credstore.encrypted")
"""Where systemd looks for an encrypted credential that has no path."""
_HIDDEN = tuple(f"/{folder}/" for folder in ("home", "root", "run/user", "tmp", "var/tmp"))
"""Folders that ProtectHome= and PrivateTmp= hide from the units."""


@dataclass(frozen=True)
class Change:
    """One file below FOLDER that is not what it should be. `before` and `after` are its texts; None if there is no file."""

    path: str
    before: str | None
    after: str | None

    @property
    def action(self) -> Literal["create", "update", "remove"]:
        if self.before is None:
            return "create"
        return "update" if self.after is not None else "remove"

    @property
    def is_drop_in(self) -> bool:
        return "/" in self.path


def program() -> str:
    """The path by which a unit has to call this zpipe."""
    beside = Path(sys.executable).with_name("zpipe")
    return str(beside if beside.is_file() else Path(sys.argv[0]).absolute())


def templates() -> dict[str, str]:
    """The shipped templates by name. They are in the wheel, or beside the package in a checkout."""
    package = Path(zpipe.__file__).parent
    folder = next((one for one in (package / "systemd", package.parent / "systemd") if one.is_dir()), package)
    try:
        return {name: (folder / name).read_text("utf-8") for name in (unit_files.TEMPLATE, unit_files.MONITOR)}
    except FileNotFoundError as error:
        raise OperatorError(f"{error.filename} is missing from this installation of zpipe") from None


def find_changes(root: Path, pipeline: str, wanted: dict[str, str]) -> list[Change]:
    """The changes after which FOLDER has the files of the pipeline, and none that an earlier config left.

    A template that the package has is not wanted a second time: the copy would hide the package's, also after an upgrade.
    """
    folder = root / FOLDER
    existing = [str(path.relative_to(folder)) for path in folder.glob(f"zpipe*@*.service.d/{unit_files.DROP_IN}")]
    gone = [path for path in existing if unit_files.is_drop_in_of(pipeline, path) and path not in wanted]
    after = {path: None if _read(root / PACKAGED / path) == text else text for path, text in wanted.items()}
    found = [Change(path, _read(folder / path), after.get(path)) for path in [*wanted, *sorted(gone)]]
    return [change for change in found if change.before != change.after]


def diff(folder: Path, changes: list[Change]) -> str:
    """The changes as `diff -u` would show them."""
    lines: list[str] = []
    for change in changes:
        path = str(folder / change.path)
        before, after = (None if one is None else one.splitlines() for one in (change.before, change.after))
        names = ("/dev/null" if before is None else path, "/dev/null" if after is None else path)
        lines += difflib.unified_diff(before or [], after or [], *names, lineterm="")
    return "".join(line + "\n" for line in lines)


def apply(root: Path, changes: list[Change]) -> None:
    """Makes the changes. An error leaves no file half written. Raises OperatorError."""
    for change in changes:
        path = root / FOLDER / change.path
        try:
            if change.after is None:
                path.unlink(missing_ok=True)
                if change.is_drop_in and not any(path.parent.iterdir()):
                    path.parent.rmdir()
            else:
                _write(path, change.after)
        except OSError as error:
            raise OperatorError(f"cannot write {path}: {error.strerror}") from error


def warnings(
    config: PipelineConfig,
    program_path: str,
    root: Path,
    changes: list[Change],
    host: str = "",
    encrypted: bool = False,
) -> list[str]:
    """Sentences about what would keep the units from running, as far as this process can see it."""
    found = []
    if config.has_keys and (missing := _missing_key(root, host, encrypted)):
        found.append(missing)
    read = config_path(config.name)
    if config.path.absolute() != read:
        copy = f"install -m 644 {config.path} {read}"
        found.append(
            f"the units read {read}, which is not the config given here: {copy} (and the files it names beside it)"
        )
    if program_path.startswith(_HIDDEN):
        found.append(
            f"the units cannot see {program_path} (ProtectHome=, PrivateTmp=): install zpipe elsewhere, such as /opt/zpipe"
        )
    if root == Path("/") and not _has_user():
        found.append(
            f"there is no user {USER}: install zpipe-sysusers.conf in /etc/sysusers.d and run systemd-sysusers"
        )
    if config.prometheus and importlib.util.find_spec("prometheus_client") is None:
        pip = str(Path(program_path).with_name("pip"))
        found.append(f"what serves metrics needs prometheus_client: {install_command('prometheus', pip)}")
    for change in changes:
        if change.action == "remove" and change.is_drop_in:
            unit = Path(change.path).parent.name.removesuffix(".d")
            found.append(f"{unit} is not in the config any more: systemctl stop it, if it runs")
    return found


def _missing_key(root: Path, host: str, encrypted: bool) -> str:
    plain = SYSTEM_CONFIGS / "keys" / f"{host}.key"
    kept = CREDENTIALS / f"{host}.key" if encrypted else plain
    if (root / kept.relative_to("/")).exists():
        return ""
    if encrypted:
        cure = f"systemd-creds encrypt --name={host}.key {plain} {kept}, and then remove {plain}"
    else:
        cure = f"`zpipe keys new {host}` as root makes it"
    return f"the units read the private key of host {host!r} from {kept}, which is not there: {cure}"


def _has_user() -> bool:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True


def _read(path: Path) -> str | None:
    try:
        if path.is_symlink() and path.resolve() == Path(os.devnull):
            raise OperatorError(f"{path} is masked: systemctl unmask {path.name}")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"cannot read {path}: {error}") from error


def _write(path: Path, content: str) -> None:
    """Writes a file that everybody can read, whatever the umask is, so that `systemctl cat` shows it."""
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
        path.parent.chmod(0o755)
    part = path.with_name(path.name + ".part")  # systemd ignores files of this name
    part.write_text(content, encoding="utf-8")
    part.chmod(0o644)
    part.replace(path)
