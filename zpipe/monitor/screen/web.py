"""The same screen in a browser: each page that is opened starts a screen of its own. Needs textual-serve (the extra `web`)."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from zpipe.errors import OperatorError


def serve(arguments: Sequence[str], host: str, port: int, title: str) -> None:
    """Serves `zpipe monitor ARGUMENTS` until it is interrupted. Raises OperatorError if it cannot."""
    try:
        from textual_serve.server import Server
    except ImportError:
        raise OperatorError("--web needs textual-serve: pip install 'zpipe[web]'") from None
    command = shlex.join([sys.executable, "-m", "zpipe", "monitor", *arguments])
    try:
        Server(command, host=host, port=port, title=title).serve()
    except OSError as error:
        raise OperatorError(f"cannot serve at http://{host}:{port}: {error.strerror or error}") from None
