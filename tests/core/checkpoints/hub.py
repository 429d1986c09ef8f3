# SPDX-License-Identifier: Apache-2.0
"""A local hub: as much of the model hub's protocol as huggingface_hub asks for, and the ways in which it goes wrong."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 10_000  # bytes from which a file is kept as a large one, named by its SHA-256 and served from elsewhere


def git_name(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


class Hub:
    """Serves the files of ``folder`` as ``repository``. What is to go wrong is set while it runs."""

    def __init__(self, folder: Path, repository: str) -> None:
        self.repository = repository
        self.files = {
            p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
        }
        self.break_after: dict[str, int] = {}  # file: bytes after which the connection is closed, once
        self.unavailable_after_break = False
        self.stall: threading.Event | None = None  # with break_after: wait for this instead of closing
        self.corrupt: Counter[str] = Counter()  # file: how often it is sent with a wrong byte
        self.requests: list[tuple[str, str, str | None]] = []  # method, file or address, range
        self.sent: Counter[str] = Counter()  # bytes
        self._unavailable = self._closed = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self, body=True)

            def do_HEAD(self) -> None:
                hub._answer(self, body=False)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self.stall is not None:
            self.stall.set()
        self._closed = True  # connections that are kept alive have threads of their own
        self._server.shutdown()
        self._server.server_close()

    def repair(self) -> None:
        """From now on nothing goes wrong."""
        self.break_after, self.unavailable_after_break, self._unavailable = {}, False, False
        self.corrupt.clear()

    def fetched(self) -> list[str]:
        """Files whose content was asked for."""
        return [name for method, name, _ in self.requests if method == "GET" and name in self.files]

    def ranges(self, name: str) -> list[str | None]:
        return [r for method, asked, r in self.requests if method == "GET" and asked == name]

    def _entry(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        entry: dict[str, Any] = {"size": len(data), "name": git_name(data)}
        if len(data) >= LARGE:
            entry["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
        return entry

    def _answer(self, handler: BaseHTTPRequestHandler, body: bool) -> None:
        if self._closed:
            handler.close_connection = True
            return
        path = handler.path.partition("?")[0]
        wanted_range = handler.headers.get("Range")
        info, tree, resolve, blob = (
            re.fullmatch(pattern, path)
            for pattern in (
                rf"/api/models/{self.repository}(?:/revision/(.+))?",
                rf"/api/models/{self.repository}/tree/([^/]+)",
                rf"/{self.repository}/resolve/([^/]+)/(.+)",
                r"/large/(.+)",
            )
        )
        if info:
            self.requests.append((handler.command, "api", None))
            if info[1] not in (None, "main", COMMIT):
                self._error(handler, 404, "RevisionNotFound")
                return
            siblings = []
            for name in self.files:
                entry = self._entry(name)
                large = {"lfs": entry["lfs"]} if "lfs" in entry else {}
                siblings.append({"rfilename": name, "size": entry["size"], "blobId": entry["name"], **large})
            self._json(handler, {"id": self.repository, "sha": COMMIT, "siblings": siblings}, body)
        elif tree:
            rows = []
            for name in self.files:
                entry = self._entry(name)
                row: dict[str, Any] = {"type": "file", "path": name, "size": entry["size"], "oid": entry["name"]}
                if "lfs" in entry:
                    row["lfs"] = {"oid": entry["lfs"]["sha256"], "size": entry["size"], "pointerSize": 130}
                rows.append(row)
            self._json(handler, rows, body)
        elif resolve and resolve[2] in self.files:
            entry = self._entry(resolve[2])
            common = {"X-Repo-Commit": COMMIT, "ETag": f'"{entry["name"]}"'}
            if "lfs" in entry:  # as the real one: the file itself lies on another host
                port = self._server.server_port
                common |= {
                    "X-Linked-Size": str(entry["size"]),
                    "X-Linked-Etag": f'"{entry["lfs"]["sha256"]}"',
                    "Location": f"http://localhost:{port}/large/{resolve[2]}",
                }
                self._send(handler, 302, b"", common, body)
            else:
                self._file(handler, resolve[2], wanted_range, common, body)
        elif blob and blob[1] in self.files:
            self._file(handler, blob[1], wanted_range, {}, body)
        elif resolve:
            self._error(handler, 404, "EntryNotFound")
        else:
            self._error(handler, 404, "RepoNotFound")

    def _file(
        self, handler: BaseHTTPRequestHandler, name: str, wanted: str | None, headers: dict[str, str], body: bool
    ) -> None:
        self.requests.append((handler.command, name, wanted))
        if self._unavailable:
            self._error(handler, 503, "Unavailable")
            return
        data = self.files[name]
        if body and self.corrupt[name] > 0:
            self.corrupt[name] -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        status = 206 if wanted else 200
        if wanted:
            headers = headers | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        limit = self.break_after.get(name) if body else None
        if limit is None or limit <= start:
            self._send(handler, status, data[start:], headers, body)
            self.sent[name] += len(data) - start
            return
        if self.stall is None:
            del self.break_after[name]
        self._unavailable = self.unavailable_after_break
        self._send(handler, status, data[start:], headers, body, only=limit - start)
        self.sent[name] += limit - start
        if self.stall is not None:
            self.stall.wait(60)
        handler.close_connection = True

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        headers: dict[str, str],
        body: bool,
        only: int | None = None,
    ) -> None:
        handler.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            handler.send_header(key, value)
        handler.end_headers()
        if body:
            handler.wfile.write(data if only is None else data[:only])
            handler.wfile.flush()

    def _json(self, handler: BaseHTTPRequestHandler, value: Any, body: bool) -> None:
        self._send(handler, 200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body)

    def _error(self, handler: BaseHTTPRequestHandler, status: int, code: str) -> None:
        self._send(handler, status, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"}, True)
