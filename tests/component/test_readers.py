"""The programs of others read what we write: pytest-benchmark; Prometheus and node-exporter, if installed."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.engine import metrics
from harness.engine.server import free_port
from tests.component.fake_engine import Fake, bench
from tests.factories.runs import cell, plain, write_run

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "tests/data/engine_metrics"
CONFIG = """
global: {{scrape_interval: 100ms, scrape_timeout: 100ms}}
scrape_configs:
- {{job_name: engine, metrics_path: /engine, static_configs: [{{targets: ["{at}"]}}]}}
- {{job_name: draftgate, metrics_path: /draftgate, static_configs: [{{targets: ["{at}"]}}]}}
"""


def program(name: str) -> str:
    """Where it is installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {name})")
    return path


@contextlib.contextmanager
def started(*words: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    with log.open("wb") as file, subprocess.Popen(words, stdout=file, stderr=file) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)


def until(done: Callable[[], Any], *, seconds: float = 60) -> Any:
    """What `done` returns, once that is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if found := done():
                return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s")


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `draftgate compare` writes for Prometheus."""
    monkeypatch.chdir(tmp_path)
    base, new = (
        str(write_run(Path(n), plain(seconds=4.0), cell(worse=w))) for n, w in (("base", 0), ("new", 3))
    )
    Path("collected").mkdir()
    assert main(["compare", base, new, "--output", "collected/draftgate.prom"]) == 1
    return Path("collected/draftgate.prom").read_text(encoding="utf-8")


@pytest.fixture
def pages(ours: str) -> Iterator[tuple[str, dict[str, str]]]:
    """An address, and what it answers by path."""
    held = {"/draftgate": ours, "/engine": (PAGES / "before.prom").read_text(encoding="utf-8")}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(held[self.path].encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}", held
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(pages: tuple[str, dict[str, str]], tmp_path: Path) -> Iterator[Callable[[str], list[Any]]]:
    """Asks a Prometheus that has scraped both recordings of the engine, one after the other."""
    path, (at, held) = program("prometheus"), pages
    (tmp_path / "prometheus.yml").write_text(CONFIG.format(at=at), encoding="utf-8")
    url = f"127.0.0.1:{free_port(None)}"
    words = (
        path, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address={url}",
    )  # fmt: skip

    def asked(query: str) -> list[Any]:
        words = urllib.parse.urlencode({"query": query})
        answer = json.loads(read(f"http://{url}/api/v1/query?{words}"))
        assert answer["status"] == "success"
        found: list[Any] = answer["data"]["result"]
        return found

    drafts = "vllm:spec_decode_num_drafts_total"
    with started(*words, log=tmp_path / "prometheus.log"):
        # `rate` looks on beyond the first of few samples, not equally far for each counter.
        until(lambda: asked(f"count_over_time({drafts}[1m]) > 30") and asked("draftgate_valid"))
        held["/engine"] = (PAGES / "after.prom").read_text(encoding="utf-8")
        until(lambda: asked(f"changes({drafts}[1m]) > 0"))
        yield asked


def test_pytest_benchmark_reads_a_run_in_its_own_form_and_in_ours(tmp_path: Path) -> None:
    (tmp_path / "fake").mkdir()
    own = str(tmp_path / "0001_own.json")
    code, output = bench(Fake(tmp_path / "fake"), tmp_path, "--benchmark-json", own)
    assert code == 0, output
    (run,) = (tmp_path / "results").iterdir()
    ours = tmp_path / "0002_ours.json"
    assert main(["compare", str(run), "--format", "pytest-benchmark", "--output", str(ours)]) == 0
    compare = [str(Path(sys.executable).with_name("pytest-benchmark")), "compare", own, str(ours)]
    done = subprocess.run(compare, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert "test_acceptance" in done.stdout
    assert "chat-en-instruct-" in done.stdout
    assert "Failed to load" not in done.stderr


def test_each_query_of_the_dashboard_has_an_answer(ask: Callable[[str], list[Any]]) -> None:
    before, after = (
        metrics.parse((PAGES / f"{n}.prom").read_text(encoding="utf-8")) for n in ("before", "after")
    )
    moved = after - before
    answers: dict[tuple[str, str], list[Any]] = {}
    for panel in json.loads((ROOT / "docs/grafana.json").read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            query = re.sub(r"\$(model|stack|device|drafter)", ".*", target["expr"]).replace(
                "$__rate_interval", "1m"
            )
            assert "$" not in query
            answers[panel["title"], target["refId"]] = found = ask(query)
            assert found, query

    def one(title: str, part: str = "A") -> float:
        (only,) = answers[title, part]
        return float(only["value"][1])

    # As draftgate defines them, of the requests between the two recordings.
    assert one("Tau: tokens per verify step") == pytest.approx(1 + moved.accepted / moved.drafts)
    assert one("Acceptance rate") == pytest.approx(moved.accepted / moved.draft_tokens)
    assert one("Tokens drafted per draft") == pytest.approx(4)
    rates = {r["metric"]["position"]: float(r["value"][1]) for r in answers["Acceptance by position", "A"]}
    assert rates == pytest.approx({str(i): n / moved.drafts for i, n in enumerate(moved.per_position)})
    verdicts = {r["metric"]["drafter"]: r["metric"]["verdict"] for r in answers["Verdicts", "A"]}
    assert verdicts["ngram"] == "regressed"


def test_node_exporter_collects_our_file(ours: str, tmp_path: Path) -> None:
    path = program("prometheus-node-exporter")
    url = f"127.0.0.1:{free_port(None)}"
    words = (
        path, "--collector.disable-defaults", "--collector.textfile",
        f"--collector.textfile.directory={tmp_path}/collected", f"--web.listen-address={url}",
    )  # fmt: skip
    with started(*words, log=tmp_path / "exporter.log"):
        page = until(lambda: read(f"http://{url}/metrics"))
    assert "node_textfile_scrape_error 0" in page.splitlines()

    def samples(text: str) -> int:
        return sum(line.startswith("draftgate_") for line in text.splitlines())

    assert samples(page) == samples(ours) > 10
