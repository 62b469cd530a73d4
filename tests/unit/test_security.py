"""What a file, a model or an environment may not do: leave its folder, act on a terminal, or be told on."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.config.prompts import load_held_out
from harness.config.variants import Target
from harness.engine import facts, models, process as processes, server as servers
from harness.errors import BadInput, BadRecord
from harness.judge import baselines as baseline
from harness.judge.collect import collect
from harness.judge.compare import compare
from harness.judge.speedup import SpeedRecord
from harness.judge.verdict import Verdict
from harness.measure.stream import BrokenOffError, Stream
from harness.provenance import hardware, integrity, record as provenance
from harness.report import run_table
from harness.report.compare_table import document
from harness.report.export import as_data, csv_rows, long_rows
from harness.results import records
from harness.results.conditions import Subject
from harness.results.files import write_atomically
from harness.results.journal import Journal
from harness.results.records import CellName, CellRecord, Finding, RunRecord
from harness.run import Options, Run
from harness.text import redaction, render
from harness.text.redaction import MOSTLY_RANDOM, keep_secret, without_keys, without_secrets
from tests.factories.audits import good
from tests.factories.predictions import judged, reaches
from tests.factories.records import cell_name, cell_record, prompt_record, server_spec
from tests.factories.runs import cell, write_cell
from tests.factories.stacks import HEAD, NGRAM, stack
from training.export import model_card

HOSTILE = "<script>alert(1)</script>|a`b\n\x1b[31m\x9b1m\u202ec"
PARTS = ("endpoint", "language", "workload", "drafter")
ELSEWHERE = ("../x", "..", "/etc", "a/b", "a\\b", "", ".hidden", "a\0", "x" * 65)


# Names stay in their folder


def test_a_cell_whose_name_is_a_path_is_refused(subtests: pytest.Subtests) -> None:
    for part, name in itertools.product(PARTS, ELSEWHERE):
        with subtests.test(part, name=name), pytest.raises(ValueError, match="is not a name"):
            CellName.model_validate(cell_name().model_dump() | {part: name})


def test_a_record_that_would_lie_elsewhere_is_refused_with_its_field(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    path = tmp_path / "c.json"
    valid = json.loads(records.dump_cell(cell_record()))
    for field, name in itertools.product(
        ("stack", "profile", "suite"), ("../../x", "..", "/etc", "speed/../..")
    ):
        path.write_text(json.dumps(valid | {field: name}), encoding="utf-8")
        with (
            subtests.test(field, name=name),
            pytest.raises(BadRecord, match=rf"c\.json: field {field}"),
        ):
            records.load(path, CellRecord)


def test_a_speed_record_that_would_lie_elsewhere_is_refused() -> None:
    known = cell_record().model_dump(include={"cell", "identity", "subject", "environment"})
    with pytest.raises(ValueError, match="is not a name"):
        SpeedRecord.model_validate(
            {**known, "stack": "../..", "profile": "gate", "provenance": {}, "ratios": [1.0, 1.1]}
        )


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "x" * 65])
def test_a_stack_names_nothing_outside_its_folders(tmp_path: Path, name: str) -> None:
    for text in (
        HEAD.replace('"tiny"', f'"{name}"') + NGRAM,
        HEAD + NGRAM.replace("drafters.ngram", f'drafters."{name}"'),
        HEAD.replace("[target]", f'workloads = ["{name}"]\n[target]') + NGRAM,
        HEAD.replace("[target]", f'languages = ["{name}"]\n[target]') + NGRAM,
        HEAD + NGRAM + f'[profiles."{name}"]\nprompts = 1\nmax_tokens = 1\n',
    ):
        with pytest.raises(BadInput, match="is not a name"):
            stack(tmp_path, text)


def test_a_run_is_resumed_where_it_lies_whatever_its_file_says(tmp_path: Path) -> None:
    known = stack(tmp_path, HEAD + NGRAM)
    values: dict[str, Any] = {
        "stack": known, "profile_name": "quick", "profile": known.profiles["quick"], "workloads": (),
        "repeats": 1, "seed": 0, "results": tmp_path / "results", "server_url": None,
        "baselines": tmp_path / "b", "gate": "on", "update": "", "pairs": 6, "sequential": False,
        "compare": None, "command": "",
    }  # fmt: skip
    options = Options(**values, resume=True)
    run = RunRecord(
        run="../../elsewhere",
        stack="tiny",
        profile="quick",
        options=options.recorded(),
        provenance={},
        environment={},
    )
    write_atomically(tmp_path / "results/one/run.json", run.model_dump_json(by_alias=True))
    assert Run(options, tmp_path).folder == tmp_path / "results/one"


# What models and stacks wrote


def test_the_pytest_summary_shows_a_hostile_text_as_text() -> None:
    name = cell_name(drafter="=x\x1b[31m|")
    record = cell_record(
        prompt_record(), cell=name, findings=(Finding(code="x", hard=False, text=HOSTILE),),
        subject={"drafter": "x", "engine": HOSTILE}, stack="s\u202e",
    )  # fmt: skip
    verdict = Verdict(kind="invalid", text=HOSTILE, notes=(HOSTILE,))
    shown = run_table.report([record]) + run_table.verdict_report([(record, verdict)])
    assert not {"\x1b", "\x9b", "\u202e"} & set(shown)
    assert r"alert(1)</script>|a`b\n\x1b[31m\x9b1m\u202ec" in shown


def test_a_card_shows_a_hostile_text_as_text() -> None:
    data = {"sources": [{"source": HOSTILE, "language": HOSTILE, "prompts": 1, "answers": 1, "tokens": 1}]}
    known = dict.fromkeys(("drafter", "about", "target", "device"), HOSTILE)
    told = model_card.text(
        {**known, "data": data, "recipe": {"name": HOSTILE}, "versions": {HOSTILE: HOSTILE}}
    )
    assert not {"\x1b", "\x9b", "\u202e"} & set(told)
    use = "    vllm serve "  # a block of code: nothing in it is markup
    assert not any("<script>" in line for line in told.splitlines() if not line.startswith(use))
    assert {line.count("|") for line in told.splitlines() if line.startswith("| &lt;script")} == {6}


@pytest.mark.parametrize("kind", ["text", "markdown", "csv", "long-csv", "json"])
def test_code_that_came_with_a_model_is_told_in_every_format(tmp_path: Path, kind: str) -> None:
    def shown(*, trusted: bool) -> str:
        subject = {"drafter": "ngram", "engine": "0.32.0", "trust_remote_code": trusted}
        sides = [write_cell(tmp_path / str(trusted) / side, cell(subject=subject)).parent for side in "ab"]
        found = compare([collect(side) for side in sides])
        if kind == "csv":
            return render.as_csv(*csv_rows(found))
        if kind == "long-csv":
            return render.as_csv(*long_rows(found))
        if kind == "json":
            return render.as_json(as_data(found, exit_code=0))
        return (render.as_text if kind == "text" else render.as_markdown)(document(found))

    assert "trust_remote_code" in shown(trusted=True)
    assert "trust_remote_code" not in shown(trusted=False)


def test_code_that_came_with_a_model_is_told_below_the_tables_of_a_run() -> None:
    record = cell_record(prompt_record(), subject={"trust_remote_code": True})
    assert run_table.footnotes([record]) == [f"note: {record.cell}: {records.TRUSTED}"]
    assert run_table.footnotes([cell_record(prompt_record())]) == []


def test_code_of_a_model_is_not_run_unless_the_stack_says_so() -> None:
    spec = server_spec()
    words = facts.command_line(spec, model="org/tiny", speculative=None, per_request=False)
    assert "--trust-remote-code" not in words
    assert not Target(model="org/tiny").trust_remote_code


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", "-1+cmd|' /C calc'!A0"])
def test_a_cell_of_a_spreadsheet_is_text_or_a_number(text: str) -> None:
    (_, row) = csv.reader(io.StringIO(render.as_csv(["a", "b", "c"], [[text, -1.5, None]])))
    assert row[0].startswith("'")
    assert row[1:] == ["-1.5", ""]


# Keys, environment, places


@pytest.mark.parametrize("name", ["api_key", "api-key", "hf_token", "hf-token", "ssl_keyfile_password"])
def test_a_secret_is_no_argument_of_an_engine(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"every user of this machine could read it"):
        stack(tmp_path, HEAD + f'[engine.args]\n{name} = "s3cret"\n' + NGRAM)


def test_the_key_of_a_server_is_in_its_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], dict[str, str]]] = []

    def started(words: list[str], *, environment: dict[str, str], **_: object) -> object:
        seen.append((words, environment))
        return SimpleNamespace(pid=1, returncode=0)

    engine = facts.EngineFacts(version="0.32.0", package="vllm", per_request=True, methods=frozenset())
    monkeypatch.setattr(servers, "engine_facts", lambda _: engine)
    monkeypatch.setattr(processes, "start", started)
    monkeypatch.setattr(servers, "_wait_ready", lambda *_, **__: None)
    monkeypatch.setattr(processes, "stop", lambda _: None)
    said: list[str] = []
    with servers.running(server_spec(fork=False), folder=tmp_path, say=said.append) as server:
        (words, env) = seen[0]
        assert env["VLLM_API_KEY"] == server.key
        assert len(server.key) >= 32
        assert words[words.index("--host") + 1] == "127.0.0.1"
        # Else a server that nobody let run for 5 s closes the connections that requests wait on.
        assert int(env["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"]) > server.spec.request_timeout_s
        told = [*words, *said, repr(server), json.dumps(provenance.provenance(server))]
        told += [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()]
        assert not any(server.key in text for text in told)
    with servers.running(server_spec(), folder=tmp_path, say=said.append) as another:
        assert another.key != server.key


def test_of_the_environment_no_more_is_recorded_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DRAFTGATE_API_KEY", "VLLM_API_KEY", "HF_TOKEN", "SOME_VARIABLE"):
        monkeypatch.setenv(name, f"value-of-{name}")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    hardware._cards.cache_clear()
    try:
        told = json.dumps([hardware.environment().model_dump(), provenance.provenance()])
    finally:
        hardware._cards.cache_clear()
    assert "value-of" not in told
    assert '"isa_limit": "AVX2"' in told


def test_no_record_names_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, real = tmp_path / "link", tmp_path / "jane"
    real.mkdir()
    home.symlink_to(real)
    monkeypatch.setenv("HOME", str(home))
    url = "http://jane:s3cret@host:8000"
    monkeypatch.setattr(sys, "argv", ["pytest", f"{home}/a b", f"--results={real}/r", "--server-url", url])
    command = provenance.provenance()["command"]
    assert not any(word in command for word in (str(home), str(real), "s3cret"))
    assert "~/r" in command
    assert redaction.without_home({"a": [f"{home}/x", f"{home}-other/x"]}) == {
        "a": ["~/x", f"{home}-other/x"]
    }


def test_weights_that_are_pickles_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(BadInput, match=r"pytorch_model\.bin.*convert them to safetensors"):
        models.resolve(str(tmp_path), say=str)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert models.resolve(str(tmp_path), say=str) == str(tmp_path)


# What was read and should not have been, or ended in a traceback


def test_a_second_schema_in_a_file_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    text = records.dump_cell(cell_record())
    path.write_text(text.replace('"findings"', '"schema": 2, "findings"', 1), encoding="utf-8")
    with pytest.raises(BadRecord, match='the key "schema" stands twice'):
        records.load(path, CellRecord)


@pytest.mark.parametrize(
    "change", [{"output_tokens": 10**400}, {"total_s": float("nan")}, {"ttft_s": -1.0}, {"draft_tokens": -1}]
)
def test_figures_that_no_measurement_gives_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="1 validation error"):
        prompt_record(**change)


def test_half_of_a_surrogate_pair_in_a_record_can_be_written_again(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    record = cell_record(subject={"engine": "\ud800", "settings": {"\ud800": 1}})
    write_atomically(path, records.dump_cell(record))
    assert records.load(path, CellRecord) == record
    assert baseline.move_anchor(path, "why").exists()


@pytest.mark.parametrize("content", [b"no line of ours", b"no line of ours\nand half a line", b"\xff\xfe"])
def test_a_journal_that_is_not_ours_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadRecord, match="line 1"):
        Journal(path, {"cell": "x"})
    assert path.read_bytes() == content


def test_a_folder_in_the_place_of_a_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match="directory"):
        Journal(tmp_path, {"cell": "x"})


def test_a_prompt_twice_in_a_journal_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl", {"cell": "x"})
    journal.append(prompt_record())
    journal.append(prompt_record())
    with pytest.raises(BadRecord, match=r"line 3: .* stands in an earlier line too"):
        Journal(journal.path, {"cell": "x"})


def test_held_out_prompts_are_text_and_there_once(tmp_path: Path) -> None:
    path = tmp_path / "held_out.jsonl"
    line = '{"id": "a", "language": "en", "text": "t"}\n'
    path.write_text(2 * line)
    with pytest.raises(BadRecord, match=r"line 2: .* earlier line"):
        load_held_out(path)
    path.write_text(line.replace('"t"', '"\\ud800"'))
    with pytest.raises(BadRecord, match="line 1: no Unicode text"):
        load_held_out(path)


@pytest.mark.parametrize(
    "text",
    [
        HEAD + f"[engine.args]\n{'a.' * 1100}a = 1\n" + NGRAM,
        HEAD.replace("org/tiny", "~nobody-of-this-name/x") + NGRAM,
        HEAD.replace("org/tiny", "./\\u0000") + NGRAM,
        HEAD.replace("org/tiny", "org/\\u0000") + NGRAM,
        "tokens_per_second = 0\n" + HEAD + NGRAM,
        "tokens_per_second = nan\n" + HEAD + NGRAM,
        HEAD + NGRAM + "[profiles.gate]\nsampling = { temperature = inf }\n",
        HEAD + NGRAM.replace("[2]", "[1000000000000]"),
    ],
)  # fmt: skip
def test_a_stack_that_would_fail_later_is_refused_where_it_is_read(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match=r"tiny\.toml"):
        stack(tmp_path, text)


@pytest.mark.parametrize(
    "event", [{"prompt_token_ids": 5}, {"prompt_token_ids": [1e400]}, {"prompt_token_ids": {"a": 1}}]
)
def test_prompt_tokens_that_are_none_are_refused(event: dict[str, Any]) -> None:
    into = Stream()
    with pytest.raises(BrokenOffError, match="token ids"):
        into.take(json.dumps({"choices": [{"delta": {"content": "x"}}], **event}))
    assert into.prompt_ids is None


def test_of_what_puts_code_before_the_engine_the_names_alone_are_recorded() -> None:
    env = {"LD_PRELOAD": "value-of-it", "PYTHONPATH": "value-of-it", "HF_TOKEN": "value-of-it", "HOME": "/x"}
    assert integrity.code_loaders(env) == ["LD_PRELOAD", "PYTHONPATH"]


def test_code_that_came_with_a_model_is_told_below_an_audit_and_parity() -> None:
    """Tables of a run, of a comparison and of a load have tests of their own."""
    trusting = {"subject": Subject(trust_remote_code=True)}
    audit = good()
    assert records.TRUSTED not in audit.sentences()
    chat = audit.records["chat"].model_copy(update=trusting)
    assert records.TRUSTED in dataclasses.replace(audit, records={**audit.records, "chat": chat}).sentences()
    reach = reaches(1)
    assert records.TRUSTED in judged(reach, reach, **trusting).notes
    assert records.TRUSTED not in judged(reach, reach).notes


@pytest.mark.parametrize("key", ["test", "k4", "64", "a+b"])
def test_a_short_key_is_hidden_where_a_key_stands_and_no_word_is_eaten(key: str) -> None:
    keep_secret(key)
    given = (
        f"Authorization: Bearer {key}", f"authorization: {key}", f"DRAFTGATE_API_KEY={key} run",
        f"{{'api_key': '{key}'}}", f'{{"token": "{key}"}}', f"password: {key}.",
    )  # fmt: skip
    words = f"chat-en-{key}-x: {key} of {key} tests, k4 and 64 tokens; the key: {key}less"
    for text in given:
        assert key not in without_secrets(text), text
        assert key not in without_keys(text, least=MOSTLY_RANDOM), text
    assert without_keys(words, least=MOSTLY_RANDOM) == words
    assert without_secrets(words) == words
    assert key not in without_keys(f"the server said {key}!")
