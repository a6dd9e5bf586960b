"""A web server on 127.0.0.1 for the tests of downloads, as well- or ill-behaved as a test asks for."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web:
    """A web server on this machine.

    Attributes:
        files: path -> (status, body).
        headers: path -> further headers of the answers with a body.
        replies: path -> (status, headers) of answers without a body that come first, one per request; a status of 0
            closes the connection without an answer.
        asked: paths, in the order they were asked for.
        received: headers of the requests, in the same order.
        promised: a Content-Length to give where the body is shorter.
        breaks: numbers of body bytes after which the next answers break off.
        ranges: whether Range and If-Range are understood.
        chunked: send bodies in chunks, without a Content-Length; a break then leaves out the end.
        unsized: send bodies without any length.
    """

    def __init__(self) -> None:
        self.files: dict[str, tuple[int, bytes]] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.replies: dict[str, list[tuple[int, dict[str, str]]]] = {}
        self.asked: list[str] = []
        self.received: list[dict[str, str]] = []
        self.promised = 0
        self.breaks: list[int] = []
        self.ranges = True
        self.chunked = False
        self.unsized = False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def file(self, path: str, body: bytes, **headers: str) -> None:
        """Serve a file; `etag="..."` and `last_modified="..."` become headers."""
        self.files[path] = (200, body)
        names = {"etag": "ETag", "last_modified": "Last-Modified", "content_encoding": "Content-Encoding"}
        self.headers[path] = {names[name]: value for name, value in headers.items()}


class _Handler(BaseHTTPRequestHandler):
    web: Web
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.web.asked.append(self.path)
        self.web.received.append(dict(self.headers))
        if self.web.replies.get(self.path):
            status, headers = self.web.replies[self.path].pop(0)
            self.close_connection = True
            if status:
                self.start(status, {"Content-Length": "0", **headers})
            return
        status, body = self.web.files.get(self.path, (404, b"not here"))
        self.answer(status, body, self.web.headers.get(self.path, {}))

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        fresh = condition is None or condition in headers.values()
        if wanted and fresh and self.web.ranges and status == 200:
            start, size = int(wanted[1]), len(body)
            if start >= size:
                self.start(416, {**headers, "Content-Range": f"bytes */{size}", "Content-Length": "0"})
                return
            status, body = 206, body[start:]
            headers = {**headers, "Content-Range": f"bytes {start}-{size - 1}/{size}"}
        self.send(status, body, headers)

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        cut = self.web.breaks.pop(0) if self.web.breaks else None
        sent = body[:cut]
        if self.web.chunked:
            self.start(status, {**headers, "Transfer-Encoding": "chunked"})
            self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent) + (b"0\r\n\r\n" if cut is None else b""))
        else:
            length = {} if self.web.unsized else {"Content-Length": str(max(len(body), self.web.promised))}
            self.start(status, {**headers, **length})
            self.wfile.write(sent)

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        # This closes the connection after the answer, too.
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@contextmanager
def serving() -> Iterator[Web]:
    """Run a web server until the end of the `with` block."""
    web = Web()
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        web.server.shutdown()
        web.server.server_close()
        thread.join()
