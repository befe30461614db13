"""Answers as the documentation of Elasticsearch says, for the bulk API alone: `python bulk_service.py PORT FILE`.

It is no Elasticsearch, and stands for it since Debian has none. https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk
Documents are in an SQLite file, so that they outlive a kill. What a document says of itself decides how it is refused:
`{"refuse": 400}` is a mapping error, `{"busy": n}` is refused with 429 for the first n times.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

LOGIN = "Basic " + base64.b64encode(b"zpipe:the right one").decode()


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body of an answer waits 40 ms until its head is acknowledged
    database: ClassVar[sqlite3.Connection]
    lock = threading.Lock()
    seen: ClassVar[dict[str, int]] = {}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != LOGIN:
            self.answer(
                401, {"error": {"type": "security_exception", "reason": "unable to authenticate user"}, "status": 401}
            )
        elif self.path != "/_bulk" or self.headers["Content-Type"] != "application/x-ndjson":
            self.answer(406, {"error": "Content-Type header is not supported", "status": 406})
        else:
            lines = body.decode().splitlines()
            with self.lock, self.database:
                items = [self.one(self.database, *pair) for pair in zip(lines[::2], lines[1::2], strict=True)]
            self.answer(
                200, {"took": 1, "errors": any("error" in v for i in items for v in i.values()), "items": items}
            )

    def one(self, database: sqlite3.Connection, action_line: str, source: str) -> dict[str, Any]:
        ((action, where),) = json.loads(action_line).items()
        document, id = json.loads(source), where["_id"]
        if document.get("refuse"):
            error = {
                "type": "document_parsing_exception",
                "reason": "[1:7] failed to parse field [price] of type [float]",
                "caused_by": {"type": "number_format_exception", "reason": 'For input string: "dear"'},
            }
            return {action: {**where, "status": 400, "error": error}}
        if self.seen.get(id, 0) < document.get("busy", 0):
            self.seen[id] = self.seen.get(id, 0) + 1
            error = {
                "type": "es_rejected_execution_exception",
                "reason": "rejected execution of coordinating operation",
            }
            return {action: {**where, "status": 429, "error": error}}
        known = database.execute("SELECT 1 FROM d WHERE i = ? AND id = ?", (where["_index"], id)).fetchone()
        if known and action == "create":
            error = {"type": "version_conflict_engine_exception", "reason": "document already exists"}
            return {action: {**where, "status": 409, "error": error}}
        database.execute("REPLACE INTO d VALUES (?, ?, ?)", (where["_index"], id, source))
        return {action: {**where, "status": 200 if known else 201, "result": "updated" if known else "created"}}

    def answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    Service.database = sqlite3.connect(sys.argv[2], check_same_thread=False)
    with Service.database as made:
        made.execute("PRAGMA journal_mode = WAL")
        made.execute("PRAGMA synchronous = OFF")  # a kill loses nothing, only the end of the machine would
        made.execute("CREATE TABLE IF NOT EXISTS d (i, id, source, PRIMARY KEY (i, id))")
    ThreadingHTTPServer.allow_reuse_address = True
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service).serve_forever()
