"""Images and containers of the podman that `with-podman` has made ready, and compose files. Does not belong here: what is tested
with them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

CHECKOUT = Path(__file__).parents[2]
FILES = CHECKOUT / "packaging/container"
IMAGE, BASE = "localhost/zpipe", "localhost/base"
UID = 10001
CONFIG = "/etc/zpipe/pipeline.toml"
DEADLINE_S = 60.0
T = TypeVar("T")


def run(*command: str, cwd: Path | None = None, deadline_s: float = DEADLINE_S) -> subprocess.CompletedProcess[str]:
    """A command that has ended, however it ended."""
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=deadline_s, stdin=subprocess.DEVNULL
    )


def output(*command: str, cwd: Path | None = None, deadline_s: float = DEADLINE_S) -> str:
    done = run(*command, cwd=cwd, deadline_s=deadline_s)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def wait_until(condition: Callable[[], T], what: str) -> T:
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.2)
    return value


def build_image(scratch: Path) -> None:
    """The image of this checkout, as Containerfile has it, on Debian's Python. The base is made of Debian packages, since some
    machines reach no registry of images. It is kept for the next time."""
    if run("podman", "image", "exists", BASE).returncode:
        root = scratch / "root.tar"
        with_python = "--include=python3,python3-venv,ca-certificates"
        release = output("sh", "-c", ". /etc/os-release && echo $VERSION_CODENAME").strip()
        output("mmdebstrap", "--quiet", "--variant=apt", with_python, release, str(root), deadline_s=300)
        output("podman", "import", "--quiet", str(root), BASE)
        root.unlink()
    certificates = "--volume=/etc/ssl/certs:/etc/ssl/certs:ro"  # of an index that this machine trusts
    arguments = (
        "--format=docker",
        "--network=host",
        certificates,
        f"--build-arg=BASE={BASE}",
        "--build-arg=COMMIT=tested",
    )
    output(
        "podman",
        "build",
        *arguments,
        "--file",
        str(FILES / "Containerfile"),
        "--tag",
        IMAGE,
        str(CHECKOUT),
        deadline_s=300,
    )


class Composition:
    """The containers of one of the compose files, in a folder of its own."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.name = f"zp{kind}"
        self.folder = folder / self.name
        shutil.copytree(FILES / kind, self.folder)

    def make_keys(self, *hosts: str) -> None:
        """As compose.yaml says."""
        keys = self.folder / "keys"
        keys.mkdir(mode=0o700)
        os.chown(keys, UID, -1)
        for host in hosts:
            make = (
                "podman",
                "run",
                "--rm",
                "--network=none",
                "-e",
                "ZPIPE_KEYS_DIR=/keys",
                "-v",
                "./keys:/keys",
                IMAGE,
            )
            output(*make, "keys", "new", host, cwd=self.folder)

    def up(self) -> None:
        output("podman-compose", "--in-pod=false", "up", "--detach", cwd=self.folder)

    def down(self) -> None:
        run("podman-compose", "--in-pod=false", "down", "--volumes", "--timeout=1", cwd=self.folder)

    def container(self, service: str) -> str:
        return f"{self.name}_{service}_1"

    def execute(self, service: str, *command: str) -> str:
        return output("podman", "exec", self.container(service), *command)

    def is_healthy(self, service: str) -> bool:
        return run("podman", "healthcheck", "run", self.container(service)).returncode == 0

    def stop(self, service: str) -> int:
        """Within its grace period. The exit code."""
        output("podman", "stop", self.container(service))
        return self.exit_code(service)

    def exit_code(self, service: str) -> int:
        """Waits for its end."""
        return int(output("podman", "wait", self.container(service)))

    def logs(self, service: str) -> str:
        done = run("podman", "logs", self.container(service))
        return done.stdout + done.stderr

    def volume(self, name: str) -> Path:
        [found] = json.loads(output("podman", "volume", "inspect", f"{self.name}_{name}"))
        return Path(found["Mountpoint"])
