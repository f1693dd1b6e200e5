"""Serves a folder over HTTP by byte ranges, each answer so many milliseconds late, as a process.

    python benchmarks/remote_server.py FOLDER MILLISECONDS

prints its port, and each time it is asked for /count the requests since it was last asked.
"""

from __future__ import annotations

import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Ranges(BaseHTTPRequestHandler):
    """One answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    root = Path()
    late = 0.0
    requests = 0

    def do_GET(self) -> None:
        if self.path == "/count":
            self._send(200, str(Ranges.requests).encode(), {})
            Ranges.requests = 0
            return
        Ranges.requests += 1
        time.sleep(self.late)
        path = self.root / self.path.lstrip("/")
        if not path.is_file():
            self._send(404, b"", {})
            return
        status = path.stat()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), int(asked[2])) if asked else (0, status.st_size - 1)
        last = min(last, status.st_size - 1)
        headers = {"ETag": f'"{status.st_mtime_ns:x}-{status.st_size:x}"'}
        if self.command == "HEAD":
            self._send(200, b"", {**headers, "Content-Length": str(status.st_size)})
            return
        with path.open("rb") as file:
            file.seek(first)
            content = file.read(last - first + 1)
        if asked:
            headers["Content-Range"] = f"bytes {first}-{last}/{status.st_size}"
        self._send(206 if asked else 200, content, headers)

    do_HEAD = do_GET

    def log_message(self, *words: object) -> None:
        pass

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    Ranges.root, Ranges.late = Path(sys.argv[1]), float(sys.argv[2]) / 1000
    server = Server(("127.0.0.1", 0), Ranges)
    print(server.server_port, flush=True)
    server.serve_forever()
