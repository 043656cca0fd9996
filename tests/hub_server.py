"""A model hub on this machine: so much of the Hugging Face hub's protocol as its client needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(name: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the files of `folder` as the model `name`: the address, and the paths that were got."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            asked.append(self.path)
            self.answer(True)

        def answer(self, body: bool) -> None:
            parts = self.path.split("?")[0].strip("/").split("/")
            if self.path.startswith(f"/api/models/{name}"):
                files = sorted(f.name for f in folder.iterdir())
                told = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
                data, status = json.dumps(told).encode(), 200
            elif parts[2:3] == ["resolve"] and (folder / parts[-1]).is_file():
                data, status = (folder / parts[-1]).read_bytes(), 200
            else:
                data, status = b"{}", 404
            tag, size = hashlib.sha256(data).hexdigest(), len(data)
            ranged = self.headers.get("Range")
            if ranged and status == 200:
                first, last = ranged.removeprefix("bytes=").split("-")
                end = min(int(last) + 1 if last else size, size)
                data, status = data[int(first) : end], 206
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "EntryNotFound")
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{end - 1}/{size}")
            self.send_header("ETag", f'"{tag}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """Nothing: tests have nobody to tell."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
