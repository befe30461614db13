"""The plugins that choose, check and change payloads, each in a stage with the real core around it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from zpipe import Secret
from zpipe.config import load
from zpipe.errors import ConfigError, OperatorError
from zpipe.testing import check_plugin, stage
from zpipe.testing.plugin_runs.toml_text import table
from zpipe_plugins import seen_keys

ORDER = {"id": 7, "lines": [{"sku": "a", "price": 5}, {"sku": "b", "price": 20}], "who": {"Email": "a@b.example"}}


def out_of(plugin: str, options: dict[str, Any], *payloads: Any, **keys: Any) -> list[Any]:
    with stage(plugin, options, **keys) as s:
        s.send_many(payloads)
        s.advance("10m")
        return s.out + [f"dead: {letter.reason}" for letter in s.dead] + ["dropped"] * s.filtered


def refused(plugin: str, options: dict[str, Any], **keys: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        stage(plugin, options, **keys)
    return str(caught.value)


# ---- select, filter, reshape, route


def test_select_makes_what_the_expression_finds() -> None:
    assert out_of("select", {"expression": "lines[?price > `10`].sku"}, ORDER) == [["b"]]
    assert out_of("select", {"expression": "{n: id, total: sum(lines[].price)}"}, ORDER) == [{"n": 7, "total": 25}]
    assert out_of("select", {"expression": "nothing"}, ORDER) == ["dropped"]
    assert out_of("select", {"expression": "nothing", "if_null": "keep"}, ORDER) == [None]
    [letter] = out_of("select", {"expression": "nothing", "if_null": "reject"}, ORDER)
    assert letter == "dead: 'nothing' finds nothing in it"
    [letter] = out_of("select", {"expression": "sum(lines)"}, ORDER)
    assert letter.startswith("dead: 'sum(lines)' cannot be evaluated: In function sum()")


def test_filter_drops_what_is_not_so() -> None:
    assert out_of("filter", {"where": "n >= `2`"}, {"n": 1}, {"n": 2}, {"m": 3}) == [{"n": 2}, "dropped", "dropped"]
    assert out_of("filter", {"where": "n"}, {"n": 0}, {"n": ""}, {"n": []}, {"n": False}) == [
        {"n": 0},
        *["dropped"] * 3,
    ]


def test_reshape_makes_a_map_field_by_field() -> None:
    fields = {"id": "id", "total": "sum(lines[].price)", "none": "x.y"}
    assert out_of("reshape", {"fields": fields}, ORDER) == [{"id": 7, "total": 25, "none": None}]
    [kept] = out_of("reshape", {"fields": {"n": "id"}, "keep": True, "without": ["lines", "id"]}, ORDER)
    assert kept == {"who": ORDER["who"], "n": 7}
    [letter] = out_of("reshape", {"fields": {}, "keep": True}, [1])
    assert letter == "dead: the payload is a list, and only the fields of a map can be kept"
    assert "set keep = true" in refused("reshape", {"fields": {}, "without": ["a"]})


def test_route_takes_the_first_way_that_is_open() -> None:
    routes = {"errors": "status >= `500`", "slow": "seconds > `1`"}
    payloads = [{"status": 500, "seconds": 9}, {"status": 200, "seconds": 2}, {"status": 200}]
    with stage("route", {"routes": routes}) as s:
        s.send_many(payloads)
        assert sorted((m.outlet, m.payload["status"]) for m in s.sent) == [("", 200), ("errors", 500), ("slow", 200)]
    assert "dropped" in out_of("route", {"routes": routes, "otherwise": "drop"}, payloads[2])
    [letter] = out_of("route", {"routes": routes, "otherwise": "reject"}, payloads[2])
    assert letter == "dead: none of the routes errors, slow takes it"
    assert "routes is empty" in refused("route", {"routes": {}})


@pytest.mark.parametrize(
    ("plugin", "options"),
    [
        ("select", {"expression": "a["}),
        ("filter", {"where": "a["}),
        ("reshape", {"fields": {"x": "a["}}),
        ("route", {"routes": {"x": "a["}}),
    ],
)
def test_an_expression_that_is_none_is_found_when_the_config_is_checked(plugin: str, options: dict[str, Any]) -> None:
    assert "'a[' is no JMESPath expression" in refused(plugin, options)


# ---- split, join_text


def test_split_makes_a_message_of_each_part() -> None:
    with stage("split", {"field": "lines"}) as s:
        id = s.send(ORDER)
        assert s.out == ORDER["lines"]
        assert len({m.id for m in s.sent}) == 2 and all(m.id.startswith(id) for m in s.sent)
    assert out_of("split", {}, [1, None]) == [1, None]
    assert out_of("split", {"field": "t", "separator": "\n", "keep": True}, {"t": "a\n\nb", "n": 1}) == [
        {"t": "a", "n": 1},
        {"t": "b", "n": 1},
    ]
    assert out_of("split", {"field": "t"}, {"t": "ab"}) == ["dead: field 't' is a str: allowed is a list"]
    assert out_of("split", {"field": "t"}, {}) == ["dead: field 't', which is to be split, is missing"]
    assert out_of("split", {"separator": ","}, 7) == ["dead: the payload is a int: allowed is text"]
    assert "separator is empty" in refused("split", {"separator": ""})


def test_join_text_joins_what_is_in_a_batch() -> None:
    batch = {"messages": 4, "timeout": "1s"}
    texts = [{"text": "a", "of": 1}, {"text": "b", "of": 2}, {"text": "c", "of": 1}]
    assert out_of("join_text", {}, *texts, batch=batch) == [{"text": "a\nb\nc", "messages": 3}]
    assert out_of("join_text", {"by": "of", "separator": " "}, *texts, batch=batch) == [
        {"of": 1, "text": "a c", "messages": 2},
        {"of": 2, "text": "b", "messages": 1},
    ]
    joined = out_of("join_text", {}, "a", 7, "b", batch=batch, retry={"attempts": 1})
    assert [one for one in joined if isinstance(one, str)] == ["dead: ValueError: the text, field 'text', is a int"]
    assert sorted(t for one in joined if isinstance(one, dict) for t in one["text"].split("\n")) == ["a", "b"]


# ---- dedupe


def test_dedupe_passes_the_first_with_a_key(tmp_path: Path) -> None:
    with stage("dedupe", {"key": ["a"]}, batch=3, folder=tmp_path) as s:
        s.send_many([{"a": 1, "n": 1}, {"a": 1, "n": 2}, {"b": 1}, {"a": "1"}, {"a": 1, "n": 3}, {"a": None}])
        assert s.out == [{"a": 1, "n": 1}, {"a": "1"}, {"a": None}] and s.filtered == 2
        assert s.dead[0].reason == "field 'a', which is part of the key, is missing"
    whole = [{"a": 1, "b": [{"c": 1, "d": 2}]}, {"b": [{"d": 2, "c": 1}], "a": 1}]
    assert out_of("dedupe", {}, *whole) == [whole[0], "dropped"]


def test_dedupe_knows_the_first_one_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may not have arrived anywhere, so it passes again; another message with its key does not."""
    clock = [1000.0]
    monkeypatch.setattr(seen_keys.time, "time", lambda: clock[0])
    path, key = tmp_path / "seen.db", seen_keys.digest("k")
    first = seen_keys.SeenKeys(path, 60.0, 100)
    assert first.first([(key, "m1"), (key, "m2")]) == [True, False]
    first.close()
    again = seen_keys.SeenKeys(path, 60.0, 100)
    assert again.first([(key, "m1"), (key, "m2")]) == [True, False]
    assert again.has(key) and not again.has(b"other")
    clock[0] += 60.0
    assert again.first([(key, "m2"), (key, "m1")]) == [True, False], "the window is over, and another begins"
    again.close()


def test_dedupe_keeps_the_newest_keys_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(seen_keys.time, "time", lambda: clock[0])
    seen = seen_keys.SeenKeys(tmp_path / "seen.db", 600.0, most=10)
    for n in range(30):
        clock[0] += 10
        assert seen.first([(b"%d" % n, "m")]) == [True]
    assert sum(seen.has(b"%d" % n) for n in range(30)) <= 10 + 6, "looked at each tenth of the window"
    assert seen.has(b"29")
    seen.close()


def test_a_window_is_not_shared_by_instances(zpipe_context: Any, tmp_path: Path) -> None:
    from zpipe_plugins.payloads.dedupe import Dedupe, Options

    with pytest.raises(OperatorError, match="set instances = 1"):
        Dedupe().open(zpipe_context(Options(), instances=2))


def test_a_window_that_cannot_be_written_is_no_messages_fault(tmp_path: Path) -> None:
    import sqlite3

    from zpipe import Throttled

    seen = seen_keys.SeenKeys(tmp_path / "seen.db", 60.0, 100)
    seen._connection.execute("PRAGMA busy_timeout = 1")
    with sqlite3.connect(tmp_path / "seen.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Throttled, match="locked"):
            seen.first([(b"k", "m")])
        other.execute("ROLLBACK")
    other.close()
    assert seen.first([(b"k", "m")]) == [True]
    seen.close()


# ---- validate

HEAD = table("pipeline", {"name": "p"}) + table("stages.head", {"plugin": "generate"})
SCHEMA = {
    "type": "object",
    "required": ["id"],
    "properties": {"id": {"type": "integer"}, "at": {"type": "string", "format": "date"}},
}


def test_validate_says_where_a_payload_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    bad: list[Any] = [{"id": "x"}, {}, {"id": 1, "at": "no date"}]
    assert out_of("validate", {"schema": "s.json"}, {"id": 1, "at": "2026-01-31"}, *bad, folder=tmp_path) == [
        {"id": 1, "at": "2026-01-31"},
        "dead: $.id: 'x' is not of type 'integer'",
        "dead: $: 'id' is a required property",
        "dead: $.at: 'no date' is not a 'date'",
    ]
    assert out_of("validate", {"schema": SCHEMA, "invalid": "drop"}, *bad) == ["dropped"] * 3
    with stage("validate", {"schema": SCHEMA, "invalid": "outlet"}) as s:
        s.send({})
        [sent] = s.sent
        assert (sent.outlet, sent.headers) == ("invalid", {"invalid": "$: 'id' is a required property"})


def test_validate_refuses_a_schema_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    for schema, words in [
        ("none.json", "none.json cannot be read: No such file"),
        ("bad.json", "bad.json is not JSON"),
        ({"type": "no type"}, "it is no JSON Schema: $.type: 'no type' is not valid"),
    ]:
        text = table("stages.v", {"plugin": "validate", "input": "head", "options": {"schema": schema}})
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / "p.toml", text=HEAD + text)
        [mistake] = caught.value.mistakes
        assert mistake.key == "stages.v.options.schema" and words in mistake.problem


# ---- redact


def test_redact_hides_fields_and_texts_at_any_depth() -> None:
    options = {"fields": ["email"], "texts": ["card", "ip", "secret-\\w+"]}
    payload = {**ORDER, "log": ["paid with 4111 1111 1111 1111 from 10.0.0.7", "secret-abc", 7, None]}
    [hidden] = out_of("redact", options, payload)
    assert hidden == {**payload, "who": {"Email": "***"}, "log": ["paid with *** from ***", "***", 7, None]}
    assert out_of("redact", {"fields": ["who", "lines"], "how": "remove"}, ORDER) == [{"id": 7}]
    assert out_of("redact", {"texts": ["email"], "how": "remove"}, "to a@b.example!") == ["to !"]
    assert "no regular expression" in refused("redact", {"texts": ["["]})
    assert "what is to be hidden" in refused("redact", {})


def test_redact_hashes_alike_what_is_alike() -> None:
    values = [{"e": "a@b.example"}, {"e": "a@b.example"}, {"e": "c@d.example"}]
    plain = out_of("redact", {"fields": ["e"], "how": "hash"}, *values)
    salted = out_of("redact", {"fields": ["e"], "how": "hash", "salt": Secret("s")}, *values)
    for one, same, other in (plain, salted):
        assert one == same != other and len(one["e"]) == 24
    assert plain[0] != salted[0]


def test_redact_in_the_use_of_another_stage(tmp_path: Path) -> None:
    use = [{"plugin": "redact", "options": {"fields": ["email"]}}]
    options = {"schema": {"properties": {"email": {"const": "***"}}, "required": ["id"]}}
    with stage("validate", options, use=use, folder=tmp_path) as s:
        s.send_many([{"email": "a@b.example", "id": 1}, {"email": "c@d.example"}])
        assert s.out == [{"email": "***", "id": 1}]
        assert s.dead[0].payload == {"email": "c@d.example"}, "as it came"


# ---- what must hold of all of them


@pytest.mark.parametrize(
    ("plugin", "options"),
    [
        ("select", {"expression": "n"}),
        ("filter", {"where": "n > `2`"}),
        ("reshape", {"fields": {"m": "n"}}),
        ("route", {"routes": {"big": "n > `2`"}}),
        ("split", {"field": "list"}),
        ("validate", {"schema": {"required": ["n"]}}),
        ("redact", {"fields": ["n"]}),
    ],
)
def test_rules(plugin: str, options: dict[str, Any]) -> None:
    check_plugin(plugin, options, payloads=[{"n": n, "list": [n, n]} for n in range(5)])


def test_threads_share_a_window(tmp_path: Path) -> None:
    from zpipe import Message
    from zpipe.testing import make_context
    from zpipe_plugins.payloads.dedupe import Dedupe, Options

    plugin, context = Dedupe(), make_context(Options(key=["k"]), config_dir=tmp_path)
    plugin.open(context)
    passed: list[Any] = []

    def work(thread: int) -> None:
        for n in range(50):
            answer = plugin.process(Message({"k": n}, id=f"{thread}.{n}"), context)
            passed.extend([n] if isinstance(answer, Message) else [])

    threads = [threading.Thread(target=work, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plugin.close(context)
    assert sorted(passed) == list(range(50))
