"""What the instrument reads beside records: its own memory, and what engines tell of themselves and of texts.

Inputs and their number are those of `tests.factories.damage`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import struct
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import example, given, strategies as st

from harness.commands import claims
from harness.engine.facts import reported
from harness.engine.server import Server
from harness.engine.watchdog import Evidence, stalls_in
from harness.errors import DraftgateError
from harness.judge import baselines
from harness.measure import draft_vocab, engine_findings
from harness.provenance.record import patches_of, resolved_config, sampling_defaults
from harness.results.conditions import Identity, Subject
from harness.suites import self_drafting, selfcheck
from harness.suites.self_drafting import Check, SelfCheck
from harness.text import render
from tests.factories import runs
from tests.factories.damage import CELL, CELL_FILE, as_bytes, damaged, fuzz, harmless, json_of, put, read
from tests.factories.records import cell_name
from tests.factories.runs import cell, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# Our own memory

SOUND = SelfCheck(
    engine="vLLM 0.32.0",
    patches=("cpu-temperature",),
    checks=tuple(
        Check(name=self_drafting.name_of(t), outcome="ok", text="all")
        for t in (0.0, self_drafting.TEMPERATURE)
    ),
    often=(5, 3),
).model_dump(mode="json", by_alias=True)


@fuzz
@given(json_of(SOUND) | damaged(json.dumps(SOUND).encode()))
@example(json.dumps(SOUND | {"checks": []}).encode())
@example(json.dumps(SOUND | {"checks": SOUND["checks"][:1]}).encode())
def test_what_was_self_checked(folder: Path, content: bytes) -> None:
    path = put(folder, "one.json", content)
    found = read(path, lambda: selfcheck._remembered(path))
    if found is not None:
        assert not found.broken
        assert {c.name for c in found.checks if c.outcome == "ok"} == {c["name"] for c in SOUND["checks"]}
        harmless(render.visible(f"{found.engine}{found.checks}{found.patches}"))


EVIDENCE = Evidence(
    at="2026-01-01T00:00:00+00:00",
    url="http://127.0.0.1:1",
    kind="silent",
    reason="no token for 180 s",
    note="acceptance/x",
    processes=({"pid": 1, "status": "stopped"},),
    readings=({"t": -1.0, "generated": 3},),
    log=("a",),
    metrics=("b 1",),
).model_dump(mode="json", by_alias=True)


@fuzz
@example(json.dumps({**EVIDENCE, "reason": "\ud800no token"}).encode())
@given(json_of(EVIDENCE) | damaged(json.dumps(EVIDENCE).encode()))
def test_evidence_of_a_stall(folder: Path, content: bytes) -> None:
    path = put(folder, "none-f00d.stall.json", content)
    found = read(path, lambda: stalls_in(path.parent, "acceptance/x"))
    if found:
        assert len(found) == 1
        render.visible_lines(found[0]).encode()  # as it is printed: half of a surrogate pair is no text


@fuzz
@given(json_of(CELL) | damaged(CELL_FILE), st.sampled_from((".json", baselines.ANCHOR)))
def test_a_baseline(folder: Path, content: bytes, kind: str) -> None:
    record = cell("en")
    name = baselines.path_of(folder, record).with_suffix(kind).relative_to(folder)
    path = put(folder, str(name), content)
    find = baselines.find if kind == ".json" else runs.anchor
    found = read(path, lambda: find(folder / "in", record))
    if found is None and kind == ".json":
        with pytest.raises(DraftgateError):
            baselines.store(folder / "in", record)
        assert path.read_bytes() == content
    elif found is None:
        with pytest.raises(DraftgateError):  # damaged, or a sound file of another cell
            baselines.of_cell(path, record.cell)


REPORTED = {"fault": "cpu-temperature", "probe": "fault", "mended": True, "pid": 3}


@fuzz
@given(json_of(REPORTED) | damaged(json.dumps(REPORTED).encode()))
def test_what_was_patched(folder: Path, content: bytes) -> None:
    path = put(folder, "none.mends.jsonl", content)
    told = SimpleNamespace(patches=reported(path)[0])
    patches = patches_of(cast("Server", told))
    for finding in engine_findings.findings(
        cell_name(), Subject(patches=patches), identity=Identity(), covered=None
    ):
        finding.text.encode("utf-8", "surrogatepass")


# What an engine says of itself

LOGGED = (
    "Initializing a V1 LLM engine (v0.32.0) with config: model='/x/y', dtype=bfloat16\n"
    "Default sampling parameters have been overridden by the model's Hugging Face generation config: "
    "`{'temperature': 0.6, 'top_k': 40, 'max_tokens': 5}`\n"
)
SAMPLING = {"temperature": 0.0, "top_k": 0, "top_p": 1.0}
LITERALS = (
    "{1: 2, 'a': 3}", "{'temperature': [1]}", "{'temperature': {}}", "{'temperature': 1e999}", "{b'a': 1}",
    "{'\\x1b[31m': 1}", "{('a',): 1, None: 2}", "{'top_k': '\\ud800'}", "{{}: 1}", "{[]: 1}", "{'a': -'b'}",
    "{" + "(" * 3000 + "}", "{" + "-" * 9000 + "1}", "{'temperature': " + "9" * 5000 + "}", "{'a': 1+2j}",
)  # fmt: skip


@fuzz
@given(
    damaged(LOGGED.encode())
    | st.sampled_from(LITERALS).map(lambda put: f"{LOGGED.partition('`')[0]}`{put}`\n".encode())
)
def test_what_an_engine_logged(folder: Path, content: bytes) -> None:
    path = put(folder, "none.log", content)
    known = {
        "resolved_config": read(path, lambda: resolved_config(path)),
        "sampling_defaults": read(path, lambda: sampling_defaults(path)),
    }
    json.dumps(known)
    for finding in engine_findings.findings(
        cell_name(), Subject.model_validate(known), identity=Identity(sampling=SAMPLING), covered=None
    ):
        assert finding.text


MAP = struct.pack("<3q", 4, 4, 9)


def safetensors(header: bytes, data: bytes = MAP) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


HEADER = {"d2t": {"dtype": "I64", "shape": [3], "data_offsets": [0, 24]}, "__metadata__": {"format": "pt"}}


@fuzz
@given(
    json_of(HEADER).map(safetensors)
    | st.binary(max_size=32)
    | st.builds(
        lambda at, put: safetensors(as_bytes(HEADER))[:at] + put,
        st.integers(0, 120),
        st.binary(max_size=8),
    )
)
@example(safetensors(as_bytes({"d2t": {"dtype": "I64", "shape": [2**60], "data_offsets": [0, 2**62]}})))
@example(safetensors(as_bytes({"d2t": {"dtype": "I64", "shape": [3], "data_offsets": [0, -1]}})))
def test_the_vocabulary_of_a_drafter(folder: Path, content: bytes) -> None:
    path = put(folder, "model.safetensors", content)
    found = read(path, lambda: draft_vocab.draft_vocabulary(str(path.parent)))
    if found is not None:
        assert 0 <= draft_vocab.coverage(found, Counter({4: 1, 5: 2})).share <= 1


# What somebody published

MARKDOWN = """tau **1.34**<!-- draftgate: run=a cell=chat-en-instruct-ngram-k4 field=tau -->

<!-- draftgate: run=a columns=-,tau,pos_0%/pos_1% -->

| drafter | tau | positions |
|---|---|---|
| ngram | 3.1 | 70 / 60 <!-- draftgate: cell=chat-en-instruct-ngram-k4 --> |
"""
REFERENCES = (
    "run=", "run=../..", "run=/", "cell=%FF", "cell=%ED%A0%80", "field=tau@99", "field=tau@base", "base=a",
    "columns=", "columns=-", "field=pos_99999999999999999999", "across=%00", "run2=a", "<!--", "-->", "1e999",
    "9" * 5000, "—", "%", "-", "‑1", "1.2.3", "١", "x" * 300,
)  # fmt: skip


@fuzz
@given(
    damaged(MARKDOWN.encode())
    | st.builds(
        lambda word, put: MARKDOWN.replace(word, put).encode(),
        st.sampled_from(sorted(set(MARKDOWN.split()))),
        st.sampled_from(REFERENCES) | st.text(max_size=8),
    )
)
def test_figures_that_somebody_published(folder: Path, content: bytes) -> None:
    run = folder / "runs" / "a"
    if not run.exists():
        write_run(run, cell("en"))
    path = put(folder, "README.md", content)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        options = argparse.Namespace(file=path, runs=[run], allow_none=False)
        assert read(path, lambda: claims.run(options)) in (None, 0, 1, 2)
    harmless(out.getvalue())
