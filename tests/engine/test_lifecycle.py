"""A run that is interrupted leaves no engine behind and loses no prompt; then it goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from harness.plugin import DATA
from harness.results.records import CellRecord, RunRecord, load
from tests.engine.conftest import Draftgate, engines_of, family_of, running_of

MOUNT, UMOUNT = shutil.which("mount") or "mount", shutil.which("umount") or "umount"
CELL = (
    "-m", "chat and en and ngram and k4", "--prompts", "6", "--max-tokens", "48", "--gate", "off",
    "--concurrency", "1", "--self-check", "off",
)  # fmt: skip
HELD = """
import asyncio
from harness.measure.client import Client

ask = Client.ask

async def held(self, prompt, **options):
    if prompt.id > "instruct-002" and prompt.id.startswith("instruct-"):
        await asyncio.sleep(3600)
    return await ask(self, prompt, **options)

Client.ask = held
"""
"""A plugin that sends no third prompt: however late a line reaches the disk, prompts are left to a resume."""
STARTED_S = 480
"""Within these a run has its first prompts, also on a machine with other work: a start took 120 s there."""


def wait_for(what: str, condition: object, *, within_s: float) -> None:
    assert callable(condition)
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s} s for {what}"
        time.sleep(0.02)


def start_held(draftgate: Draftgate, folder: Path, *words: str) -> subprocess.Popen[str]:
    """A run that answers two of its six prompts and then waits; `folder` is for the plugin that holds it."""
    (folder / "held.py").write_text(HELD)
    draftgate.env["PYTHONPATH"] = str(folder)
    return draftgate.start(*CELL, "-p", "held", *words)


def interrupt(draftgate: Draftgate, folder: Path, number: signal.Signals) -> tuple[int, str]:
    """Start a run, end it with a signal once a prompt is on disk; exit code and output."""
    process = start_held(draftgate, folder)
    try:
        wait_for("a prompt", lambda: len(draftgate.lines()) >= 1, within_s=STARTED_S)
        family = family_of(process.pid)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        wait_for("the end of all that it started", lambda: not running_of(family), within_s=15)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return process.returncode, output


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,  # two starts each: one stands for the three in every run
        pytest.param(signal.SIGTERM, marks=pytest.mark.nightly),
        pytest.param(signal.SIGKILL, marks=pytest.mark.nightly),
    ],
)
def test_no_engine_is_left_and_resume_repeats_no_prompt(
    draftgate: Draftgate, tmp_path: Path, number: signal.Signals
) -> None:
    code, output = interrupt(draftgate, tmp_path, number)
    wait_for("the engine's end", lambda: not engines_of(draftgate.results), within_s=15)
    before = draftgate.lines()

    assert code != 0
    assert "Traceback" not in output
    assert len(before) in {1, 2}

    code, output = draftgate.run(
        *CELL, "--resume", "--benchmark-json", str(draftgate.results / "benchmark.json")
    )

    assert code == 0, output
    after = draftgate.lines()
    assert after[: len(before)] == before
    assert len(after) == 6
    assert len({line["prompt"] for line in after}) == 6
    (path,) = draftgate.results.glob("*/acceptance/*.json")
    record = load(path, CellRecord)
    assert record.valid, record.findings
    assert {r.segment for r in record.prompts} == {0, 1}
    assert load(path.parents[1] / "run.json", RunRecord).finished
    benchmark = json.loads((draftgate.results / "benchmark.json").read_text())
    assert benchmark["benchmarks"][0]["extra_info"]["tokens_per_step"] > 1
    assert not engines_of(draftgate.results)


@pytest.mark.nightly  # a start each; that an engine ends with its parent, test_engine_plugin.py shows
@pytest.mark.parametrize("fork", ["true", "false"])
def test_an_engine_whose_run_and_supervisor_are_killed_together_ends_by_itself(
    draftgate: Draftgate, tmp_path: Path, fork: str
) -> None:
    """Nobody is left to end it: each of its processes must."""
    text = (DATA / "stacks" / "smollm2-cpu.toml").read_text(encoding="utf-8")
    text = text.replace("[engine.args]", f"[engine]\nfork = {fork}\n[engine.args]")
    stack = tmp_path / "killed.toml"
    stack.write_text(text.replace('"../drafters', f'"{DATA}/drafters'), encoding="utf-8")
    process = start_held(draftgate, tmp_path, "--stack", str(stack))
    try:
        wait_for("prompts", lambda: len(draftgate.lines()) >= 1, within_s=STARTED_S)
        family = family_of(process.pid)
        engine = engines_of(draftgate.results)
        supervisors = [p.pid for p in family if "supervisor" in " ".join(p.cmdline())]
        for pid in (process.pid, *supervisors):
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=60)
    except BaseException:
        process.kill()
        process.communicate()
        raise

    assert len(engine) >= 3
    wait_for("the end of the engine", lambda: not running_of([*family, *engine]), within_s=5)


def test_a_server_that_dies_while_loading_is_quoted(draftgate: Draftgate, tmp_path: Path) -> None:
    stack = tmp_path / "broken.toml"
    stack.write_text(
        (Path("fixtures/stacks/smollm2-cpu.toml").read_text()).replace(
            "max_model_len = 2048", "max_model_len = 100000000"
        )
    )
    code, output = draftgate.run("--stack", str(stack), *CELL)

    assert code == 1
    assert "server ngram-k4 died while loading (exit code 1):" in output
    assert "max_model_len (100000000) is greater than" in output
    assert "Traceback" not in output.split("the end of")[0]
    assert not engines_of(draftgate.results)


def test_an_argument_that_vllm_does_not_know_is_said_before_anything_starts(
    draftgate: Draftgate, tmp_path: Path
) -> None:
    stack = tmp_path / "broken.toml"
    stack.write_text(
        Path("fixtures/stacks/smollm2-cpu.toml").read_text().replace("max_model_len", "max_modle_len")
    )
    code, output = draftgate.run("--stack", str(stack), *CELL)

    assert code == pytest.ExitCode.USAGE_ERROR
    assert "key engine.args.max_modle_len" in output
    assert "[unknown-to-engine]" in output
    assert not draftgate.results.exists()


def test_a_port_in_use_is_said(draftgate: Draftgate, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        stack = tmp_path / "port.toml"
        text = Path("fixtures/stacks/smollm2-cpu.toml").read_text()
        stack.write_text(text.replace("[engine.args]", f"[engine]\nport = {port}\n\n[engine.args]"))
        code, output = draftgate.run("--stack", str(stack), *CELL)

    assert code == 1
    assert f"port {port}: Address already in use" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("drafter", "code"),
    [
        ('method = "draft_model"\nmodel = "./no/such/folder"', "model-missing"),
        ('method = "tarot"', "unknown-to-engine"),
    ],
)
def test_a_drafter_that_cannot_be_is_said_before_anything_starts(
    draftgate: Draftgate, tmp_path: Path, drafter: str, code: str
) -> None:
    stack = tmp_path / "drafter.toml"
    text = Path("fixtures/stacks/smollm2-cpu.toml").read_text()
    head, rest = text.split('method = "ngram"')
    rest = rest.replace("prompt_lookup_min = 2\nprompt_lookup_max = 4\n", "")
    stack.write_text(head + drafter + rest)
    found, output = draftgate.run("--stack", str(stack), *CELL)

    assert found == pytest.ExitCode.USAGE_ERROR
    assert f"[{code}]" in output
    assert "Traceback" not in output
    assert not draftgate.results.exists()


@pytest.mark.nightly  # two starts
def test_a_full_disk_ends_in_a_sentence_and_keeps_what_was_measured(tmp_path: Path) -> None:
    """A small tmpfs as the results folder; needs the right to mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        [MOUNT, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    draftgate = Draftgate(folder)
    process = draftgate.start(*CELL)
    try:
        wait_for("a prompt", lambda: len(draftgate.lines()) >= 1, within_s=STARTED_S)
        filler = folder / "filler"
        with filler.open("wb", buffering=0) as file:  # what another program does to a disk
            try:
                while True:
                    file.write(b"x" * 512)
            except OSError:
                pass
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 1, output
        assert "No space left on device" in output
        assert "Traceback" not in output
        kept = draftgate.lines()
        assert kept
        filler.unlink()
        code, output = draftgate.run(*CELL, "--resume")
        assert code == 0, output
        assert draftgate.lines()[: len(kept)] == kept
        assert len(draftgate.lines()) == 6
    finally:
        process.kill()
        process.wait()
        subprocess.run([UMOUNT, "-l", str(folder)], check=False)
