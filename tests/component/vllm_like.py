"""A server that speaks vLLM's HTTP protocol, in a thread or as a process. It proves nothing about vLLM.

A scenario is a change of `VllmLike`: what each path answers, what an answer's events are, which key opens it.

    with vllm_like(k=2) as vllm:
        vllm.replies["/version"] = Reply(status=404)
        vllm.key, vllm.locked = "sk-1", ("/v1/", "/metrics")
        vllm.answer = lambda asked: [chunk("Hi", (1,)), chunk(finish="abort"), usage(1)]
        vllm.replies[CHAT] = as_events({"error": {"message": "busy"}}).in_pieces(1, 7)
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from tests.factories.streams import CHAT, PIECES, RAW, as_raw, spec, usage

VERSION = "0.32.0"


@dataclasses.dataclass
class Reply:
    """What one path answers."""

    body: bytes | Iterable[bytes] = b""
    """In pieces, each is sent as soon as it comes; how many bytes follow is not said then."""
    status: int = 200
    kind: str = "application/json"
    cut: bool = False
    """The connection ends before the answer does."""
    raw: bytes | None = None
    """Sent in place of an HTTP answer."""
    stall: bool = False
    """Nothing more comes after `body`, and the connection stays open."""
    pause: float = 0.0
    """Seconds before each piece."""

    def in_pieces(self, *cuts: int, pause: float = 0.002) -> Reply:
        """The same bytes, sent in pieces that end at these offsets."""
        assert isinstance(self.body, bytes)
        ends = sorted({*cuts, len(self.body)})
        pieces = [self.body[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        return dataclasses.replace(self, body=pieces, pause=pause)


def as_json(value: Any, status: int = 200) -> Reply:
    return Reply(json.dumps(value).encode(), status=status)


def event(value: Any) -> bytes:
    """A server-sent event; a string is sent as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def as_events(*values: Any, pause: float = 0.0, **options: Any) -> Reply:
    pieces = [event(value) for value in values]
    body = pieces if pause else b"".join(pieces)
    return Reply(body, kind="text/event-stream", pause=pause, **options)


Answer = Callable[[dict[str, Any]], Iterable[Any]]
"""From the body of a request to the events of a stream; [DONE] follows them."""


class VllmLike:
    """The server's state; all of it may change while it runs."""

    def __init__(self, k: int = 0, **replies: Reply) -> None:
        """Its drafter drafts `k` tokens a step; `replies` by path, `v1_models` for /v1/models."""
        self.url, self.k = "", k
        self.key: str | None = None
        self.locked: tuple[str, ...] = ("/v1/",)
        """Paths that want the key begin so."""
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        """Path, headers (lower case) and JSON body of what was asked."""
        self.answer: Answer = self.good
        self.started = 1_700_000_000.0
        self.counted = Counter({"generation_tokens_total": 0, "prompt_tokens_total": 0})
        """Its counters, by vLLM's names; `count` adds to them."""
        if k:
            self.counted.update({"spec_decode_num_drafts_total": 0} | {position(i): 0 for i in range(k)})
        self.replies: dict[str, Reply | Callable[[Any], Reply]] = {
            "/health": Reply(),
            "/version": as_json({"version": VERSION}),
            "/v1/models": as_json({"object": "list", "data": [{"id": "tiny", "object": "model"}]}),
            "/metrics": lambda _: Reply(self.page().encode(), kind="text/plain; version=0.0.4"),
            "/tokenize": lambda asked: as_json({"tokens": tokens_of(asked)}),
            "/detokenize": lambda asked: as_json({"prompt": text_of(asked["tokens"])}),
            CHAT: lambda asked: self.stream(asked, chat=True),
            RAW: lambda asked: self.stream(asked, chat=False),
        } | {"/" + name.replace("_", "/"): reply for name, reply in replies.items()}
        self._lock = threading.Lock()

    def good(self, asked: dict[str, Any]) -> list[Any]:
        """Eight tokens, as `tests.factories.streams` has them."""
        rendered = tokens_of(asked)
        ends = usage(8, spec() if self.k else None)
        ends["usage"]["prompt_tokens"] = len(rendered)
        return [PIECES[0] | {"prompt_token_ids": rendered}, *PIECES[1:], ends]

    def stream(self, asked: dict[str, Any], *, chat: bool) -> Reply:
        """What `answer` says, counted on /metrics as its last events have it."""
        if asked.get("prompt_logprobs"):
            return as_json({"choices": [{"prompt_logprobs": logprobs_of(tokens_of(asked))}]})

        def pieces() -> Iterator[bytes]:
            done: Counter[str] = Counter(request_success_total=1)
            for value in self.answer(asked):
                done.update(counts_in(value))
                yield event(value if chat else as_raw(value))
            self.count(**done)
            yield event("[DONE]")

        return Reply(pieces(), kind="text/event-stream")

    def count(self, **by: int) -> None:
        with self._lock:
            self.counted.update(by)

    def page(self) -> str:
        with self._lock:
            lines = [f"vllm:{name} {n}" for name, n in self.counted.items()]
        return "\n".join([f"process_start_time_seconds {self.started}", *lines, ""])

    def reply_to(self, path: str, headers: dict[str, str], body: Any) -> Reply:
        self.requests.append((path, headers, body))
        if self.key and path.startswith(self.locked) and headers.get("authorization") != f"Bearer {self.key}":
            return as_json({"error": "Unauthorized"}, 401)
        reply = self.replies.get(path, as_json({"detail": "Not Found"}, 404))
        return reply if isinstance(reply, Reply) else reply(body)


V = TypeVar("V", bound=VllmLike)


def tokens_of(asked: dict[str, Any]) -> list[int]:
    """A token a byte, and two for the chat template."""
    text = asked["messages"][-1]["content"] if "messages" in asked else asked["prompt"]
    ids = list(text.encode()) if isinstance(text, str) else list(text)
    return [256, *ids, 257] if "messages" in asked else ids


def logprobs_of(ids: list[int]) -> list[dict[str, Any] | None]:
    """As vLLM has them: of the likeliest token, which is 0, and of the text's own, less for a larger id."""
    return [None, *({"0": {"logprob": -0.1}, str(i): {"logprob": -0.1 - i / 100}} for i in ids[1:])]


def text_of(tokens: list[int]) -> str:
    return bytes(i for i in tokens if i < 256).decode(errors="replace")


def position(i: int) -> str:
    return f'spec_decode_num_accepted_tokens_per_pos_total{{position="{i}"}}'


def counts_in(value: Any) -> Counter[str]:
    """What /metrics counts of an answer, read from its event with the token counts."""
    used = value.get("usage") if isinstance(value, dict) else None
    if not used:
        return Counter()
    found = Counter(
        prompt_tokens_total=used["prompt_tokens"], generation_tokens_total=used["completion_tokens"]
    )
    drafted = (value.get("metrics") or {}).get("speculative_decoding")
    if drafted:
        histogram = drafted["acceptance_histogram"]
        found["spec_decode_num_drafts_total"] = sum(histogram)
        found["spec_decode_num_draft_tokens_total"] = drafted["num_draft_tokens"]
        found["spec_decode_num_accepted_tokens_total"] = sum(j * n for j, n in enumerate(histogram))
        found.update({position(i): sum(histogram[i + 1 :]) for i in range(len(histogram) - 1)})
    return found


def listening(vllm: VllmLike, port: int = 0) -> ThreadingHTTPServer:
    """An HTTP server of `vllm`; `serve_forever` makes it answer."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            reply = vllm.reply_to(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            self.close_connection = True
            with contextlib.suppress(ConnectionError):  # who asked has gone
                self.send(reply)

        do_POST = do_GET  # noqa: N815

        def send(self, reply: Reply) -> None:
            if reply.raw is not None:
                self.wfile.write(reply.raw)
                return
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Connection", "close")
            if isinstance(reply.body, bytes):
                self.send_header("Content-Length", str(len(reply.body) + (reply.cut or reply.stall)))
            self.end_headers()
            for piece in [reply.body] if isinstance(reply.body, bytes) else reply.body:
                time.sleep(reply.pause)
                self.wfile.write(piece)
                self.wfile.flush()
            if reply.stall:
                time.sleep(30)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    vllm.url = f"http://127.0.0.1:{server.server_port}"
    return server


@contextlib.contextmanager
def serving(vllm: V) -> Iterator[V]:
    """`vllm` in a thread."""
    server = listening(vllm)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield vllm
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def vllm_like(k: int = 0, **replies: Reply) -> contextlib.AbstractContextManager[VllmLike]:
    """A server in a thread."""
    return serving(VllmLike(k, **replies))


AS_A_PROCESS = f"""\
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.component.vllm_like import main
main()
"""
"""A script that is the server: `--port N`, frozen while the file is there that FAKE_FREEZE names."""


def main() -> None:
    """Serve until this process is ended. Each answer takes 0.1 s, and is counted token by token.

    It has four tokens: where the server drafts, two of them were drafted, in one step.
    """
    said = dict(itertools.pairwise(sys.argv))
    tells = "--per-request-spec-decode-metrics" in said
    k = json.loads(said.get("--speculative-config", "{}")).get("num_speculative_tokens", 0)
    k *= "FAKE_DRAFTS_NOTHING" not in os.environ
    freeze, vllm = Path(os.environ["FAKE_FREEZE"]), VllmLike(k)
    vllm.started = time.time()
    cached: list[tuple[str | None, list[int]]] = []

    def look_up(asked: dict[str, Any]) -> None:
        """In a prefix cache of blocks of 16 tokens; one that drafts drops the last of them."""
        ids, salt = tokens_of(asked), asked.get("cache_salt")
        pairs = [zip(ids, one, strict=False) for of, one in cached if of == salt]
        alike = [sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], two)) for two in pairs]
        cached.append((salt, ids))
        vllm.count(prefix_cache_queries_total=len(ids))
        vllm.count(prefix_cache_hits_total=16 * max(0, max(alike, default=0) // 16 - bool(k)))

    def answer(asked: dict[str, Any]) -> Iterator[bytes]:
        vllm.count(num_requests_running=1, prompt_tokens_total=3)
        look_up(asked)
        if (log := freeze.with_name("asked")).exists():
            with log.open("a") as file:
                print(k, json.dumps(asked["messages"][-1]["content"]), file=file)
        for i in range(4):
            time.sleep(0.02)
            while freeze.exists() and "warm" not in str(asked["messages"]):
                time.sleep(0.02)
            choice = {"index": 0, "delta": {"content": f" w{i}"}, "token_ids": [i],
                      "finish_reason": "stop" if i == 3 else None}  # fmt: skip
            yield event({"choices": [choice], "prompt_token_ids": tokens_of(asked)})
            vllm.count(generation_tokens_total=1)
        vllm.count(num_requests_running=-1, request_success_total=1)
        if k:
            counts = {"num_drafts": 1, "num_draft_tokens": k, "num_accepted_tokens": 2}
            vllm.count(**{f"spec_decode_{name}_total": n for name, n in counts.items()})
            vllm.count(**{position(i): 1 for i in range(2)})
        one = spec(acceptance_histogram=[0, 0, 1] + [0] * (k - 2), num_draft_tokens=k,
                   per_step_accepted=[2], per_step_drafted=[k])  # fmt: skip
        yield event(usage(4, one if k and tells else None))

    vllm.replies[CHAT] = lambda asked: Reply(
        answer(asked), 500 if asked["messages"][-1]["content"] == "refuse" else 200
    )
    server = listening(vllm, int(sys.argv[sys.argv.index("--port") + 1]))
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    print("fake engine", os.getpid(), "on", server.server_port, "devices", devices, flush=True)
    server.serve_forever()
