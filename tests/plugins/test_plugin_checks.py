"""`zpipe check` of every plugin that comes with zpipe: a wrong option, and a library that is not installed."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from zpipe import Secret, plugin_loading
from zpipe.config import load
from zpipe.errors import ConfigError, OperatorError
from zpipe.operate.doctor import _host_and_port
from zpipe.testing.plugin_runs.toml_text import table

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PLUGINS = sorted(PROJECT["entry-points"]["zpipe.plugins"])
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
NEEDY = [name for name in PLUGINS if name in EXTRAS]
"""Plugins that need a library, which the extra of the same name has."""
RIGHT: dict[str, dict[str, Any]] = {
    "elasticsearch": {"url": "http://127.0.0.1:9200", "index": "i"},
    "filter": {"where": "a"},
    "http": {"url": "http://127.0.0.1/"},
    "http_listen": {"address": "127.0.0.1:8080"},
    "kafka": {"servers": ["127.0.0.1:9092"], "topic": "t"},
    "mqtt": {"topic": "t"},
    "mysql": {"user": "u", "database": "d", "table": "t", "key": ["id"]},
    "nats": {"servers": ["nats://127.0.0.1:4222"], "subject": "s"},
    "notify": {"urls": [Secret("mailto://a.example")]},
    "parquet": {"folder": "f"},
    "postgres": {"dsn": "host=127.0.0.1", "table": "t", "key": ["id"]},
    "rabbitmq": {"routing_key": "k"},
    "redis_stream": {"stream": "s"},
    "reshape": {"fields": {"a": "b"}},
    "route": {"routes": {"a": "b"}},
    "s3": {"bucket": "b"},
    "schedule": {"cron": "* * * * *"},
    "select": {"expression": "a"},
    "sql": {"url": "sqlite:///f.db", "table": "t", "key": ["id"]},
    "validate": {"schema": {}},
}
"""Options with which `check` has nothing to say about each of them."""


def config_of(name: str, options: dict[str, Any], secrets: dict[str, str]) -> str:
    """A pipeline with the plugin in it, as a source where it is nothing else."""
    plugin = plugin_loading.load(name, Path())
    takes_input = plugin.takes_messages or plugin.takes_batches
    keys: dict[str, Any] = {"plugin": name, "options": options}
    if takes_input:
        keys["input"] = "head"
    if not plugin.takes_messages and plugin.takes_batches:
        keys["batch"] = {"messages": 2}
    head = table("stages.head", {"plugin": "generate"}) if takes_input else ""
    rest = "" if takes_input else table("stages.rest", {"plugin": "discard", "input": "tested"})
    return table("pipeline", {"name": "p"}) + head + table("stages.tested", keys, secrets) + rest


SERVICES: list[tuple[str, dict[str, Any], list[tuple[str, int]]]] = [
    ("elasticsearch", {"url": "http://a.example"}, [("a.example", 80)]),
    ("http", {"url": "https://a.example/{id}"}, [("a.example", 443)]),
    ("http", {"url": "https://{host}/"}, []),
    ("kafka", {"servers": ["a.example:9093", "b.example"]}, [("a.example", 9093), ("b.example", 9092)]),
    ("mqtt", {"url": "mqtts://a.example"}, [("a.example", 8883)]),
    ("mqtt", {}, [("127.0.0.1", 1883)]),
    ("mysql", {}, [("localhost", 3306)]),
    ("mysql", {"host": "::1", "port": 3307}, [("::1", 3307)]),
    ("nats", {"servers": ["nats://a.example", "tls://b.example:4223"]}, [("a.example", 4222), ("b.example", 4223)]),
    ("notify", {}, []),
    ("postgres", {"dsn": "host=a.example user=u"}, [("a.example", 5432)]),
    ("postgres", {"dsn": "host=a,b port=5433"}, [("a", 5433), ("b", 5433)]),
    ("postgres", {"dsn": "host=a,b port=5433,5434"}, [("a", 5433), ("b", 5434)]),
    ("postgres", {"dsn": "postgresql://u:secret@[::1]:5433/d"}, [("::1", 5433)]),
    ("postgres", {"dsn": "host=/run/postgresql"}, []),
    ("postgres", {"dsn": "dbname=d"}, []),
    ("rabbitmq", {}, [("127.0.0.1", 5672)]),
    ("redis_stream", {}, [("127.0.0.1", 6379)]),
    ("redis_stream", {"url": "unix:///run/redis.sock"}, []),
    ("s3", {"endpoint": "https://a.example"}, [("a.example", 443)]),
    ("s3", {}, []),
    ("sql", {"url": "sqlite:///f.db"}, []),
    ("sql", {"url": "postgresql+psycopg://u:secret@a.example/d"}, [("a.example", 5432)]),
    ("sql", {"url": "mysql+pymysql://u@a.example:3307/d"}, [("a.example", 3307)]),
    ("sql", {"url": "postgresql+psycopg://u:7/secret@a.example/d"}, [("a.example", 5432)]),
    ("sql", {"url": "postgresql+psycopg://u@/d?host=/run/postgresql"}, []),
]
"""Where `zpipe doctor` looks for the service of a plugin, by its options."""


@pytest.mark.parametrize(("name", "more", "where"), SERVICES)
def test_doctor_is_told_where_the_service_is(
    name: str, more: dict[str, Any], where: list[tuple[str, int]], tmp_path: Path
) -> None:
    secrets: dict[str, str] = {}
    text = config_of(name, RIGHT[name] | more, secrets)
    services = load(tmp_path / "p.toml", text=text, env=secrets).stages["tested"].traits.services
    assert [one for one in map(_host_and_port, services) if one is not None] == where
    assert "secret" not in "".join(services)


@pytest.mark.parametrize("url", ["postgresql+psycopg://u@[::1/d", "postgresql+psycopg://u@a.example:1,2/d"])
def test_a_url_of_sql_that_nobody_can_read_is_a_mistake(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "p.toml", text=config_of("sql", RIGHT["sql"] | {"url": url}, {}))
    assert [mistake.key for mistake in caught.value.mistakes] == ["stages.tested.options.url"]


def test_a_profile_that_s3_does_not_find_is_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    from zpipe_plugins.web import s3

    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(OperatorError, match=r"profile \(nobody\) could not be found"):
        s3._client(s3.SinkOptions(bucket="b"))


@pytest.mark.parametrize("name", sorted(set(NEEDY) - {one for one, _, _ in SERVICES}))
def test_no_other_plugin_reaches_a_service(name: str, tmp_path: Path) -> None:
    secrets: dict[str, str] = {}
    traits = load(tmp_path / "p.toml", text=config_of(name, RIGHT[name], secrets), env=secrets).stages["tested"].traits
    assert not traits.needs_network or name == "http_listen", "say in SERVICES where its service is"


@pytest.mark.parametrize("name", [name for name in PLUGINS if name != "discard"])
def test_a_wrong_option_is_found_with_its_line_and_the_nearest_right_name(name: str, tmp_path: Path) -> None:
    options_type = plugin_loading.load(name, Path()).options_type
    assert options_type is not None
    right = next(field for field in options_type.__dataclass_fields__)  # type: ignore[attr-defined]
    wrong = right[:-1] + right[-1] * 2
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "p.toml", text=config_of(name, {wrong: 1}, {}))
    [found] = [mistake for mistake in caught.value.mistakes if mistake.key == f"stages.tested.options.{wrong}"]
    assert found.line and found.nearest == right and right in found.problem


def modules_of(extra: str) -> set[str]:
    """The modules of the libraries that an extra has."""
    wanted = {re.split(r"[^\w.-]", one)[0].lower().replace("_", "-") for one in EXTRAS[extra]}
    provided = importlib.metadata.packages_distributions()
    return {module for module, names in provided.items() if wanted & {n.lower().replace("_", "-") for n in names}}


def test_no_plugin_that_needs_a_library_is_left_out() -> None:
    assert set(NEEDY) <= set(RIGHT), "give it options here"


@pytest.mark.parametrize("name", NEEDY)
def test_a_library_that_is_not_there_is_said_with_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets: dict[str, str] = {}
    text = config_of(name, RIGHT[name], secrets)
    load(tmp_path / "p.toml", text=text, env=secrets)
    for module in modules_of(name):
        for known in [known for known in sys.modules if known.partition(".")[0] == module]:
            monkeypatch.delitem(sys.modules, known)
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "p.toml", text=text, env=secrets)
    [found] = caught.value.mistakes
    assert found.key == "stages.tested.plugin" and found.line
    assert re.search(rf"needs [\w.]+, which is not installed: pip install 'zpipe-stages\[{name}\]'$", found.problem)
