"""A small HTTP server of a folder that knows byte ranges, counts, and misbehaves when told to."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # several processes connect with many threads at once


class RangeServer:
    """Serves the files below `root`.

    Attributes:
        url: Where.
        requests: (method, path, bytes sent) of each request.
        delay: Seconds that every answer is late.
        ranges: Whether byte ranges are known; else the whole file is sent.
        failures: Statuses of the next answers; 0 cuts the connection within the content.
        most_at_once: Requests that were open at the same time.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[tuple[str, str, int]] = []
        self.delay, self.ranges = 0.0, True
        self.failures: list[int] = []
        self.most_at_once, self._open, self._lock = 0, 0, threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def run(self) -> None:
        """Serve until `stop`."""
        self._server.serve_forever(poll_interval=0.02)

    def stop(self) -> None:
        """End, and free the port."""
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
        yield
        with self._lock:
            self._open -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1  # headers and content in one packet

            def do_HEAD(self) -> None:
                self._answer(b"")

            def do_GET(self) -> None:
                self._answer(None)

            def log_message(self, *words: object) -> None:
                pass

            def _answer(self, body: bytes | None) -> None:
                with owner._counted():
                    time.sleep(owner.delay)
                    self._send(body)

            def _send(self, body: bytes | None) -> None:
                path = owner.root / self.path.lstrip("/")
                failure = owner.failures.pop(0) if owner.failures else None
                if not path.is_file() or failure:
                    owner.requests.append((self.command, self.path, 0))
                    self.send_response(failure or 404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                content = path.read_bytes()
                tag = hashlib.sha256(content).hexdigest()[:16]
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                first, last = 0, len(content) - 1
                if asked and owner.ranges:
                    first, last = int(asked[1]), min(int(asked[2]), last)
                part = content[first : last + 1]
                self.send_response(206 if asked and owner.ranges else 200)
                self.send_header("Content-Length", str(len(part)))
                self.send_header("ETag", f'"{tag}"')
                if asked and owner.ranges:
                    self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
                self.end_headers()
                sent = part if body is None else body
                if failure == 0:
                    sent, self.close_connection = sent[: len(sent) // 2], True
                owner.requests.append((self.command, self.path, len(sent)))
                self.wfile.write(sent)

        return Handler


@contextmanager
def serving(root: Path) -> Iterator[RangeServer]:
    """A running server of a folder."""
    server = RangeServer(root)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
