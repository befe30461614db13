"""Where an instance's addresses and files are, for itself and for its neighbours, and the mark of one that stopped. Must not
live here: what goes over the sockets."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from zpipe import folders
from zpipe.config import PipelineConfig, load, parse_address
from zpipe.errors import NoPeerError, OperatorError
from zpipe.runtime import environment, locks, this_host

MARK, LIFE, PAUSED = "stopped.json", "life.json", "paused"
PLUGIN = "plugin"
SYSTEM_CONFIGS = folders.SYSTEM_CONFIGS
SYSTEM_FOLDERS = {"ZPIPE_RUNTIME_DIR": str(folders.SYSTEM_RUNTIME), "ZPIPE_STATE_DIR": str(folders.SYSTEM_STATE)}
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Addresses(NamedTuple):
    """The well-known addresses of an instance."""

    feedback: str
    control: str


class RemoteAddresses(NamedTuple):
    """All sockets of an instance, as other hosts reach them."""

    inbox: str
    feedback: str
    control: str


class Places:
    """The places of one pipeline's instances.

    run    the run they all belong to ("" outside `zpipe run`)
    host   which host of the pipeline this machine is; "" if none, or if the pipeline has no hosts
    since  (outside a run) marks older than this are of an earlier life of the pipeline, in seconds since the machine booted

    A config in /etc/zpipe belongs to the system: its folders are those its units have, whoever asks. Raises TargetError if
    $ZPIPE_HOST is no host of the pipeline.
    """

    def __init__(self, config: PipelineConfig, env: Mapping[str, str], since: float = math.inf) -> None:
        self._config = config
        self.of_system = _is_of_system(config, env)
        self._env = {**SYSTEM_FOLDERS, **env} if self.of_system else env
        self.since = since
        self.root = runtime_root(config, env)
        self.host = this_host.name_of(config, env)
        self.run = env.get(environment.RUN, "")
        self.join_run()

    def join_run(self) -> None:
        """An instance that is started beside a `zpipe run` belongs to it, also if it was there a moment before the run. One that
        a service manager has started does not: a run must neither drain it nor start it again."""
        if not self.run and not self._env.get("NOTIFY_SOCKET"):
            self.run = self.live_run()

    def live_run(self) -> str:
        """The `zpipe run` of this pipeline that is alive on this machine; "" if there is none."""
        path = self.root / f"{self._config.name}.run"
        return str(read_json(path, locks.read).get("run", "")) if locks.is_locked(path) else ""

    def read_again(self) -> PipelineConfig:
        """What the file of the pipeline says now. Raises ConfigError."""
        return load(self._config.path, env=self._env, only="")

    def private_key(self) -> str:
        """The private key of this host; "" if the pipeline has no keys. Raises OperatorError."""
        return this_host.own_key(self._config, self._env, self.host)

    def key_file(self) -> str:
        """The file of the private key; "" if the pipeline has no keys. Raises OperatorError as `private_key` does."""
        return str(this_host.key_path(self._config, self._env, self.host)) if self.private_key() else ""

    def other_host(self, stage: str, instance: int) -> str:
        """The host that the instance runs on, if it is not this one; "" if it is."""
        return "" if self.is_local(stage, instance) else self._config.host_of(stage, instance)

    def alive(self, stage: str, instance: int) -> bool:
        """Whether a process of the instance holds its lock now (only an instance on this machine can be seen)."""
        return locks.is_locked(self.runtime(stage, instance) / "lock")

    def is_local(self, stage: str, instance: int) -> bool:
        """Whether the instance is on this machine, so that its lock can be seen."""
        settings = self._config.stages[stage]
        if settings.hosts:
            return self._config.host_of(stage, instance) in ("", self.host)
        return not settings.listen

    def searched(self) -> str:
        """For messages: where instances were looked for, or that this user may not look there."""
        hidden = self._hidden()
        return str(hidden) if hidden is not None else f"runtime folder {self.root}"

    def no_peer_error(self, said: str) -> OperatorError:
        """The error of a command that has found no instance; `said` says so. If this user may not look, it is unknown whether
        one runs, so then that is the error."""
        hidden = self._hidden()
        return hidden if hidden is not None else NoPeerError(f"{said} (runtime folder {self.root})")

    def _hidden(self) -> OperatorError | None:
        """What keeps this user from seeing whether an instance runs on this machine, if anything does."""
        for stage, settings in self._config.stages.items():
            for instance in range(1, settings.instances + 1):
                if not self.is_local(stage, instance):
                    continue
                folder = self.runtime(stage, instance)
                try:
                    os.stat(folder / "lock")
                except NotADirectoryError:
                    return OperatorError(f"{self.root} is no folder: see $ZPIPE_RUNTIME_DIR")
                except PermissionError as error:
                    return folders.denied(folder, error, "look into")
                except OSError:
                    continue  # it is not there
        return None

    def belongs_to_run(self, stage: str, instance: int) -> bool:
        """Whether the last life of the instance belongs to this run. That is known from its start on, before any snapshot."""
        return bool(self.run) and self.run_of(stage, instance) == self.run

    def run_of(self, stage: str, instance: int) -> str | None:
        """The run that the last life of the instance belongs to; "" if it belongs to none. None if it has written nothing yet, or
        has ended in order."""
        run = read_json(self.state(stage, instance) / LIFE).get("run")
        return run if isinstance(run, str) else None

    def lock_words(self, stage: str, instance: int) -> list[str]:
        """What stands in the instance's lock file: the pid that took it, then what that process has noted (`locks.READY`,
        `locks.CANNOT_GO_ON`). Nothing where it cannot be read."""
        try:
            return locks.read(self.runtime(stage, instance) / "lock").split()
        except OSError:
            return []

    def runtime(self, stage: str, instance: int) -> Path:
        return self.root / folders.instance_name(self._config.name, stage, instance)

    def state(self, stage: str, instance: int) -> Path:
        return folders.state_root(self._env) / folders.instance_name(self._config.name, stage, instance)

    def plugin_state(self, stage: str, instance: int) -> Path:
        """The plugin's own: apart from zpipe's files, so that a start from scratch can empty it."""
        return self.state(stage, instance) / PLUGIN

    def addresses(self, stage: str, instance: int) -> Addresses:
        """Where it is reached from here. Raises OperatorError for an instance that the config has no address for."""
        listen = self._config.stages[stage].listen
        if not listen or (self._config.stages[stage].hosts and self.is_local(stage, instance)):
            folder = self.runtime(stage, instance)
            return Addresses(f"ipc://{folder}/feedback.sock", f"ipc://{folder}/control.sock")
        address = parse_address(listen[self._index(stage, instance)])
        return Addresses(f"tcp://{address.host}:{address.port}", f"tcp://{address.host}:{address.port + 1}")

    def inbox(self, stage: str, instance: int, incarnation: str) -> str:
        """A fresh address for every incarnation, so that nothing sent to the last one reaches this one."""
        listen = self._config.stages[stage].listen
        if not listen or self._config.stages[stage].hosts:
            return f"ipc://{self.runtime(stage, instance)}/inbox-{incarnation}.sock"
        return f"tcp://{parse_address(listen[self._index(stage, instance)]).host}:*"

    def remote(self, stage: str, instance: int) -> RemoteAddresses | None:
        """How other hosts reach an instance that also has sockets for its own; None if they do not."""
        settings = self._config.stages[stage]
        if not settings.hosts or not settings.listen:
            return None
        host, port = parse_address(settings.listen[self._index(stage, instance)])
        return RemoteAddresses(*(f"tcp://{host}:{number}" for number in (port + 2, port, port + 1)))

    def _index(self, stage: str, instance: int) -> int:
        settings = self._config.stages[stage]
        if instance <= len(settings.listen):
            return instance - 1
        if settings.hosts:
            known = ", ".join(f"{name} on {host}" for name, host in _named(stage, settings.hosts))
            raise OperatorError(f"{stage}.{instance} has no host in {self._config.path}, which has {known}")
        raise OperatorError(
            f"stages.{stage}.listen in {self._config.path} has {len(settings.listen)} addresses: add one for instance {instance}"
        )

    def instances(self, stage: str) -> set[int]:
        """Instances there may be: those of the config, and any with a folder (`zpipe stage … --instance N`)."""
        settings = self._config.stages[stage]
        if settings.listen:
            return set(range(1, len(settings.listen) + 1))
        found = set(range(1, settings.instances + 1))
        with suppress(OSError):
            found |= self._with_folder(self.root, stage)
        return found

    def stored(self, stage: str) -> list[int]:
        """Instances that have a state folder on this machine. Raises OperatorError if this user may not look."""
        root = folders.state_root(self._env)
        try:
            return sorted(self._with_folder(root, stage))
        except FileNotFoundError:
            return []
        except PermissionError as error:
            raise folders.denied(root, error, "look into") from None
        except OSError as error:
            raise OperatorError(f"cannot look into {root}: {error.strerror}") from None

    def _with_folder(self, root: Path, stage: str) -> set[int]:
        """The instances of the stage that have a folder in the root. Raises OSError."""
        prefix = f"{self._config.name}.{stage}."
        rests = [name.removeprefix(prefix) for name in os.listdir(root) if name.startswith(prefix)]
        return {int(rest) for rest in rests if rest.isdigit()}

    # ---- the mark of a stop at the end of a run

    def begin_life(self, stage: str, instance: int) -> bool:
        """The instance starts. Returns whether its life before was cut short by a crash since the machine booted: then the new
        process continues that life, and marks count that were made since that began.

        Removes its own mark, unless that says that it has stopped at the end of this life's stream. Raises OperatorError.
        """
        path = self.state(stage, instance) / LIFE
        life = read_json(path)
        try:
            cut_short = life.get("boot") == _boot() and self.run == life.get("run")
            if not cut_short:
                life = {"boot": _boot(), "run": self.run, "since": since_boot_s()}
                write_json(path, life)
            self.since = float(life["since"])
            if self.stopped_at_end(stage, instance) is None:
                (self.state(stage, instance) / MARK).unlink(missing_ok=True)
        except OSError as error:
            raise folders.unwritable(path, error) from None
        return cut_short

    def end_life(self, stage: str, instance: int) -> None:
        """The instance ended in order, so its next start is a new life."""
        (self.state(stage, instance) / LIFE).unlink(missing_ok=True)

    def mark(self, stage: str, instance: int, ended: bool, snapshot: dict[str, Any]) -> None:
        """Writes that the instance stopped, for neighbours that start later and for the ledger. That is in the state folder,
        since systemd removes the runtime folder when the unit stops. Raises OSError."""
        write_json(
            self.state(stage, instance) / MARK,
            {"run": self.run, "boot": _boot(), "at": since_boot_s(), "ended": ended, "snapshot": snapshot},
        )

    def stopped(self, stage: str, instance: int) -> dict[str, Any] | None:
        """The last snapshot of an instance that stopped in order in this life, at the end of the stream or not."""
        mark = read_json(self.state(stage, instance) / MARK)
        if not mark or mark["run"] != self.run:
            return None
        if not self.run and (mark["boot"] != _boot() or mark["at"] < self.since):
            return None
        snapshot: dict[str, Any] = mark["snapshot"]
        return snapshot

    def stopped_at_end(self, stage: str, instance: int) -> dict[str, Any] | None:
        """The same, but only of one that stopped at the end of the stream, so that nothing can come from it any more."""
        snapshot = self.stopped(stage, instance)
        return snapshot if snapshot is not None and read_json(self.state(stage, instance) / MARK).get("ended") else None

    def has_left(self, stage: str, instance: int) -> bool:
        """Whether it stopped in order in this life, before the end of the stream, and was not started again."""
        return self.stopped(stage, instance) is not None and self.stopped_at_end(stage, instance) is None

    def last_account(self, stage: str, instance: int) -> dict[str, Any] | None:
        """The last snapshot of an instance that stopped at the end of its stream since the machine booted, in whichever run or
        life of the pipeline."""
        mark = read_json(self.state(stage, instance) / MARK)
        snapshot: dict[str, Any] | None = mark.get("snapshot")
        return snapshot if mark.get("ended") and mark.get("boot") == _boot() else None

    def keep_paused(self, stage: str, instance: int, paused: bool) -> None:
        """Keeps across restarts that the operator has paused the instance. Raises OSError."""
        path = self.state(stage, instance) / PAUSED
        if paused:
            path.touch()
        else:
            path.unlink(missing_ok=True)

    def paused(self, stage: str, instance: int) -> bool:
        return (self.state(stage, instance) / PAUSED).exists()


def _named(stage: str, hosts: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"{stage}.{number}", host) for number, host in enumerate(hosts, 1)]


def since_boot_s() -> float:
    """A clock that all processes of this machine share and nobody sets. It goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@cache
def _boot() -> str:
    return BOOT_ID.read_text().strip()


def runtime_root(config: PipelineConfig, env: Mapping[str, str]) -> Path:
    """The folder with the sockets of a pipeline's instances, whichever host this is."""
    return folders.runtime_root({**SYSTEM_FOLDERS, **env} if _is_of_system(config, env) else env)


def _is_of_system(config: PipelineConfig, env: Mapping[str, str]) -> bool:
    return config.path.absolute().parent == SYSTEM_CONFIGS and not names_folders(env)


def names_folders(env: Mapping[str, str]) -> bool:
    """Whether the environment says where the folders are, so that nobody need look for them."""
    return any(name in env for name in (*SYSTEM_FOLDERS, "RUNTIME_DIRECTORY", "STATE_DIRECTORY"))


def read_json(path: Path, text: Callable[[Path], str] = Path.read_text) -> dict[str, Any]:
    """A small JSON file; {} if there is none, or if a crash left half of one."""
    try:
        value = json.loads(text(path))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes the whole file or nothing. Raises OSError."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value))
    part.replace(path)
