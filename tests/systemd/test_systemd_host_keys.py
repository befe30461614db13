"""The private key of a host as a credential of its units, plain and encrypted: they read it, nobody else does, and the other host
lets them in by it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import CONFIGS, ENV, ZPIPE, MakePipeline, run, shell, wait_until

NAME = "spread"
KEYS, SEALED = CONFIGS / "keys", Path("/etc/credstore.encrypted/web1.key")
CONFIG = f"""
[pipeline]
name = "{NAME}"
port = 7400

[hosts.web1]
address = "127.0.0.1"
[hosts.web2]
address = "127.0.0.2"

[stages.read]
plugin = "generate"
options = {{ rate = 100 }}
host = "web1"

[stages.store]
input = "read"
plugin = "ndjson"
options = {{ path = "OUT" }}
host = "web2"
"""


@pytest.fixture
def other(installed: None, tmp_path: Path) -> Iterator[Path]:
    """Folders of web2, which is a run beside the units, with keys of both hosts trusted by both. Those of web1 are where root has
    them, as `zpipe keys` makes them: its private key is root's alone, and what it trusts can be read by the units."""
    envs = {"web1": ENV, "web2": ENV | {"ZPIPE_KEYS_DIR": f"{tmp_path}/keys"}}

    def keys(host: str, *arguments: str) -> str:
        command = [ZPIPE, "keys", *arguments]
        return subprocess.run(command, env=envs[host], capture_output=True, text=True, check=True).stdout

    public = {host: json.loads(keys(host, "new", host, "--json"))["public"] for host in envs}
    for host in envs:
        for other_host, key in public.items():
            keys(host, "trust", f"{other_host} = {key}")
    yield tmp_path
    for path in (KEYS / "web1.key", KEYS / "trusted.toml", SEALED):
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("encrypted", [False, True], ids=["LoadCredential", "LoadCredentialEncrypted"])
def test_units_have_the_key_of_their_host_as_a_credential(
    make: MakePipeline, other: Path, encrypted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENV, "ZPIPE_HOST", "web1")
    if encrypted:
        shell("systemd-creds setup")
        SEALED.parent.mkdir(mode=0o700, exist_ok=True)
        shell(f"systemd-creds encrypt --name=web1.key {KEYS}/web1.key {SEALED}")
        (KEYS / "web1.key").unlink()
    config = CONFIG.replace("OUT", f"{other}/out.ndjson")
    pipeline = make(NAME, config)
    shell(f"zpipe units {pipeline.config} --install --host web1 {'--encrypt' if encrypted else ''}")
    (other / "p.toml").write_text(config)
    folders = {"ZPIPE_RUNTIME_DIR": f"{other}/r", "ZPIPE_STATE_DIR": f"{other}/s", "ZPIPE_KEYS_DIR": f"{other}/keys"}
    env = ENV | folders | {"ZPIPE_HOST": "web2"}
    beside = subprocess.Popen([ZPIPE, "run", str(other / "p.toml"), "--quiet"], env=env, start_new_session=True)
    try:
        pipeline.start()
        pipeline.service("read").wait_active()
        wait_until(lambda: (other / "out.ndjson").exists() and (other / "out.ndjson").stat().st_size, "web2 has rows")
        unit = pipeline.service("read").name
        assert [path.name for path in Path(f"/run/credentials/{unit}").iterdir()] == ["web1.key"]
        assert run("runuser", "-u", "nobody", "--", "ls", f"/run/credentials/{unit}").returncode != 0
        shown = run("systemctl", "cat", unit).stdout
        assert ("LoadCredentialEncrypted=web1.key" in shown) == encrypted
        doctor = run(ZPIPE, "doctor", str(pipeline.config), "--json")
        found = json.loads(doctor.stdout)["findings"]
        assert not [one for one in found if one["area"] == "units" and one["verdict"] == "wrong"], found
    finally:
        pipeline.stop()
        os.killpg(beside.pid, signal.SIGKILL)
        beside.wait()
