"""A fake of vLLM's HTTP side: it answers what a test told it to. It proves nothing about vLLM."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclasses.dataclass
class Reply:
    """What the fake sends for one path."""

    body: bytes = b""
    status: int = 200
    kind: str = "application/json"
    cut: bool = False
    """The connection ends before the answer does."""
    raw: bytes | None = None
    """Sent in place of an HTTP answer."""
    stall: bool = False
    """Nothing more comes after `body`, and the connection stays open."""
    pause: float = 0.0
    """Seconds before each event."""


def as_json(value: Any, status: int = 200) -> Reply:
    return Reply(json.dumps(value).encode(), status=status)


def as_events(*events: Any, **options: Any) -> Reply:
    """Server-sent events; a string is sent as it is, anything else as JSON."""
    texts = [event if isinstance(event, str) else json.dumps(event, ensure_ascii=False) for event in events]
    body = "".join(f"data: {text}\n\n" for text in texts).encode()
    return Reply(body, kind="text/event-stream", **options)


@dataclasses.dataclass
class FakeVllm:
    """An HTTP server in a thread; `replies` may change while it runs."""

    url: str
    replies: dict[str, Reply]
    requests: list[tuple[str, dict[str, str], Any]]
    """Path, headers (lower case) and JSON body of what was asked."""


@contextlib.contextmanager
def fake_vllm(**replies: Reply) -> Iterator[FakeVllm]:
    """Serve `replies` by path, `v1_models` for /v1/models; 404 for others."""
    given = {"/" + name.replace("_", "/"): reply for name, reply in replies.items()}
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            fake.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            reply = fake.replies.get(self.path, as_json({"error": "not found"}, 404))
            self.close_connection = True
            if reply.raw is not None:
                self.wfile.write(reply.raw)
                return
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Connection", "close")
            self.send_header("Content-Length", str(len(reply.body) + (reply.cut or reply.stall)))
            self.end_headers()
            for part in reply.body.splitlines(keepends=True) if reply.pause else [reply.body]:
                ended.wait(reply.pause * part.startswith(b"data:"))
                self.wfile.write(part)
                self.wfile.flush()
            if reply.stall:
                ended.wait(30)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake = FakeVllm(url=f"http://127.0.0.1:{server.server_port}", replies=given, requests=[])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
