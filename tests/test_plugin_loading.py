"""Loading a plugin by each kind of name, and everything that can be wrong with one."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from zpipe import plugin_loading
from zpipe.errors import PluginError

IMPORT = "from zpipe import hookimpl\n"
STEP = IMPORT + "@hookimpl\ndef zpipe_process(message, context): return message, context\n"
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        (tmp_path / "p.py").write_text(text)
        return tmp_path

    return write


def load(folder: Path) -> plugin_loading.Plugin:
    return plugin_loading.load("./p.py", folder)


def problem(name: str, folder: Path) -> str:
    with pytest.raises(PluginError) as raised:
        plugin_loading.load(name, folder)
    return str(raised.value)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with a distribution `double` that provides plugins and a module that breaks."""
    site = tmp_path / "site"
    info = site / "double-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: double\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(
        "[zpipe.plugins]\nshout = zpipe_double\nwhisper = zpipe_double:soft.inner\nbroken = zpipe_broken\n"
        "lost = zpipe_lost\n"
    )
    (site / "zpipe_double.py").write_text(
        STEP + "class Soft:\n    @hookimpl\n    def zpipe_process(self, message): return 'soft', message\n"
        "class soft: inner = Soft()\n"
    )
    (site / "zpipe_broken.py").write_text("import zpipe_lost_dependency\n")
    monkeypatch.syspath_prepend(site)
    for module in ("zpipe_double", "zpipe_broken"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    importlib.invalidate_caches()
    return site


# By which name


def test_by_entry_point(installed: Path, tmp_path: Path) -> None:
    assert plugin_loading.load("shout", tmp_path).hooks["zpipe_process"](1, 2) == (1, 2)
    assert plugin_loading.load("whisper", tmp_path).hooks["zpipe_process"](1, 2) == ("soft", 1)
    assert "zpipe_broken" not in sys.modules


def test_by_module_and_object(installed: Path, tmp_path: Path) -> None:
    assert plugin_loading.load("zpipe_double:soft.inner", tmp_path).hooks["zpipe_process"](1, 2) == ("soft", 1)


@pytest.mark.parametrize("name", ["./p.py", "p.py", "sub/../p.py", "{folder}/p.py"])
def test_by_file(write: Write, name: str) -> None:
    folder = write(STEP)
    (folder / "sub").mkdir()
    assert plugin_loading.load(name.format(folder=folder), folder).takes_messages


def test_an_object_in_a_file(write: Write) -> None:
    folder = write(IMPORT + "class P:\n    @hookimpl\n    def zpipe_process(self, message): return message\np = P()\n")
    assert plugin_loading.load("./p.py:p", folder).takes_messages


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "p.py").write_text(IMPORT + f"@hookimpl\ndef zpipe_process(): return {number}\n")
    one, two = (plugin_loading.load(f"{number}/p.py", tmp_path) for number in (1, 2))
    assert (one.hooks["zpipe_process"](0, 0), two.hooks["zpipe_process"](0, 0)) == (1, 2)


def test_what_is_installed_is_listed(installed: Path) -> None:
    assert [entry for entry in plugin_loading.installed() if entry[1] == "double"] == [
        ("broken", "double", "1.5"),
        ("lost", "double", "1.5"),
        ("shout", "double", "1.5"),
        ("whisper", "double", "1.5"),
    ]


# What it is


def test_what_a_plugin_is(write: Write) -> None:
    made = load(
        write(
            IMPORT + "from dataclasses import dataclass\n"
            "@dataclass\nclass Options: a: 'int' = 1\n"
            "@hookimpl\ndef zpipe_options(): return Options\n"
            "@hookimpl\ndef zpipe_outlets(): return ['x', 'y']\n"
            "@hookimpl\nasync def zpipe_process(message): return message\n"
            "@hookimpl\ndef zpipe_process_batch(messages, context): return messages\n"
        )
    )
    assert (made.is_source, made.takes_messages, made.takes_batches) == (False, True, True)
    assert made.options_type is not None and made.options_type.__name__ == "Options"
    assert (made.outlets(None), made.is_async, made.name) == (("x", "y"), {"zpipe_process"}, "./p.py")
    assert asyncio.run(made.hooks["zpipe_process"](5, None)) == 5


def test_a_source(write: Write) -> None:
    made = load(write(IMPORT + "@hookimpl\ndef zpipe_source(context): yield context\n"))
    assert (made.is_source, made.takes_messages, made.takes_batches) == (True, False, False)
    assert (made.options_type, made.outlets(None), made.is_async) == (None, None, frozenset())
    assert list(made.hooks["zpipe_source"]("c")) == ["c"]


def test_a_plugin_of_both_kinds_is_a_source_where_the_stage_has_no_input(write: Write) -> None:
    both = "@hookimpl\ndef zpipe_source(context): ...\n@hookimpl\ndef zpipe_process_each(messages): ...\n"
    made = load(write(IMPORT + both))
    head, middle = made.in_stage(has_input=False), made.in_stage(has_input=True)
    assert (head.is_source, head.takes_messages) == (True, False)
    assert (middle.is_source, middle.takes_messages) == (False, True)


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ("message, context", "(message, context)"),
        ("message", "message"),
        ("context", "context"),
        ("", "None"),
        ("context, message", "(message, context)"),
        ("message, context=None", "(message, context)"),
    ],
)
def test_a_hook_is_called_with_what_it_takes(write: Write, arguments: str, result: str) -> None:
    made = load(write(IMPORT + f"@hookimpl\ndef zpipe_process({arguments}): return {result}\n"))
    expected = {"message": 1, "context": 2}
    assert made.hooks["zpipe_process"](1, 2) == eval(result, {}, expected)


def test_the_full_signature_is_called_directly(write: Write) -> None:
    assert load(write(STEP)).hooks["zpipe_process"].__name__ == "zpipe_process"


def test_a_decorated_hook_counts_as_what_it_wraps(write: Write) -> None:
    text = "import functools\ndef twice(f):\n    @functools.wraps(f)\n    def g(*a): return f(*a)\n    return g\n"
    made = load(write(IMPORT + text + "@hookimpl\n@twice\ndef zpipe_process(message): return message\n"))
    assert made.hooks["zpipe_process"](1, 2) == 1


# What is wrong


def test_no_such_plugin(installed: Path, tmp_path: Path) -> None:
    said = problem("shuot", tmp_path)
    assert said.startswith("no plugin 'shuot' (did you mean 'shout'?); installed are: broken, ")
    (tmp_path / "mine.py").write_text(STEP)
    assert problem("mine", tmp_path).endswith("; a file is named './mine.py'")


def test_two_distributions_with_one_name(installed: Path, tmp_path: Path) -> None:
    info = installed / "other-2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 2\n")
    (info / "entry_points.txt").write_text("[zpipe.plugins]\nshout = other_module\n")
    assert problem("shout", tmp_path) == (
        "plugin 'shout' is provided more than once: name one by module:object: other_module, zpipe_double"
    )


def test_modules_and_files_that_are_not_there(installed: Path, tmp_path: Path, write: Write) -> None:
    write(STEP)
    assert problem("lost", tmp_path) == "plugin 'lost': no module 'zpipe_lost' can be imported"
    assert problem("zpipe_no.such:x", tmp_path) == "plugin 'zpipe_no.such:x': no module 'zpipe_no' can be imported"
    assert problem("p:x", tmp_path).endswith(
        "no module 'p' can be imported; for the file beside the config write './p.py:x'"
    )
    assert problem("./q.py", tmp_path) == f"plugin './q.py': no file {tmp_path}/q.py (did you mean 'p.py'?)"
    assert problem("zpipe_double:sotf", tmp_path).endswith("'zpipe_double' has no 'sotf' (did you mean 'soft'?)")
    assert problem("zpipe_double:Soft", tmp_path).endswith("'Soft' is a class; name an object, such as Soft()")
    (tmp_path / "shout").write_text(STEP)
    assert problem("./shout", tmp_path).endswith("shout is not a Python file (its name must end in .py)")


def test_a_dependency_that_is_not_there(installed: Path, tmp_path: Path) -> None:
    assert problem("broken", tmp_path) == (
        "plugin 'broken' cannot be imported: ModuleNotFoundError: No module named 'zpipe_lost_dependency' "
        f"at {installed}/zpipe_broken.py:1"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\ndef f():\n    return 1 / 0\nf()\n", "ZeroDivisionError: division by zero at {}/p.py:3"),
        ("x = 1\ndef (\n", "SyntaxError: invalid syntax at {}/p.py:2"),
        ("raise SystemExit(3)\n", "SystemExit: 3 at {}/p.py:1"),
    ],
)
def test_a_file_that_cannot_be_imported(write: Write, text: str, said: str) -> None:
    folder = write(text)
    before = set(sys.modules)
    assert problem("./p.py", folder) == f"plugin './p.py' cannot be imported: {said.format(folder)}"
    assert not {name for name in set(sys.modules) - before if name.startswith("zpipe_file")}


HOOKS = (
    "zpipe_options, zpipe_outlets, zpipe_check, zpipe_traits, zpipe_open, zpipe_close, zpipe_source, zpipe_total, "
    "zpipe_commit, zpipe_ack, zpipe_process, zpipe_process_each, zpipe_process_batch, zpipe_wrap, zpipe_tick, zpipe_flush"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "@hookimpl\ndef zpipe_proces(message): ...",
            f"there is no hook 'zpipe_proces' (did you mean 'zpipe_process'?); hooks are {HOOKS}",
        ),
        (
            "@hookimpl\ndef zpipe_process(mesage, ctx): ...",
            "zpipe_process has no argument 'mesage' (did you mean 'message'?); it is zpipe_process(message, context); "
            "zpipe_process has no argument 'ctx' (did you mean 'context'?); it is zpipe_process(message, context)",
        ),
        (
            "@hookimpl\ndef zpipe_process(message, *rest): ...",
            "zpipe_process may not take '*rest': arguments come by position; it is zpipe_process(message, context)",
        ),
        (
            "@hookimpl\ndef zpipe_process(message, *, context): ...",
            "zpipe_process may not take 'context': arguments come by position; it is zpipe_process(message, context)",
        ),
        (
            "@hookimpl\ndef zpipe_open(context): ...",
            "it has only zpipe_open; one of zpipe_source, zpipe_process, zpipe_process_each, zpipe_process_batch, zpipe_wrap is "
            "needed, marked with @zpipe.hookimpl",
        ),
        (
            "",
            "it has no hooks at all; one of zpipe_source, zpipe_process, zpipe_process_each, zpipe_process_batch, zpipe_wrap is "
            "needed, marked with @zpipe.hookimpl",
        ),
        (
            "def zpipe_process(message): ...",
            "zpipe_process is not marked with @zpipe.hookimpl, so it would never be called",
        ),
        (
            "@hookimpl\ndef zpipe_process(message): ...\ndef zpipe_close(context): ...",
            "zpipe_close is not marked with @zpipe.hookimpl, so it would never be called",
        ),
        (
            "def zpipe_proces(message): ...",
            "zpipe_proces not marked with @zpipe.hookimpl (did you mean 'zpipe_process'?)",
        ),
        (
            "@hookimpl\nasync def zpipe_process(message): yield 1",
            "zpipe_process is an async generator; return zpipe.many(...) instead of yielding",
        ),
        (
            "@hookimpl\nasync def zpipe_process(message): ...\n@hookimpl\nasync def zpipe_total(context): ...",
            "zpipe_total may not be async def: it is called where no event loop runs",
        ),
        (
            "@hookimpl(wrapper=True)\ndef zpipe_process(message): yield",
            "zpipe_process is a hook wrapper; a stage has one plugin, so there is nothing to wrap",
        ),
        (
            "@hookimpl\ndef zpipe_process(message): ...\n@hookimpl(specname='zpipe_process')\ndef zz(message): ...",
            "zpipe_process is implemented twice",
        ),
    ],
)
def test_hooks_that_are_wrong(write: Write, text: str, said: str) -> None:
    assert problem("./p.py", write(IMPORT + text + "\n")) == f"plugin './p.py': {said}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "def zpipe_options(): return dict",
            "zpipe_options must return a dataclass (the type itself), not <class 'dict'>",
        ),
        ("def zpipe_options(): return 5", "zpipe_options must return a dataclass (the type itself), not 5"),
        ("def zpipe_options(): raise KeyError('k')", "zpipe_options raised KeyError: 'k'"),
    ],
)
def test_what_a_plugin_says_of_itself_that_is_wrong(write: Write, text: str, said: str) -> None:
    assert problem("./p.py", write(STEP + f"@hookimpl\n{text}\n")) == f"plugin './p.py': {said}"


def test_outlets_may_depend_on_the_options(write: Write) -> None:
    made = load(write(STEP + "@hookimpl\ndef zpipe_outlets(options): return options['outlets']\n"))
    assert made.outlets({"outlets": ["a", "b"]}) == ("a", "b")
    assert made.outlets({"outlets": None}) is None
    for wrong in ("abc", ("a", 1), 5):
        with pytest.raises(PluginError) as raised:
            made.outlets({"outlets": wrong})
        assert str(raised.value) == f"plugin './p.py': zpipe_outlets must return a tuple of names, not {wrong!r}"
    with pytest.raises(PluginError, match="zpipe_outlets raised KeyError: 'outlets'"):
        made.outlets({})
