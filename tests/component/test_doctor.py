"""`draftgate doctor` without an engine: what it looks at, and its exit code."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.commands import doctor
from harness.config.stack import load_stack
from harness.engine.bandwidth import bandwidth
from harness.errors import ServerFailed
from tests.component.vllm_like import vllm_like

STACK = """
schema = 1
name = "tiny"
[target]
model = "org/tiny"
[engine]
{engine}
[drafters.none]
[drafters.ngram]
method = "ngram"
k = [2]
"""


def examine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str = "", *, first: str = "") -> int:
    def no_engine(_: str) -> None:
        raise ServerFailed(f"{sys.executable} has no vLLM: run `make setup`", code="engine-missing")

    monkeypatch.setattr(doctor, "engine_facts", no_engine)
    path = tmp_path / "tiny.toml"
    path.write_text(first + STACK.format(engine=engine))
    return main(["doctor", "--stack", str(path), "--results", str(tmp_path / "results")])


def test_without_an_engine_it_says_so_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert examine(tmp_path, monkeypatch) == 1
    out = capsys.readouterr().out
    assert re.search(r"^bad +engine .*\[engine-missing\]$", out, re.MULTILINE)
    assert re.search(r"^— +self-check ", out, re.MULTILINE)
    assert "ok  stack         tiny: none, ngram" in out


def test_a_port_that_is_taken_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert examine(tmp_path, monkeypatch, f"port = {port}") == 1
    out = capsys.readouterr().out
    assert re.search(rf"^bad +port .*{port}.*\[port-taken\]$", out, re.MULTILINE)


def test_an_unknown_stack_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--stack", "no-such"]) == 2
    assert "[unknown-name]" in capsys.readouterr().err


def test_the_bandwidth_of_a_core_is_that_of_a_copy() -> None:
    core = min(os.sched_getaffinity(0))

    assert 1e8 < bandwidth(sys.executable, cores=[core], env={}) < 1e13


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/false"])
def test_a_copy_that_cannot_run_is_said_in_one_sentence(python: str) -> None:
    with pytest.raises(ServerFailed, match="bandwidth"):
        bandwidth(python, cores=None, env={})


@pytest.mark.parametrize("offline", [True, False], ids=["switched-off", "no-network"])
def test_a_target_that_no_engine_could_fetch_is_a_sentence_and_starts_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, offline: bool
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1" if offline else "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    path = tmp_path / "tiny.toml"
    path.write_text(STACK.format(engine=""))
    stack = load_stack(path)

    (line,) = doctor._self_check(stack, self_check=None)
    assert line.mark == "bad"
    assert "org/tiny is not in the hub's cache" in line.text
    (line,) = doctor._self_check(stack, self_check=False)
    assert line.mark == "—"

    cached = tmp_path / "hub" / "models--org--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots" / ("0" * 40)).mkdir(parents=True)
    assert not doctor.not_to_be_had(stack)


def test_a_hub_that_answers_is_left_to_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(STACK.format(engine=""))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with vllm_like() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)

        assert not doctor.not_to_be_had(load_stack(path))


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ('chat-template = "{{ enable_thinking }}"\nreasoning_parser = "qwen3"', "ok"),
        ('chat_template = "{{ enable_thinking }}"', "—"),
        ('chat_template = "{path}"\nreasoning_parser = "qwen3"', "bad"),
        ('chat_template = "nothere.jinja"', "—"),
    ],
)
def test_a_stack_that_thinks_has_its_switch_looked_for_in_the_chat_template(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: str,
    line: str,
) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("{{ thinking }}", encoding="utf-8")
    engine = "[engine.args]\n" + args.replace("{path}", str(path))

    examine(tmp_path, monkeypatch, engine, first='thinking = ["on", "off"]')

    assert re.search(rf"^{line} +thinking ", capsys.readouterr().out, re.MULTILINE)
