"""Which pipelines run on this machine, and by what: from the records that instances leave beside their sockets. Must not live
here: what is asked of a pipeline."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from zpipe import __version__, folders
from zpipe.config import PipelineConfig, config_record, load
from zpipe.config.config_record import ConfigRecord
from zpipe.errors import ConfigError, NoPeerError, OperatorError, TargetError
from zpipe.plugin_loading import did_you_mean
from zpipe.runtime.locks import is_locked
from zpipe.runtime.places import SYSTEM_CONFIGS, SYSTEM_FOLDERS, Places, names_folders, runtime_root

FILE = "config.json"
USERS = Path("/run/user")
LARGEST_BYTES = 4 * 2**20
"""A record of 1,000 stages has 1 MiB. A larger file is not read: root may be looking, and the file may be anybody's."""
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def write_record(places: Places, config: PipelineConfig, stage: str, instance: int) -> None:
    """Writes the config that the instance runs by into its runtime folder, for its owner only. Raises OSError."""
    path = places.runtime(stage, instance) / FILE
    made = config_record.make(config, stage, instance, time.time(), places.state(stage, instance).parent)
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(config_record.write(made))
    part.replace(path)


class Target(NamedTuple):
    """The pipeline that a command is to ask.

    config   what it runs by; if it does not run, what the file says
    env      the environment with the folders that it uses
    notes    what the user has to know: that the file differs, or is broken
    is_file  whether the file says the same, as far as is known
    """

    config: PipelineConfig
    env: Mapping[str, str]
    notes: tuple[str, ...] = ()
    is_file: bool = True


@dataclass(frozen=True)
class _Found:
    """A pipeline with records in one runtime root: `live` are those of instances that run now, `stale` all others."""

    root: Path
    name: str
    live: list[ConfigRecord] = field(default_factory=list)
    stale: list[ConfigRecord] = field(default_factory=list)

    @property
    def config(self) -> PipelineConfig:
        return config_record.merged(self.live or self.stale)

    def target(self, env: Mapping[str, str], notes: Iterable[str] = (), is_file: bool = True) -> Target:
        state = max(self.live or self.stale, key=lambda one: one.at).state
        where = {"ZPIPE_STATE_DIR": str(state), **env, "ZPIPE_RUNTIME_DIR": str(self.root)}
        return Target(self.config, where, tuple(notes), is_file)


def find(given: Path, env: Mapping[str, str]) -> Target:
    """The pipeline of a config, or of a name. Raises ConfigError, NoPeerError, TargetError, OperatorError."""
    return _by_name(str(given), env) if is_name(given) else _by_file(given, env)


def is_name(given: Path) -> bool:
    """Whether it is the name of a pipeline, and not a config."""
    return not os.path.isfile(given) and _NAME.fullmatch(str(given)) is not None


def names(env: Mapping[str, str]) -> list[str]:
    """The names of the pipelines that run here, as far as this user may look."""
    return sorted({one.name for one in _Machine(env).live()})


def _by_file(path: Path, env: Mapping[str, str]) -> Target:
    config: PipelineConfig | None = None
    broken: ConfigError | None = None
    try:
        config = load(path, env=env, only="")
    except ConfigError as error:
        broken = error
    machine = _Machine(env)
    real = os.path.realpath(path)
    found = [one for one in machine.live() if real in (os.path.realpath(by.config.path) for by in one.live)]
    if config is not None:
        here = machine.pipelines.get((runtime_root(config, env), config.name))
        # In the runtime root of this user a pipeline of this name is meant, whatever file it was started by. In another root only
        # one that was started by this file is: two owners may each have a pipeline of one name.
        found = [here] if here is not None and here.live else [one for one in found if one.name == config.name]
    if found:
        return _target_of_running(found, env)
    if config is None:
        assert broken is not None
        raise broken
    return Target(config, env)


def _by_name(name: str, env: Mapping[str, str]) -> Target:
    machine = _Machine(env)
    named = [one for one in machine.pipelines.values() if one.name == name]
    if live := [one for one in named if one.live]:
        return _target_of_running(live, env)
    if closed := machine.closed(name):
        why = folders.denied(closed, PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "look into")
        raise OperatorError(f"pipeline {name!r} may run, but {why}")
    system = SYSTEM_CONFIGS / f"{name}.toml"
    there = system.is_file()
    if named:
        known = _only_one(named)
        if there and known.config.path != system:
            ran = f"one that ran by {known.config.path}, and that of {system}"
            raise TargetError(f"there is more than one pipeline {name!r}: {ran}; name the config")
        return known.target(env)
    if there:
        return Target(load(system, env=env, only=""), env)
    running = sorted({one.name for one in machine.live()})
    looked = ", ".join(map(str, machine.roots or [folders.runtime_root(env)]))
    raise NoPeerError(
        f"no pipeline {name!r} runs here{did_you_mean(name, running)}, and there is no file {name!r}, nor {system}; running are "
        f"{', '.join(running) or 'none'} (looked into {looked})"
    )


def _target_of_running(live: Sequence[_Found], env: Mapping[str, str]) -> Target:
    one = _only_one(live)
    others = sorted({by.version for by in one.live} - {__version__})
    told = [f"pipeline {one.name!r} runs zpipe {', '.join(others)}, and this is {__version__}"] if others else []
    differs = list(_notes(one, env))
    return one.target(env, [*told, *differs], is_file=not differs)


def _only_one(found: Sequence[_Found]) -> _Found:
    if len(found) == 1:
        return found[0]
    where = ", ".join(f"{one.root} (by {one.config.path})" for one in found)
    which = f"name the config, or say which by ZPIPE_RUNTIME_DIR={found[0].root}"
    raise TargetError(f"there is more than one pipeline {found[0].name!r}: in {where}; {which}")


def _notes(found: _Found, env: Mapping[str, str]) -> Iterator[str]:
    """What the user has to know if the file of a running pipeline is not what the pipeline runs by."""
    path = found.config.path
    runs = f"pipeline {found.name!r} runs by what was read before, and this command goes by that"
    try:
        text = path.read_text("utf-8-sig") if path.is_file() else None
        differs = None if text is None else config_record.differences(found.live, text)
    except (OSError, ValueError):
        differs = None
    if differs == []:
        return  # the file is what runs, even if it cannot be loaded here, say for want of a variable that only the service has
    try:
        load(path, env=env, only="")
    except ConfigError as error:
        first, more = error.mistakes[0], len(error.mistakes) - 1
        yield f"{first}" + (f" (and {more} more: zpipe check {path})" if more else "")
        yield f"{path} is no config that can be run; {runs}"
    else:
        yield f"{path} is not what runs: {', '.join(f'[{name}]' for name in differs or ())} differ; {runs}"


class _Machine:
    """What is in the runtime folders that this user may look into."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.roots = list(_roots(env))
        self.pipelines: dict[tuple[Path, str], _Found] = {}
        self._closed: list[Path] = []
        for root in self.roots:
            self._look(root)

    def live(self) -> list[_Found]:
        return [one for one in self.pipelines.values() if one.live]

    def closed(self, pipeline: str) -> Path | None:
        """A folder of an instance of it that this user may not look into."""
        return next((path for path in self._closed if path.name.startswith(f"{pipeline}.")), None)

    def _look(self, root: Path) -> None:
        try:
            entries = [root / name for name in sorted(os.listdir(root)) if folders.INSTANCE.fullmatch(name)]
        except OSError:
            return
        for folder in entries:
            try:
                text = _read(folder / FILE)
            except PermissionError:
                self._closed.append(folder)
                continue
            except OSError:
                continue
            try:
                one = config_record.read(text)
            except (ValueError, RecursionError):
                continue  # of another version, or not written by an instance
            name = one.config.name
            if folder.name == folders.instance_name(name, one.stage, one.instance):
                found = self.pipelines.setdefault((root, name), _Found(root, name))
                (found.live if _is_regular(folder / "lock") and is_locked(folder / "lock") else found.stale).append(one)


def _roots(env: Mapping[str, str]) -> Iterator[Path]:
    """The roots that may have records: this user's own, the system's, and, for root, those of every user."""
    own = folders.runtime_root(env)
    if names_folders(env):
        yield own
        return
    owners: dict[Path, int | None] = {own: os.getuid(), Path(SYSTEM_FOLDERS["ZPIPE_RUNTIME_DIR"]): None}
    if os.getuid() == 0:
        import tempfile  # 4 ms that a daemon, which only leaves a record, need not spend

        owners |= {path / "zpipe": int(path.name) for path in _numbered(USERS, "")}
        for temporary in {tempfile.gettempdir(), "/tmp"}:
            owners |= {path: int(path.name.removeprefix("zpipe-")) for path in _numbered(Path(temporary), "zpipe-")}
    yield from (path for path, owner in owners.items() if _is_only_its_owners(path, owner))


def _numbered(folder: Path, prefix: str) -> list[Path]:
    """The entries that are named for a user's number."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [folder / name for name in names if re.fullmatch(rf"{prefix}[0-9]{{1,10}}", name)]


def _is_only_its_owners(path: Path, owner: int | None) -> bool:
    """Whether it is a folder that nobody but its owner can write to. `owner`: who that must be; None: anybody."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022 and owner in (None, found.st_uid)


def _is_regular(path: Path) -> bool:
    """Whether it is a regular file. If somebody has put a pipe there, opening it would block."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _read(path: Path) -> bytes:
    """Raises OSError, also for what is no regular file, or is too large for a record."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_BYTES:
            raise OSError(f"{path} is no record")
        return file.read(LARGEST_BYTES)
