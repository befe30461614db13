"""The files that the stages of a run are made of, and which of them have changed. Must not live here: what is done about that."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from zpipe.config import PipelineConfig

LOOK_S = 0.5
MOST_FILES = 500
"""The most files of one package that are looked at."""
Signature = tuple[int, int, int]


class FileWatch:
    """Compares files with what they were. The kernel's notifications would not do: not every file system tells of changes, and an
    editor makes many of them for one that counts."""

    def __init__(self, config: PipelineConfig) -> None:
        self._next_at = 0.0
        self._config = config
        self._seen = {file: _signature(file) for file in self._files()}

    def _files(self) -> set[Path]:
        return {self._config.path, *(f for stage in self._config.stages for f in files_of(self._config, stage))}

    def changed(self, now: float) -> set[Path]:
        """The files that are not as they were at the last call; none if that was a moment ago."""
        if now < self._next_at:
            return set()
        self._next_at = now + LOOK_S
        found = {file: _signature(file) for file in self._seen}
        changed = {file for file, signature in found.items() if signature != self._seen[file]}
        self._seen = found
        return changed

    def follow(self, config: PipelineConfig) -> None:
        """Looks at the files of another config from now on. A file that is known already does not count as changed."""
        self._config = config
        self._seen = {file: self._seen.get(file) or _signature(file) for file in self._files()}

    def stages_of(self, files: set[Path]) -> dict[str, Path]:
        """The stages that are made of one of the files, with that file."""
        made_of = {stage: files & set(files_of(self._config, stage)) for stage in self._config.stages}
        return {stage: min(found) for stage, found in made_of.items() if found}


def _signature(file: Path) -> Signature | None:
    """What changes when the file does; None if it is not there, as while an editor writes it anew."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def files_of(config: PipelineConfig, stage: str) -> Iterator[Path]:
    """The files of the stage's plugins, and those that their options name (a function's module, a program, a script), or that its
    command names."""
    settings = config.stages[stage]
    for part in settings.command:
        yield from _named(part, config.folder)
    if settings.plugin:
        yield from _files_of_plugin(settings.plugin, settings.options, config.folder)
    for use in settings.use:
        yield from _files_of_plugin(use.plugin, use.options, config.folder)


def _files_of_plugin(plugin: str, options: Any, folder: Path) -> Iterator[Path]:
    if "/" in plugin or ".py" in plugin:
        yield from _named(plugin, folder)
    elif ":" in plugin:
        yield from _module_files(plugin.partition(":")[0])
    else:
        from zpipe.plugin_loading import provided

        for target in provided(plugin):
            yield from _module_files(target.partition(":")[0])
    for text in _texts(vars(options) if hasattr(options, "__dict__") else {}):
        yield from _named(text, folder)


def _named(text: str, folder: Path) -> Iterator[Path]:
    """The file that a text names, as "stage.js", "./stage" and "work.py:function" do, if it is there and is a program."""
    name = text.rpartition(":")[0] if ".py:" in text else text
    with suppress(OSError, ValueError):
        file = folder / name
        is_program = "/" in name and os.access(file, os.X_OK)
        if (Path(name).suffix in _CODE or is_program) and file.is_file():
            yield file


_CODE = {".py", ".js", ".mjs", ".cjs", ".ts", ".sh", ".awk", ".jq", ".sed", ".rb", ".pl", ".lua"}
"""Suffixes of programs. A change of other files says nothing: they may be data that a stage reads or writes."""


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for one in value.values() for text in _texts(one))
    elif isinstance(value, list | tuple):
        yield from (text for one in value for text in _texts(one))


def _module_files(module: str) -> Iterator[Path]:
    """The module's file; of a package, all its modules. None if it comes from zpipe itself."""
    if module.partition(".")[0] == "zpipe_plugins":
        return
    with suppress(ImportError, ValueError):
        found = importlib.util.find_spec(module)
        if found is None or not found.origin:
            return
        origin = Path(found.origin)
        if origin.name == "__init__.py":
            yield from sorted(origin.parent.rglob("*.py"))[:MOST_FILES]
        else:
            yield origin
