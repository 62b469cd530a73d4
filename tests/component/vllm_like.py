"""A fake of vLLM's API server as a process of its own, and a suite that is run on it.

It proves nothing about vLLM: it is for what draftgate does when a server, or draftgate itself, is ended.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from harness.config.cells import ServerSpec
from harness.config.stack import Target
from harness.plugin import DATA
from tests.factories.records import server_spec

ENGINE = '''\
"""A fake of vLLM's API server as a process: it answers until the file in FAKE_FREEZE is there."""
import json, os, pathlib, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

freeze = pathlib.Path(os.environ["FAKE_FREEZE"])
started, lock = time.time(), threading.Lock()
count = {"running": 0, "generated": 0, "prompted": 0, "finished": 0}

def add(**by):
    with lock:
        for name, n in by.items():
            count[name] += n

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        page = f"process_start_time_seconds {started}\\n" + "".join(
            f"vllm:{name} {count[of]}\\n" for name, of in (
                ("num_requests_running", "running"), ("generation_tokens_total", "generated"),
                ("prompt_tokens_total", "prompted"), ("request_success_total", "finished")))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(page.encode() if self.path == "/metrics" else b"{}")

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        asked = json.loads(self.rfile.read(length))
        self.send_response(500 if "refuse" in str(asked["messages"]) else 200)
        self.end_headers()
        add(running=1, prompted=3)
        for i in range(4):
            time.sleep(0.02)
            while freeze.exists() and "warm" not in str(asked["messages"]):
                time.sleep(0.02)
            choice = {"index": 0, "delta": {"content": f" w{i}"}, "token_ids": [i],
                      "finish_reason": "stop" if i == 3 else None}
            self.event({"choices": [choice], "prompt_token_ids": [1, 2, length]})
            add(generated=1)
        add(running=-1, finished=1)
        self.event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})

    def event(self, data):
        self.wfile.write(f"data: {json.dumps(data)}\\n\\n".encode())
        self.wfile.flush()

    def log_message(self, *_):
        pass

port = int(sys.argv[sys.argv.index("--port") + 1])
print("fake engine", os.getpid(), "on", port, flush=True)
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
'''


class Fake:
    """An interpreter whose vLLM is the engine above, and the file that freezes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.freeze = folder / "freeze"
        self.script = folder / "engine.py"
        self.script.write_text(ENGINE)
        self.python = folder / "python"
        said = json.dumps([str(folder), "0.99.0", "vllm-fake"])
        self.python.write_text(
            f"#!/bin/sh\nif [ \"$1\" = -c ]; then echo '{said}'; exit; fi\n"
            f'[ -e {folder}/broken ] && {{ echo "OSError: broken"; exit 3; }}\n'
            f'exec {sys.executable} {self.script} "$@"\n'
        )
        self.python.chmod(0o755)
        model = folder / "tiny"
        model.mkdir()
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_text("")

    def spec(self) -> ServerSpec:
        return server_spec(
            engine_python=str(self.python), drafter="none", k=0, speculative=None,
            target=Target(model=str(self.folder / "tiny")), env={"FAKE_FREEZE": str(self.freeze)},
            start_timeout_s=30.0, request_timeout_s=30.0,
        )  # fmt: skip


TINY = """\
schema = 1
name = "tiny"
endpoints = ["chat"]
languages = ["en"]
[target]
model = "{model}"
[engine]
python = "{python}"
[engine.env]
FAKE_FREEZE = "{freeze}"
[drafters.none]
"""


def bench(fake: Fake, tmp_path: Path, *words: str) -> tuple[int, str]:
    process = start_bench(fake, tmp_path, *words)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def start_bench(fake: Fake, tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    stack = tmp_path / "tiny.toml"
    stack.write_text(TINY.format(model=fake.folder / "tiny", python=fake.python, freeze=fake.freeze))
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "bench_suites/test_acceptance.py",
         "--stack", str(stack),
         "--results", str(tmp_path / "results"), "--gate", "off", "--prompts", "3",
         "--self-check", "off", *words],
        cwd=DATA.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # A shell that runs these tests in the background has Ctrl-C ignored, and would hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
