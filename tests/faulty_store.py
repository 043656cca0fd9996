"""An S3 server on loopback behind a proxy that fails when it is told to."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Fault = str | None  # "403", "500", "503", "stall", "reset", "slow", or none

_BODIES = {
    "403": b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
    "500": b"<Error><Code>InternalError</Code><Message>We encountered an error</Message></Error>",
    "503": b"<Error><Code>SlowDown</Code><Message>Please reduce your rate</Message></Error>",
}
STALL_SECONDS = 3.0


class FaultyStore:
    """faults: called with (method, path) of every request. requests: all of them, in order."""

    def __init__(self, backend: int) -> None:
        self.faults: Callable[[str, str], Fault] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                store.requests.append((self.command, self.path))
                fault = store.faults(self.command, self.path)
                if fault == "stall":
                    time.sleep(STALL_SECONDS)
                if fault == "slow":
                    time.sleep(0.05)
                if fault == "reset":
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.connection.close()
                if fault in ("stall", "reset"):
                    self.close_connection = True
                    return
                if fault in _BODIES:
                    self.answer(int(fault), {"Content-Type": "application/xml"}, _BODIES[fault])
                    return
                ask = http.client.HTTPConnection("127.0.0.1", backend, timeout=20)
                ask.request(self.command, self.path, body, dict(self.headers))
                got = ask.getresponse()
                self.answer(got.status, dict(got.getheaders()), got.read())
                ask.close()

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                length = headers.get("Content-Length", headers.get("content-length"))
                for key, value in headers.items():
                    if key.lower() not in ("content-length", "connection", "transfer-encoding"):
                        self.send_header(key, value)
                size = length if self.command == "HEAD" and length else str(len(body))
                self.send_header("Content-Length", size)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass  # a reset is meant

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def sent(self) -> list[str]:
        """Names of what was put, in order."""
        return [path.split("?")[0] for method, path in self.requests if method == "PUT"]


@contextmanager
def faulty_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """A store with an empty bucket `bucket`, which Streaming finds by its environment."""
    import boto3
    from moto.server import ThreadedMotoServer

    backend = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    backend.start()
    host, port = backend.get_host_and_port()
    store = FaultyStore(port)
    thread = threading.Thread(target=store.server.serve_forever, daemon=True)
    thread.start()
    for key, value in {
        "S3_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(key, value)
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    for bucket in client.list_buckets()["Buckets"]:  # moto's state is the process's
        for item in client.list_objects_v2(Bucket=bucket["Name"]).get("Contents", []):
            client.delete_object(Bucket=bucket["Name"], Key=item["Key"])
        client.delete_bucket(Bucket=bucket["Name"])
    client.create_bucket(Bucket="bucket")
    try:
        yield store
    finally:
        store.server.shutdown()
        store.server.server_close()
        backend.stop()
