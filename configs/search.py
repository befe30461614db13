"""Searches the index that configs/index.toml builds: python search.py DB QUERY.

QUERY is SQLite full-text syntax (priority queue, "exact phrase", prefix*, name:bisect, a OR b); anything that is not
valid as such is searched for as plain words. Exits with 1 if nothing is found.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

HITS = 5

SEARCH = """
    SELECT d.kind, d.qualname, d.file, d.line, d.signature, d.docstring
    FROM definitions_fts JOIN definitions AS d ON d.rowid = definitions_fts.rowid
    WHERE definitions_fts MATCH ?
    ORDER BY bm25(definitions_fts), d.id
    LIMIT ?
"""


def search(db: sqlite3.Connection, query: str) -> list[tuple[str | int | None, ...]]:
    try:
        return db.execute(SEARCH, (query, HITS)).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            raise
        words = " ".join('"' + word.replace('"', '""') + '"' for word in query.split())
        return db.execute(SEARCH, (words, HITS)).fetchall()


def show(hit: tuple[str | int | None, ...]) -> None:
    kind, qualname, file, line, signature, docstring = hit
    print(f"{kind} {qualname}{signature or ''}")
    print(f"    {file}:{line}")
    summary = str(docstring or "").strip().partition("\n")[0]
    if summary:
        print(f"    {summary}")


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python search.py DB QUERY", file=sys.stderr)
        return 2
    path, query = Path(arguments[0]), arguments[1]
    if not path.is_file():
        print(f"search: no index at {path}; `zpipe demo` builds one", file=sys.stderr)
        return 1
    if not query.split():
        print("search: the query is empty", file=sys.stderr)
        return 2
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        hits = search(db, query)
    except sqlite3.Error as error:
        print(f"search: {path} is not an index of definitions: {error}", file=sys.stderr)
        return 1
    finally:
        db.close()
    for hit in hits:
        show(hit)
    if not hits:
        print(f"nothing found for {query!r}", file=sys.stderr)
    return 0 if hits else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
