"""What tests need of a machine beside Python: how each need is looked for, and how to get it. The one list of such things.

    @pytest.mark.needs("tmux")      a test that is skipped without it
    needs.skip_without("tmux")      the same in a fixture, or in what several tests stand on
    python3 tests/needs.py          prints the Debian packages that this machine lacks; `.ci/run` installs them.
                                    With --programs those that are here, each behind its package; `tests/fresh` hides them

`missing_needs.py` reports the skips. No import of this module may be from outside the standard library: a fresh machine has no
pytest yet.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

ALL = "ZPIPE_TEST_ALL"
"""Set to 1, it has a test fail that would be skipped for lack of something. `.ci/run` sets it."""
CHECKOUT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Need:
    """There if `is_there`. Brought by a package of Debian, or as `otherwise` says. `programs` are those that are here."""

    is_there: Callable[[], bool]
    package: str = ""
    otherwise: str = ""
    programs: Callable[[], Iterator[Path]] = lambda: iter(())

    @property
    def cure(self) -> str:
        return f"apt install {self.package}" if self.package else self.otherwise


def program(package: str, *names: str, places: tuple[str, ...] = ()) -> Need:
    def found() -> Iterator[Path]:
        return _paths(names, places)

    return Need(lambda: any(found()), package, programs=found)


def _paths(names: tuple[str, ...], places: tuple[str, ...]) -> Iterator[Path]:
    yield from map(Path, filter(None, map(shutil.which, names)))
    for place in places:
        yield from sorted(Path("/").glob(place.lstrip("/")))


def header(package: str, name: str) -> Need:
    return Need(lambda: _runs("gcc", "-E", "-x", "c", "-include", name, "/dev/null"), package)


def _runs(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0
    except OSError:
        return False


def is_root() -> bool:
    return os.geteuid() == 0


def _mounts() -> bool:
    return is_root() and _runs("unshare", "--mount", "mount", "-t", "tmpfs", "zpipe-test", "/tmp")


def _makes_containers() -> bool:
    spaces = ("unshare", "--mount", "--pid", "--ipc", "--net", "--fork", "--kill-child")
    tools = all(map(shutil.which, ("chroot", "nsenter")))
    return is_root() and tools and _runs(*spaces, "mount", "-t", "proc", "proc", "/proc")


def _makes_networks() -> bool:
    plug = ("ip", "link", "add", "zp0", "type", "veth", "peer", "name", "zp1")
    return is_root() and _runs("unshare", "--net", *plug)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as bound:
            bound.bind(("::1", 0))
    except OSError:
        return False
    return True


def _has_another_disk() -> bool:
    other = Path("/dev/shm")
    return os.access(other, os.W_OK) and other.stat().st_dev != Path(tempfile.gettempdir()).stat().st_dev


CHROMIUM = ("chromium-headless-shell", "chromium", "google-chrome")
SERVER_PLACES = {
    "mariadb": ("mariadbd", "/usr/sbin/mariadbd"),
    "mosquitto": ("mosquitto", "/usr/sbin/mosquitto"),
    "nats-server": ("nats-server", "/usr/sbin/nats-server"),
    "postgresql": ("postgres", "/usr/lib/postgresql/*/bin/postgres"),
    "rabbitmq": ("rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server"),
    "redis": ("redis-server", "/usr/sbin/redis-server"),
}
"""need: (program, where it is if not in PATH)"""
SERVER_PACKAGES = {
    "mariadb": "mariadb-server",
    "rabbitmq": "rabbitmq-server",
    "redis": "redis-server",
}
PRIVILEGES = "as root, in a container that is privileged"

NEEDS: dict[str, Need] = {
    # programs of tests
    "awk": program("mawk", "awk"),
    "bash": program("bash", "bash"),
    "chromium": program("chromium-headless-shell", *CHROMIUM),
    "curl": program("curl", "curl"),
    "dbus": program("dbus", "dbus-daemon"),
    "gcc": program("gcc", "gcc"),
    "git": program("git", "git"),
    "jq": program("jq", "jq"),
    "make": program("make", "make"),
    "man": program("man-db", "man"),
    "node": program("nodejs", "node"),
    "npm": program("npm", "npm"),
    "prometheus": program("prometheus", "prometheus"),
    "promtool": program("prometheus", "promtool"),
    "setpriv": program("util-linux", "setpriv"),
    "sh": program("dash", "sh"),
    "systemd": program("systemd", "systemd", places=("/usr/lib/systemd/systemd",)),
    "systemd-analyze": program("systemd", "systemd-analyze"),
    "tmux": program("tmux", "tmux"),
    # what `make test-fresh`, and the wheels of `make test-systemd`, begin with
    "venv": Need(lambda: _runs("/usr/bin/python3", "-c", "import ensurepip, venv"), "python3-venv"),
    # what `make deb` builds and checks the package with
    "dpkg-dev": program("dpkg-dev", "dpkg-shlibdeps"),
    "lintian": program("lintian", "lintian"),
    # what `make test-containers` builds images and runs containers with
    "aardvark-dns": program("aardvark-dns", "aardvark-dns", places=("/usr/lib/podman/aardvark-dns",)),
    "catatonit": program("catatonit", "catatonit"),
    "crun": program("crun", "crun"),
    "mmdebstrap": program("mmdebstrap", "mmdebstrap"),
    "netavark": program("netavark", "netavark", places=("/usr/lib/podman/netavark",)),
    "nft": program("nftables", "nft", places=("/usr/sbin/nft",)),
    "podman": program("podman", "podman"),
    "podman-compose": program("podman-compose", "podman-compose"),
    # of C
    "zmq.h": header("libzmq3-dev", "zmq.h"),
    "cbor.h": header("libcbor-dev", "cbor.h"),
    # servers
    **{
        name: program(SERVER_PACKAGES.get(name, name), server, places=(place,))
        for name, (server, place) in SERVER_PLACES.items()
    },
    # of the network, and what network namespaces are made with
    "ip": program("iproute2", "ip"),
    "IPv6": Need(_has_ipv6, otherwise="a machine with the address ::1"),
    "package index": Need(lambda: True, otherwise="a network in which pip and npm reach their index"),
    # privileges, and what kind of machine it is
    "root": Need(is_root, otherwise="as root"),
    "mounts": Need(_mounts, otherwise=PRIVILEGES),
    "containers": Need(_makes_containers, otherwise=PRIVILEGES),
    "network namespaces": Need(_makes_networks, otherwise=PRIVILEGES),
    "two cores": Need(lambda: len(os.sched_getaffinity(0)) > 1, otherwise="a machine with two cores"),
    "another disk": Need(_has_another_disk, otherwise="a tmpfs on /dev/shm that may be written to"),
    "clone": Need(lambda: (CHECKOUT / ".git").exists(), otherwise="git clone, in place of an archive"),
}


def server_program(name: str) -> Path | None:
    """The executable of a server; None where it is not installed."""
    server, place = SERVER_PLACES[name]
    return next(_paths((server,), (place,)), None)


@cache
def is_there(name: str) -> bool:
    return NEEDS[name].is_there()


def skip_without(*names: str) -> None:
    """Skips the test that runs, unless all of these are there."""
    if missing := [name for name in names if not is_there(name)]:
        skip_for(*missing)


def skip_for(*missing: str, detail: str = "") -> NoReturn:
    """Skips the test that runs for lack of these, or has it fail where nothing may be skipped."""
    import pytest

    cures = dict.fromkeys(NEEDS[name].cure for name in missing)
    reason = f"needs {', '.join(missing)} ({', '.join(cures)}){detail and ': '}{detail}"
    if os.environ.get(ALL) == "1":
        pytest.fail(reason, pytrace=False)
    skipped = pytest.skip.Exception(reason)
    skipped.missing_needs = missing  # type: ignore[attr-defined]
    raise skipped


def missing_packages() -> list[str]:
    return sorted({need.package for name, need in NEEDS.items() if need.package and not is_there(name)})


def present_programs() -> list[str]:
    return sorted({f"{need.package} {path}" for need in NEEDS.values() for path in need.programs()})


if __name__ == "__main__":
    for line in present_programs() if sys.argv[1:] == ["--programs"] else missing_packages():
        print(line)
