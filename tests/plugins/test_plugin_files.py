from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from zpipe.errors import OperatorError
from zpipe.messages import BadRecord
from zpipe_plugins.filesystem import readers
from zpipe_plugins.filesystem.files import Files, Options


def opened(context: Any) -> Files:
    plugin = Files()
    plugin.open(context)
    return plugin


def read(context: Any) -> list[tuple[list[Any], Any]]:
    return list(opened(context).source(context))


def total(context: Any) -> int | None:
    return opened(context).total(context)


def payloads(records: list[tuple[list[Any], Any]]) -> list[Any]:
    return [payload if not isinstance(payload, BadRecord) else payload.reason for _, payload in records]


def write(folder: Path, **contents: str | bytes) -> None:
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def assert_resumes_anywhere(make_context: Any, options: Options) -> None:
    """From every position on, just what comes after it, with the same positions; which are plain, and each its own."""
    whole = read(make_context(options))
    plain = [json.dumps(position) for position, _ in whole]
    assert len(set(plain)) == len(whole)
    for n, (position, _) in enumerate(whole):
        rest = read(make_context(options, position=json.loads(json.dumps(position))))
        assert [p for p, _ in rest] == [p for p, _ in whole[n + 1 :]]
        assert payloads(rest) == payloads(whole[n + 1 :])


def test_whole_files_sorted_and_each_once(make_context: Any, tmp_path: Path) -> None:
    write(tmp_path, b_dot_txt="B\r\n", a_dot_txt="\ufeffA", sub__deep__c_dot_txt=b"\xff!", skipped_dot_md="no")
    options = Options(["**/*.txt", "a.txt", "./sub/../b.txt", str(tmp_path / "a.*")])
    context = make_context(options)
    records = read(context)
    assert payloads(records) == [
        {"path": "a.txt", "text": "A"},
        {"path": "b.txt", "text": "B\r\n"},
        {"path": "sub/deep/c.txt", "text": "\ufffd!"},
    ]
    assert total(context) == 3
    assert total(make_context(options, position=records[1][0])) == 1
    assert total(make_context(Options(["*.txt"], "lines"))) is None
    assert_resumes_anywhere(make_context, options)


def test_files_outside_the_config_folder(make_context: Any, tmp_path: Path) -> None:
    write(tmp_path, in__x="", out__y="1", out__z="2")
    context = make_context(Options(["../out/y", str(tmp_path / "out" / "*")]), config_dir=tmp_path / "in")
    found = [payload["path"] for payload in payloads(read(context))]
    assert found == sorted(["../out/y", str(tmp_path / "out" / "z")])


def test_a_grown_file_keeps_its_position(make_context: Any, tmp_path: Path) -> None:
    write(tmp_path, a="1")
    before = read(make_context(Options(["a"])))
    write(tmp_path, a="12345")
    assert [p for p, _ in read(make_context(Options(["a"])))] == [p for p, _ in before]


def test_python_files_say_their_encoding(make_context: Any, tmp_path: Path) -> None:
    latin = "# -*- coding: latin-1 -*-\nname = 'é'\n"
    write(
        tmp_path, latin_dot_py=latin.encode("latin-1"), utf_dot_py="\ufeff'é'\n", odd_dot_py=b"# coding: rot13\nx\xff\n"
    )
    write(tmp_path, unknown_dot_py=b"# coding: nonsense\n", half_dot_py=b"# coding: unicode_escape\n'\\ud800'\n")
    texts = {p["path"]: p["text"] for p in payloads(read(make_context(Options(["*.py"]))))}
    assert texts["latin.py"] == latin
    assert texts["utf.py"] == "'é'\n"
    assert texts["odd.py"] == "# coding: rot13\nx\ufffd\n"
    assert texts["unknown.py"] == "# coding: nonsense\n"
    assert "?" in texts["half.py"]
    lines = payloads(read(make_context(Options(["latin.py"], "lines"))))
    assert [line["text"] for line in lines] == latin.splitlines()


def test_lines(make_context: Any, tmp_path: Path) -> None:
    write(tmp_path, a="\ufeffone\r\n\ntwo", b="", c=b"\xe9\n")
    assert payloads(read(make_context(Options(["?"], "lines")))) == [
        {"path": "a", "line": 1, "text": "one"},
        {"path": "a", "line": 2, "text": ""},
        {"path": "a", "line": 3, "text": "two"},
        {"path": "c", "line": 1, "text": "\ufffd"},
    ]
    assert_resumes_anywhere(make_context, Options(["?"], "lines"))


def test_ndjson_a_bad_line_does_not_stop_it(make_context: Any, tmp_path: Path) -> None:
    deep = "[" * 100_000
    write(tmp_path, a=f'{{"n": 1}}\n\n{{"n": \n{{"n": "\\ud800"}}\n{{"n": "\\ud83d\\ude00"}}\n{deep}\n{{"n": 2}}')
    records = read(make_context(Options(["a"], "ndjson")))
    found = payloads(records)
    assert [found[i] for i in (0, 3, 5)] == [{"n": 1}, {"n": "😀"}, {"n": 2}]
    assert [found[i].split(":")[0] for i in (1, 2, 4)] == ["a, line 3", "a, line 4", "a, line 6"]
    assert "not JSON" in found[1]
    assert records[1][1].raw == b'{"n": \n'
    assert_resumes_anywhere(make_context, Options(["a"], "ndjson"))


def test_ndjson_that_is_not_utf8(make_context: Any, tmp_path: Path) -> None:
    write(tmp_path, a=b'"\xff"\n1\n')
    assert payloads(read(make_context(Options(["a"], "ndjson"))))[1:] == [1]


def test_csv(make_context: Any, tmp_path: Path) -> None:
    write(tmp_path, a='\ufeffid,text\r\n1,"two\nlines, and ""quotes"""\r\n\r\n2,x\n3\n"4"x,y\n5,z', b="", c="id\n")
    found = payloads(read(make_context(Options(["?"], "csv"))))
    assert found == [
        {"id": "1", "text": 'two\nlines, and "quotes"'},
        {"id": "2", "text": "x"},
        "a, record 3: 1 fields where the header has 2",
        "a, record 4: ',' expected after '\"'",
        {"id": "5", "text": "z"},
    ]
    assert_resumes_anywhere(make_context, Options(["?"], "csv"))


def test_csv_that_ends_in_a_quote(make_context: Any, tmp_path: Path) -> None:
    write(tmp_path, a='id,text\n1,a\n2,"b\nc', b="id,id\n1,2\n", c="id\n7\n")
    found = payloads(read(make_context(Options(["?"], "csv"))))
    assert found == [
        {"id": "1", "text": "a"},
        "a, record 2: unexpected end of data",
        "cannot read b: its header has 'id' twice",
        {"id": "7"},
    ]
    assert_resumes_anywhere(make_context, Options(["?"], "csv"))


@pytest.mark.parametrize("form", ["lines", "ndjson", "csv", "file"])
def test_nothing_is_read_beyond_the_limit(
    make_context: Any, tmp_path: Path, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MAX_RECORD", 8)
    monkeypatch.setattr(readers.csv, "field_size_limit", lambda limit: None)  # it holds for the whole process
    write(tmp_path, a=b"1\n2\n" + b"3" * 30 + b"\n4\n")
    found = payloads(read(make_context(Options(["a"], form))))
    if form == "file":
        assert found == ["cannot read a: larger than 8 bytes"]
    else:
        assert len(found) == {"lines": 4, "ndjson": 4, "csv": 3}[form]
        assert "longer than 8 bytes" in found[-2]
        assert "4" in str(found[-1])
    assert_resumes_anywhere(make_context, Options(["a"], form))


def test_a_file_that_vanishes_or_cannot_be_read(make_context: Any, tmp_path: Path) -> None:
    write(tmp_path, a="1\n", b="2\n", c="3\n")
    for form in ("file", "lines"):
        context = make_context(Options(["?"], form))
        plugin = opened(context)
        (tmp_path / "b").rename(tmp_path / "bb")
        records = list(plugin.source(context))
        assert payloads(records)[1] == "cannot read b: No such file or directory"
        assert len(records) == 3
        # it is a dead letter already: not one more after a restart
        again = make_context(Options(["?"], form), position=records[1][0])
        assert payloads(list(plugin.source(again))) == payloads(records)[2:]
        # and where its file is gone altogether, the next by name comes
        assert payloads(read(make_context(Options(["?"], form), position=records[1][0]))) == payloads(records)[2:]
        (tmp_path / "bb").rename(tmp_path / "b")
        # a file that can be read again is read
        if form == "lines":
            assert payloads(read(make_context(Options(["?"], form), position=records[1][0])))[0]["path"] == "b"


def test_a_read_error_in_the_middle(make_context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, a="1\n2\n3\n", b="4\n")
    original = readers._FileLines.__next__

    def failing(lines: Any) -> bytes:
        if lines.name == "a" and lines.offset >= 4:
            raise OSError(5, "Input/output error")
        return original(lines)

    monkeypatch.setattr(readers._FileLines, "__next__", failing)
    records = read(make_context(Options(["?"], "ndjson")))
    assert payloads(records) == [1, 2, "cannot read a: Input/output error", 4]
    assert_resumes_anywhere(make_context, Options(["?"], "ndjson"))
    monkeypatch.undo()
    after_repair = read(make_context(Options(["?"], "ndjson"), position=records[2][0]))
    assert after_repair == read(make_context(Options(["?"], "ndjson")))[2:]


def test_names_that_are_no_text(make_context: Any, tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))).write_text("x")
    assert payloads(read(make_context(Options(["*"])))) == [{"path": "\\xff", "text": "x"}]


def test_stopping(make_context: Any, tmp_path: Path) -> None:
    write(tmp_path, a="1\n2\n", b="3\n")
    context = make_context(Options(["?"], "lines"))
    source = opened(context).source(context)
    next(source)
    context.stopping.set()
    assert list(source) == []


def test_no_file_at_all(make_context: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OperatorError, match=r"no file matches 'x/\*', 'folder' in"):
        opened(make_context(Options(["x/*", "folder"])))
    write(tmp_path, a="")
    opened(make_context(Options(["a", "b*"])))
    assert "no file matches 'b*'" in caplog.text


def test_wrong_options() -> None:
    for paths in ([], [""]):
        with pytest.raises(ValueError, match="allowed is a list"):
            Options(paths)
    with pytest.raises(ValueError, match="format is 'xml': allowed are file, lines, ndjson, csv"):
        Options(["a"], "xml")  # type: ignore[arg-type]
