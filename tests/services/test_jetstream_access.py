"""Links whose cluster asks who they are, and shows who it is: each way to do it, and what is said where it does not do."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import nkeys
import pytest
from nats_access import Authority, GuardedNats, Key, Operator
from pipeline import Pipeline, wait_until
from rows import DEADLINE_S

COUNT = 500
SECRET = "the-right-one"
Make = Callable[..., Pipeline]
Start = Callable[[str], GuardedNats]

HALF = """
def half(payload):
    return {**payload, "half": payload["id"] / 2}
"""


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """start(demands): a server. Secrets of the config are `${NATS_SECRET}`."""
    monkeypatch.setenv("NATS_SECRET", SECRET)
    GuardedNats.require()
    folder = Path(tempfile.mkdtemp(prefix="zp-", dir="/tmp"))
    started: list[GuardedNats] = []

    def one(demands: str) -> GuardedNats:
        started.append(server := GuardedNats(folder))
        server.demands = demands
        server.start()
        return server

    yield one
    for server in started:
        server.stop()
    shutil.rmtree(folder, ignore_errors=True)


def config(url: str, security: str, rate: int | None = None) -> str:
    link = f'link = {{ kind = "jetstream", servers = ["{url}"], replicas = 1, max_bytes = "16MiB" }}'
    return f"""
[pipeline]
name = "guarded"

[stages.make]
plugin = "generate"
options = {{ count = {COUNT}{f", rate = {rate}" if rate else ""} }}

[stages.half]
input = "make"
plugin = "python"
{link}
options = {{ function = "half:half" }}

[stages.store]
input = "half"
plugin = "sqlite"
options = {{ path = "out.db", table = "t", key = "id" }}

[security.nats]
{security}
"""


def assert_each_once(pipeline: Pipeline) -> None:
    rows = pipeline.query("SELECT count(*), min(id), max(id), count(DISTINCT id) FROM t", "out.db")
    assert list(map(tuple, rows)) == [(COUNT, 0, COUNT - 1, COUNT)]


@contextmanager
def said_by_doctor(pipeline: Pipeline) -> Iterator[str]:
    doctor = pipeline.zpipe("doctor", str(pipeline.path), "--timeout", "100ms")
    assert doctor.wait() == 1, doctor.stdout
    yield next(line for line in doctor.stdout.split("\nwarning ") if "nats: " in line)


# ---- what does


def test_a_user_and_a_password_do(start: Start, make: Make) -> None:
    server = start(f'authorization {{ user: me, password: "{SECRET}" }}')
    run_to_the_end(make(config(server.url, 'username = "me"\npassword = "${NATS_SECRET}"'), half=HALF))


def test_a_token_does(start: Start, make: Make) -> None:
    server = start(f'authorization {{ token: "{SECRET}" }}')
    run_to_the_end(make(config(server.url, 'token = "${NATS_SECRET}"'), half=HALF))


def test_an_nkey_does(start: Start, make: Make, tmp_path: Path) -> None:
    key = Key(nkeys.PREFIX_BYTE_USER)
    (tmp_path / "seed").write_text(key.seed + "\n")
    server = start(f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}")
    run_to_the_end(make(config(server.url, f'nkey = "{tmp_path}/seed"'), half=HALF))


def test_a_certificate_does_over_tls(start: Start, make: Make, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    server = start(tls(authority.issue("server", "127.0.0.1"), authority.path))
    cert, key = authority.issue("client")
    security = f'ca = "{authority.path}"\ncert = "{cert}"\nkey = "{key}"'
    pipeline = make(config(server.url, security), half=HALF)
    stderr = run_to_the_end(pipeline)
    assert "eof_received" not in stderr, "asyncio warns of the end of TLS connections"


def tls(pair: tuple[Path, Path], verify: Path | None = None) -> str:
    more = f'ca_file: "{verify}"\nverify: true' if verify else ""
    return f'tls {{\ncert_file: "{pair[0]}"\nkey_file: "{pair[1]}"\n{more}\n}}'


def run_to_the_end(pipeline: Pipeline) -> str:
    run = pipeline.run()
    run.ledger(DEADLINE_S)
    assert_each_once(pipeline)
    assert "jetstream.trouble" not in run.stderr and SECRET not in run.stderr
    return run.stderr


# ---- what does not


def test_credentials_that_have_ended_hold_the_run_until_there_are_new_ones(
    start: Start, make: Make, tmp_path: Path
) -> None:
    operator, path = Operator(), tmp_path / "me.creds"
    path.write_text(operator.credentials(ends_in_s=-60))
    server = start(operator.demands)
    pipeline = make(config(server.url, f'credentials = "{path}"'), half=HALF)
    with said_by_doctor(pipeline) as finding:
        assert "Authorization Violation" in finding and "the credentials ended at 2" in finding
        assert "replace the file" in finding
    run = pipeline.run()
    wait_until(lambda: run.stderr.count("the credentials ended at 2") >= 2, "both stages say it")
    shown = pipeline.zpipe("monitor", str(pipeline.path), "--once")
    assert shown.wait() == 0
    assert "half" in shown.stdout and "the credentials ended at 2" in " ".join(shown.stdout.split())
    path.write_text(operator.credentials())
    run.ledger(DEADLINE_S)
    assert_each_once(pipeline)
    assert "Traceback" not in run.stderr


def test_a_user_that_the_server_throws_out_loses_nothing(start: Start, make: Make, tmp_path: Path) -> None:
    """Its credentials end while the run is under way."""
    operator, path = Operator(), tmp_path / "me.creds"
    path.write_text(operator.credentials(ends_in_s=5))
    server = start(operator.demands)
    pipeline = make(config(server.url, f'credentials = "{path}"', rate=50), half=HALF)
    run = pipeline.run()
    wait_until(lambda: "the credentials ended at 2" in run.stderr, "it is said")
    path.write_text(operator.credentials())
    run.ledger(DEADLINE_S)
    assert_each_once(pipeline)


def test_rights_that_are_missing_are_named_and_those_of_the_docs_do(start: Start, make: Make, tmp_path: Path) -> None:
    operator, path = Operator(), tmp_path / "me.creds"
    path.write_text(operator.credentials(sub={"deny": ["$KV.>"]}))
    server = start(operator.demands)
    pipeline = make(config(server.url, f'credentials = "{path}"'), half=HALF)
    with said_by_doctor(pipeline) as finding:
        assert "may not do what links need" in finding and "docs/jetstream.md, Rights" in finding
    run = pipeline.run()
    wait_until(lambda: "permissions violation for subscription" in run.stderr, "it is said")
    publish, subscribe = (sides := re.findall(r"`([^`]+)`", _rights()))[:-2], sides[-2:]
    path.write_text(operator.credentials(pub={"allow": publish}, sub={"allow": subscribe}))
    run.ledger(DEADLINE_S)
    assert_each_once(pipeline)


def _rights() -> str:
    """The sentence of docs/jetstream.md, for this pipeline."""
    page = (Path(__file__).parents[2] / "docs" / "jetstream.md").read_text(encoding="utf-8")
    return page.partition("## Rights")[2].replace("PIPELINE", "guarded")


def test_a_server_without_jetstream_is_named(start: Start, make: Make) -> None:
    server = start("accounts { A { users: [ { user: me, password: x } ] } }\nno_auth_user: me")
    with said_by_doctor(make(config(server.url, ""), half=HALF)) as finding:
        assert "JetStream not enabled for account" in finding and "jetstream { … }" in finding


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("another ca", "its certificate is not to be trusted"),
        ("no ca", "its certificate is not to be trusted"),
        ("ended", "certificate has expired"),
        ("another host", "its certificate is that of another"),
        ("no certificate", "TLS fails: "),
        ("no tls", "it has no TLS, and `servers` says tls://"),
    ],
)
def test_tls_that_fails_is_said_with_its_cure(what: str, words: str, start: Start, make: Make, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    pair = authority.issue(
        "server",
        "elsewhere.example" if what == "another host" else "127.0.0.1",
        ends_in=timedelta(days=-1 if what == "ended" else 1),
    )
    server = start("" if what == "no tls" else tls(pair, authority.path if what == "no certificate" else None))
    ca = Authority(tmp_path, "other").path if what == "another ca" else authority.path
    security = "" if what == "no ca" else f'ca = "{ca}"'
    pipeline = make(config(server.url.replace("nats://", "tls://"), security), half=HALF)
    with said_by_doctor(pipeline) as finding:
        assert words in finding or (what == "no certificate" and "it has closed the connection" in finding), finding
        assert "-> " in finding


def test_a_run_that_cannot_reach_its_cluster_says_so_until_it_is_stopped(
    start: Start, make: Make, tmp_path: Path
) -> None:
    server = start(tls(Authority(tmp_path, "ca").issue("server", "127.0.0.1")))
    pipeline = make(config(server.url, f'ca = "{Authority(tmp_path, "other").path}"'), half=HALF)
    run = pipeline.run()
    wait_until(lambda: "event=jetstream.trouble" in run.stderr, "it is said")
    run.interrupt()
    wait_until(lambda: "is held up: the link " in run.stderr, "the drain says what it waits for")
    assert "`ca` of [security.nats] has to be the certificate" in run.stderr and "Traceback" not in run.stderr
    run.interrupt()
    assert run.wait() == 1
