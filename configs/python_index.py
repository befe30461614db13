"""What the `parse` stage of index.toml does: from the text of a Python file to its functions and classes."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from typing import Any

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def parse(payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields a row for each function, method and class. A file that is not Python raises, and becomes a dead letter."""
    path = payload["path"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about outdated escapes in the files that are read
        tree = ast.parse(payload["text"], path)
    for node, qualname in _definitions(tree):
        yield {
            "id": f"{path}:{node.lineno}:{qualname}",
            "kind": "class" if isinstance(node, ast.ClassDef) else "function",
            "name": node.name,
            "qualname": qualname,
            "file": path,
            "line": node.lineno,
            "signature": _signature(node),
            # A Python string may hold a lone surrogate, which UTF-8 has no bytes for.
            "docstring": (ast.get_docstring(node) or "").encode("utf-8", "replace").decode(),
        }


def _definitions(tree: ast.Module) -> Iterator[tuple[Definition, str]]:
    """The definitions in the order of the file. With a stack, since a long chain of `elif` nests deeper than Python recurses."""
    stack: list[tuple[ast.AST, str]] = [(tree, "")]
    while stack:
        node, prefix = stack.pop()
        if isinstance(node, Definition):
            yield node, prefix + node.name
            prefix = f"{prefix}{node.name}."
        inner = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt | ast.ExceptHandler | ast.match_case)]
        stack += [(n, prefix) for n in reversed(inner)]


def _signature(node: Definition) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in (*node.bases, *node.keywords))
        return f"({bases})" if bases else ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(node.args)}){returns}"
