"""The folders where an instance keeps its sockets and its state: their paths, and making them safe to use.

Does not belong here: sockets, and what the files in the folders say.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from zpipe.errors import OperatorError

SYSTEM_RUNTIME, SYSTEM_STATE = Path("/run/zpipe"), Path("/var/lib/zpipe")
"""The folders in which systemd makes those of the units. They belong to the user of the units, but every user must be able to
pass through them."""
SYSTEM_CONFIGS = Path("/etc/zpipe")
"""The folder of the configs that belong to the system, and so to its units."""
INSTANCE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[0-9]+")


def instance_name(pipeline: str, stage: str, n: int) -> str:
    """The name of an instance on this machine. No part may have a dot, so that it can be read back in one way only."""
    return f"{pipeline}.{stage}.{n}"


CONTAINER = "ZPIPE_CONTAINER"
"""Set to 1 where no other user could get at a folder, as in a container: then the modes of folders are not looked at.

A volume of Kubernetes may be written by everyone, and its kubelet changes modes in it."""

BUFFERS = "buffers"
"""In an instance's state folder: its disk buffers, a folder for each."""


def buffer_folder(state: Path, outlet: str, consumer: str) -> Path:
    """Where an instance with that state folder has the disk buffer of a link."""
    return state / BUFFERS / f"{outlet or '_'}.{consumer}"


def runtime_root(env: Mapping[str, str]) -> Path:
    """The folder that has the runtime folders of all instances."""
    if named := _named_root(env, "ZPIPE_RUNTIME_DIR", "RUNTIME_DIRECTORY"):
        return named
    if shared := env.get("XDG_RUNTIME_DIR"):
        return Path(shared).absolute() / "zpipe"
    temporary = env.get("TMPDIR")
    if not temporary:
        import tempfile  # it takes 4 ms and is rarely needed

        temporary = tempfile.gettempdir()
    return Path(temporary).absolute() / f"zpipe-{os.getuid()}"


def state_root(env: Mapping[str, str]) -> Path:
    """The folder that has the state folders of all instances."""
    if named := _named_root(env, "ZPIPE_STATE_DIR", "STATE_DIRECTORY"):
        return named
    if shared := env.get("XDG_STATE_HOME"):
        return Path(shared).absolute() / "zpipe"
    return _home(env) / ".local" / "state" / "zpipe"


def keys_folder(env: Mapping[str, str], config: Path | None = None) -> Path:
    """The folder of the private keys of this machine, and of the public keys that it trusts: the system's for root, and for a
    config of the system whoever reads it."""
    if named := env.get("ZPIPE_KEYS_DIR"):
        return Path(named).absolute()
    if os.getuid() == 0 or (config is not None and config.absolute().parent == SYSTEM_CONFIGS):
        return SYSTEM_CONFIGS / "keys"
    shared = env.get("XDG_CONFIG_HOME")
    return (Path(shared).absolute() if shared else _home(env) / ".config") / "zpipe" / "keys"


def make_private(path: Path) -> None:
    """Makes the folder `path`, and any that are missing above it, for this user only.

    Raises OperatorError if somebody else could put a socket of their own there: if the folder is a symbolic link, has another
    owner or may be written to by others, or if the folder above it lets others replace it. With $ZPIPE_CONTAINER only
    the folder itself is looked at, and not its mode.
    """
    path = path.absolute()
    try:
        if not path.parent.exists():
            make_private(path.parent)
        new = not path.exists()
        path.mkdir(mode=0o700, exist_ok=True)
        if new and path in (SYSTEM_RUNTIME, SYSTEM_STATE):
            path.chmod(0o755)  # the umask may have taken rights away
        found, above = path.lstat(), path.parent.stat()
    except FileExistsError:
        raise OperatorError(f"{path} is not a folder") from None
    except PermissionError as error:
        raise denied(path, error, "make the folder") from error
    except OSError as error:
        raise OperatorError(f"cannot make the folder {path}: {error.strerror}") from error
    user = os.getuid()
    if stat.S_ISLNK(found.st_mode):
        raise OperatorError(f"{path} is a symbolic link: zpipe uses a folder only where it stands itself")
    if found.st_uid != user:
        theirs, mine = user_name(found.st_uid), user_name(user)
        raise OperatorError(f"{path} belongs to user {theirs}, not to {mine}, whom this runs as: run it as {theirs}")
    if os.environ.get(CONTAINER) == "1":
        return
    if found.st_mode & 0o022:
        mode = stat.S_IMODE(found.st_mode)
        raise OperatorError(f"{path} may be written by others (mode {mode:04o}): chmod go-w {path}")
    if above.st_uid not in (user, 0):
        raise OperatorError(f"{path.parent} belongs to user {above.st_uid}, who could replace {path.name} in it")
    if above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
        cure = f"chmod o-w {path.parent}, or in a container that no other user shares set ${CONTAINER} to 1"
        raise OperatorError(f"{path.parent} may be written by everyone, who could replace {path.name} in it: {cure}")


def remove(folder: Path) -> None:
    """Removes the folder and all that is in it, if it exists. Raises OperatorError."""
    import shutil  # only a few starts need it

    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OperatorError(f"cannot remove {folder}: {error.strerror}") from error


def user_name(uid: int) -> str:
    """The name of a user, or the number if the user has no name."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def denied(path: Path, error: OSError, doing: str = "use") -> OperatorError:
    """The error for something that this user may not do with `path`. It says who owns the path, and so who may."""
    nearest = path.absolute()
    owner = None
    while owner is None:
        try:
            owner = nearest.stat().st_uid
        except OSError:  # the folder above hides it, so its owner is the one to ask; "/" can always be seen
            nearest = nearest.parent
    mine = os.getuid()
    if owner == mine:
        cure = f"{nearest} is yours: see its mode (ls -ld {nearest})"
    else:
        cure = f"{nearest} belongs to {user_name(owner)}: run this as {user_name(owner)}" + " or as root" * (owner != 0)
    return OperatorError(f"user {user_name(mine)} may not {doing} {path} ({error.strerror}): {cure}")


def unwritable(path: Path, error: OSError) -> OperatorError:
    hint = "is its folder writable, and is there room on its disk?"
    return OperatorError(f"cannot write {path}: {error.strerror}; {hint}")


def _named_root(env: Mapping[str, str], ours: str, systemd: str) -> Path | None:
    if folder := env.get(ours):
        return Path(folder).absolute()
    # A unit may have several such folders. The first is the one named after the unit.
    if first := env.get(systemd, "").split(":")[0]:
        unit_folder = Path(first)
        # Each unit has a folder of its own, since a shared one would be removed when the first unit stops. The folders of its
        # neighbours are beside it.
        return unit_folder.parent if INSTANCE.fullmatch(unit_folder.name) else unit_folder
    return None


def _home(env: Mapping[str, str]) -> Path:
    if home := env.get("HOME"):
        return Path(home).absolute()
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise OperatorError(
            f"user {os.getuid()} has no home folder, and $HOME is not set: set $ZPIPE_STATE_DIR"
        ) from None
