"""What a container is to the processes in it, made of namespaces by `unshare` and `chroot`, which only root can do: a command as
PID 1, a read-only root, small tmpfs for /tmp and /dev/shm, one volume, and a user without rights or a home."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from pipeline import DEADLINE_S, wait_until

UID = 10001
VOLUME, CONFIGS = "/var/lib/zpipe", "/etc/zpipe"
NAMESPACES = ["unshare", "--mount", "--pid", "--ipc", "--net", "--fork", "--kill-child"]
CHECKOUT = Path(__file__).parents[2]
# Only what is named here is in the container. The paths of Python and of the checkout stay, as its environment has them in it.
SETUP = """
set -e
mount --make-rprivate /
mkdir -p {root} && mount -t tmpfs -o mode=755 container {root} && cd {root}
mkdir -p proc dev etc/zpipe tmp run var/lib/zpipe
mount -t tmpfs -o size=64m,mode={tmp_mode} tmp tmp
for path in {shown}; do
  mkdir -p ./$path && mount --rbind $path ./$path && mount -o remount,bind,ro ./$path
done
for link in bin lib lib64 sbin; do ln -s usr/$link $link; done
cp /etc/ld.so.cache etc/
for device in null zero urandom random; do touch dev/$device && mount --bind /dev/$device dev/$device; done
mkdir dev/shm && mount -t tmpfs -o size=64m,mode=1777 shm dev/shm
mount --bind {volume} var/lib/zpipe
mount --bind {configs} etc/zpipe && mount -o remount,bind,ro etc/zpipe
mount -t proc proc proc
mount -o remount,ro {root}
exec chroot --userspec={uid}:{uid} --groups= . env -i {env} "$@"
"""


class Container:
    """One container, in which `zpipe` runs with the arguments given. /etc/zpipe has the files of `configs`."""

    def __init__(
        self, home: Path, configs: Path, *arguments: str, tmp_mode: str = "1777", volume_mode: int = 0o755
    ) -> None:
        self.volume = home / "volume"
        if not self.volume.exists():
            self.volume.mkdir()
            os.chown(self.volume, 0 if volume_mode & 0o002 else UID, UID)
            self.volume.chmod(volume_mode)
        configs.chmod(0o755)
        self._env = [
            "PATH=/usr/bin",
            f"PYTHONPATH={CHECKOUT}:{CHECKOUT / 'plugins'}",
            f"ZPIPE_STATE_DIR={VOLUME}/state",
            "ZPIPE_CONTAINER=1",
            "CREDENTIALS_DIRECTORY=/run/secrets",
        ]
        # The interpreter is started by its own path, not by that of the environment, whose links lead out of what is shown.
        packages = next(path for path in sys.path if path.endswith("site-packages"))
        self._env[1] += f":{packages}"
        self._python = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")
        shown = dict.fromkeys(["/usr", sys.base_prefix, str(CHECKOUT / "zpipe"), str(CHECKOUT / "plugins"), packages])
        script = SETUP.format(
            root=shlex.quote(str(home / "root")),
            shown=" ".join(path for path in shown if path == "/usr" or not path.startswith("/usr/")),
            volume=shlex.quote(str(self.volume)),
            configs=shlex.quote(str(configs)),
            tmp_mode=tmp_mode,
            uid=UID,
            env=" ".join(self._env),
        )
        self._out, self._err = home / "container.out", home / "container.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [*NAMESPACES, "sh", "-c", script, "sh", self._python, "-m", "zpipe", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def pid(self) -> int:
        """PID 1 of the container, as it is seen from here, once it is `zpipe`."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")

        def found() -> int:
            assert self._process.poll() is None, self.stderr
            pid = int((children.read_text().split() or ["0"])[0])
            return pid if pid and Path(f"/proc/{pid}/cmdline").read_text().startswith(self._python + "\0") else 0

        return wait_until(found, "the command is PID 1")

    @property
    def children(self) -> list[int]:
        """Those of PID 1, by their PIDs outside."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the container, as `docker exec` does."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--ipc", "--net", "--root", "--wd"]
        return subprocess.run(
            [*enter, f"--setuid={UID}", f"--setgid={UID}", "env", "-i", *self._env, *command],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )

    def zpipe(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.execute(self._python, "-m", "zpipe", *arguments)

    def processes(self) -> dict[int, str]:
        """The state (R, S, Z, …) of each process in the container, by its PID there."""
        listed = self.execute("sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null || true").stdout
        return {int(line.split()[0]): line.rpartition(")")[2].split()[0] for line in listed.splitlines()}

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit code."""
        try:
            return self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the container still runs:\n{self.stderr[-4000:]}") from None

    def end(self) -> None:
        """Whatever it does, nothing of it is left after this."""
        self._process.kill()  # and so everything in it, by --kill-child
        self._process.wait()
