"""What a plugin says where the library that it is written with is not installed. The same words in all of them."""

from __future__ import annotations

import importlib.util

from zpipe.errors import OperatorError, install_command


def require(extra: str, *modules: str) -> None:
    """Raises OperatorError if one of the modules is not installed. `extra`: what zpipe is installed with to have them.

    It imports nothing, so it is for `check`, which a plugin runs wherever its config is checked.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise OperatorError(f"it needs {module}, which is not installed: {install_command(extra)}")
