"""An interpreter whose vLLM is `vllm_like`, and a suite that is run on it.

It is for what draftgate does when a server, or draftgate itself, is ended.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from harness.config.cells import ServerSpec
from harness.config.variants import Target
from harness.plugin import DATA
from tests.component import forked
from tests.component.vllm_like import AS_A_PROCESS
from tests.factories.records import server_spec


class Fake:
    """The interpreter, the file that freezes its engine, and the source that an older engine lacks.

    Without `observability` its drafters' acceptance is on /metrics alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.freeze = folder / "freeze"
        self.stack = TINY
        self.script = folder / "engine.py"
        self.script.write_text(AS_A_PROCESS)
        self.python = folder / "python"
        said = json.dumps([str(folder), "0.99.0", "vllm-fake"])
        self.python.write_text(
            f"#!/bin/sh\nif [ \"$1\" = -c ]; then echo '{said}'; exit; fi\n"
            f'[ -e {folder}/broken ] && {{ echo "OSError: broken"; exit 3; }}\n'
            f'exec {sys.executable} {self.script} "$@"\n'
        )
        self.python.chmod(0o755)
        self.observability = folder / "config" / "observability.py"
        self.observability.parent.mkdir()
        self.observability.write_text("per_request_spec_decode_metrics: str")
        model = folder / "tiny"
        model.mkdir()
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_text("")

    def spec(self) -> ServerSpec:
        return server_spec(
            engine_python=str(self.python), drafter="none", k=0, speculative=None,
            target=Target(model=str(self.folder / "tiny")), env={"FAKE_FREEZE": str(self.freeze)},
            start_timeout_s=30.0, request_timeout_s=30.0, fork=False,
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
fork = false
[engine.env]
FAKE_FREEZE = "{freeze}"
[drafters.none]
"""


def bench(fake: Fake, tmp_path: Path, *words: str) -> tuple[int, str]:
    """Exit code and output of a suite."""
    return forked.run("pytest", *_words(fake, tmp_path, *words), output=tmp_path / "bench.out")


def start_bench(fake: Fake, tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    """The suite as a process that a test can end."""
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *_words(fake, tmp_path, *words)],
        cwd=DATA.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # A shell that runs these tests in the background has Ctrl-C ignored, and would hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip


def _words(fake: Fake, tmp_path: Path, *words: str) -> list[str]:
    stack = tmp_path / "tiny.toml"
    stack.write_text(fake.stack.format(model=fake.folder / "tiny", python=fake.python, freeze=fake.freeze))
    usual = {"--self-check": "off", "--gate": "off", "--prompts": "3"}
    unless_named = [
        word for option, value in usual.items() if option not in words for word in (option, value)
    ]
    return [
        "-p", "no:cacheprovider", "bench_suites/test_acceptance.py", "--stack", str(stack),
        "--results", str(tmp_path / "results"), *unless_named, *words,
    ]  # fmt: skip
