"""The context that a plugin gets in a test, and finding the plugin itself. Must not live here: calling it for messages."""

from __future__ import annotations

import logging
import sys
import threading
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

from zpipe.hookspecs import Context

_made = count(1)


class SourceHasNoMore(threading.Event):
    """In the place of `context.stopping`: a source that waits has nothing more to give now, so it is told to stop."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return True


def make_context(options: Any = None, **fields: Any) -> Context[Any, Any]:
    """A context for calling a hook by hand. `options`: an object of the plugin's own type; `fields`: any others of a Context."""
    folder = Path(fields.pop("config_dir", None) or Path.cwd())
    given: dict[str, Any] = {
        "pipeline": "test",
        "stage": "stage",
        "instance": 1,
        "incarnation": "test",
        "options": options,
        "config_dir": folder,
        "state_dir": folder,
        "log": logging.getLogger("zpipe.test"),
    }
    return Context(**(given | fields))


def plugin_name(plugin: Any, folder: Path) -> str:
    """The plugin as a config names it. A path is relative to `folder`; what is no text is a module, a class or an object."""
    if isinstance(plugin, Path):
        plugin = str(plugin)
    if isinstance(plugin, str):
        file, dot_py, attribute = plugin.partition(".py")
        return f"{(folder / file).absolute()}{dot_py}{attribute}" if dot_py else plugin
    holder = ModuleType(f"zpipe_test_plugin_{next(_made)}")
    vars(holder)["plugin"] = plugin
    sys.modules[holder.__name__] = holder
    return f"{holder.__name__}:plugin"
