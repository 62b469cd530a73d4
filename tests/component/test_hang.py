from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness.engine.server import Server
from harness.engine.watchdog import Evidence
from harness.results.records import load
from tests.component.fake_engine import Fake
from tests.component.vllm_like import Reply, VllmLike, as_json, vllm_like
from tests.factories.records import server_spec
from tests.perf import hang


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--requests", "0"], "--requests 0"),
        (["--hours", "nan"], "--hours nan"),
        (["--concurrency", "-3"], "--concurrency -3"),
        (["--tokens", "2048"], "--tokens 2048"),
        (["--engine-python", "/no/such/python"], "/no/such/python"),
        (["--connector", "NoSuchConnector"], "NoSuchConnector"),
        (["--connector", "/no/such/file.py:Its"], "/no/such/file.py"),
        (["--connector", f"{hang.__file__}:NoSuchClass"], "NoSuchClass"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    (tmp_path / "engine").mkdir()
    factory = tmp_path / "engine" / "distributed" / "kv_transfer" / "kv_connector" / "factory.py"
    factory.parent.mkdir(parents=True)
    factory.write_text('"OtherConnector"')
    python = [] if "--engine-python" in words else ["--engine-python", str(Fake(tmp_path / "engine").python)]

    code = hang.main([*python, *words, "--results", str(tmp_path / "results")])

    shown = capsys.readouterr()
    assert code == 2
    assert named in shown.err
    assert len(shown.err.splitlines()) == 1
    assert not (tmp_path / "results").exists()


@pytest.fixture
def vllm() -> Iterator[VllmLike]:
    with vllm_like() as one:
        yield one


def extracted(vllm: VllmLike, folder: Path, **given: Any) -> tuple[dict[str, Any], str]:
    (folder / "config.json").write_text(json.dumps({"vocab_size": 100}))
    options = {"requests": None, "hours": None, "concurrency": 4, "tokens": 9, "stall_seconds": 1.0}
    spec = dataclasses.replace(server_spec(), request_timeout_s=3.0)
    server = Server(
        url=vllm.url, key="EMPTY", spec=spec, model="tiny", target_path=None, start_id="one", version="0",
        attached=False, per_request=False, log=folder / "server.log",
    )  # fmt: skip
    (folder / "server.log").touch()
    return hang.extract(server, folder, str(folder), argparse.Namespace(**options | given, seed=1))


def answer(vllm: VllmLike, asked: dict[str, Any], *, rows: int | None = None) -> Reply:
    count = len(asked["prompt"]) if rows is None else rows
    save_file({"hidden_states": np.zeros((count, 1))}, asked["kv_transfer_params"]["hidden_states_path"])
    vllm.count(prompt_tokens_total=count, generation_tokens_total=1)
    return as_json({})


def test_nothing_happened_in_so_many_requests(vllm: VllmLike, tmp_path: Path) -> None:
    vllm.replies["/v1/completions"] = lambda asked: answer(vllm, asked)
    figures, _ = extracted(vllm, tmp_path, requests=50)
    assert (figures["hang"], figures["requests"], figures["missing"]) == (None, 50, 0)
    lengths = [len(body["prompt"]) for path, _, body in vllm.requests if path == "/v1/completions"]
    assert sum(lengths) == figures["tokens"]
    assert set(lengths) == set(range(1, 10))
    assert "50 requests" in hang.headline(figures)


def test_a_server_that_goes_silent_with_work_is_a_hang(vllm: VllmLike, tmp_path: Path) -> None:
    vllm.replies["/v1/completions"] = lambda asked: (
        answer(vllm, asked) if len(vllm.requests) < 20 else Reply(stall=True)
    )
    figures, _ = extracted(vllm, tmp_path, hours=1.0)
    assert figures["hang"]
    assert 0 < figures["requests"] < 20
    evidence = load(Path(figures["evidence"]), Evidence)
    assert evidence.kind == "still"
    text = hang.report({"versions": "vllm 1"}, figures, "--model x", "import asyncio", "stuck here")
    for part in (evidence.reason, "--model x", "import asyncio", "stuck here", "vllm 1", '"in_flight": 4'):
        assert part in text


def test_hidden_states_that_never_come_are_no_success(vllm: VllmLike, tmp_path: Path) -> None:
    vllm.replies["/v1/completions"] = lambda asked: answer(vllm, asked, rows=10)  # of another prompt
    figures, _ = extracted(vllm, tmp_path, requests=3)
    assert (figures["hang"], figures["requests"], figures["missing"]) == (None, 0, 3)
