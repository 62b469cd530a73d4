"""Whatever a file or a server holds: what is read is usable, or refused in a sentence that says where.

A second's worth of inputs in every run; `DRAFTGATE_FUZZ=long` (make test-all): 100,000, others each time.
"""
# ruff: noqa: PT017 - a refusal is one of two good ends

from __future__ import annotations

import contextlib
import io
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, strategies as st
from pyarrow import parquet

from harness import cli
from harness.config import prompts
from harness.config.cells import cells_of
from harness.config.prompts import load_held_out
from harness.config.stack import load_stack
from harness.config.variants import Target
from harness.engine import facts, metrics
from harness.errors import DraftgateError
from harness.judge import baselines as baseline, collect as collecting, speedup
from harness.judge.compare import compare
from harness.judge.verdict import Verdict, judge
from harness.report import export, run_table
from harness.report.compare_table import document
from harness.report.plots import picture
from harness.results import prediction, records
from harness.results.files import as_line, complete_lines, write_atomically
from harness.results.journal import Journal
from harness.results.prediction import Predicted
from harness.results.records import CellRecord, PromptRecord, RunRecord
from harness.run import Options, Run
from harness.text import render
from tests.factories.damage import (
    CELL,
    CELL_FILE,
    as_bytes,
    damaged,
    fuzz,
    harmless,
    json_of,
    put,
    read,
)
from tests.factories.metrics_page import PAGE
from tests.factories.model_cards import RECORDS, SERVED
from tests.factories.runs import cell, plain, write_cell
from training.answers import filter as answer_filter, progress, rows
from training.export import export as drafter_export, scrub, weights
from training.recipe import RECIPES, load_recipe
from training.sources import datasets
from training.sources.templates import Templates
from training.trainer import metrics as trainer_metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


SHIPPED = Path(prompts.__file__).parents[2]


TOML_VALUES = (
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1",
    "1e400",
    "9" * 5000,
    str(10**400),
    "true",
    '""',
    '"\\u0000"',
    '"./\\u0000"',
    '"~nobody-here/x"',
    '"../../../x"',
    '"a/b"',
    '"a b"',
    "[]",
    "{}",
    "[[]]",
    "1979-05-27",
    "07:32:00",
    "[1, 1]",
    "[0]",
    '["a", "a"]',
    "{ a = nan }",
    "{ a = 1979-05-27 }",
    '"{x}"',
    '["{a}"]',
    '"\\u202e"',
    '"x"\ny = 2',
    "[" * 2000,
    '"--api-key=x"',
    "[1000000000000]",
)
TOML_LINES = (
    *(
        f"{table}.{'a.' * 1100}a = 1"
        for table in ("engine.args", "drafters.ngram", "hidden_states.args", "train.args", "x")
    ),
    "[engine]",
    "[profiles.gate]",
    "[drafters.x]",
    "[[drafters]]",
    "[prompts]",
    "port = 99999",
    "schema = 2",
    "\0",
    "\ufeff",
)


@st.composite
def toml_of(draw: st.DrawFn, text: str) -> bytes:
    """A TOML file with a few values changed and lines lost, doubled, or put in."""
    parts = text.split("\n")
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(parts) - 1))
        key, equals, _ = parts[at].partition("=")
        match draw(st.sampled_from(("put", "put", "put", "drop", "double", "line"))):
            case "put" if equals:
                parts[at] = f"{key}= {draw(st.sampled_from(TOML_VALUES))}"
            case "drop":
                parts[at] = ""
            case "double":
                parts.insert(at, parts[at])
            case _:
                parts.insert(at, draw(st.sampled_from(TOML_LINES)))
    return "\n".join(parts).encode()


Put = Callable[[bytes], Path]


# Stacks and recipes

STACK = (SHIPPED / "fixtures/stacks/smollm2-cpu.toml").read_text(encoding="utf-8")
RECIPE = (RECIPES / "smollm2-eagle3-en-zh.toml").read_text(encoding="utf-8")


@fuzz
@given(toml_of(STACK) | damaged(STACK.encode()))
@example(STACK.replace("max_model_len", f"{'a.' * 300}a = 1\nmax_model_len").encode())
def test_a_stack(folder: Path, content: bytes) -> None:
    path = put(folder, "s.toml", content)
    stack = read(path, lambda: load_stack(path))
    if stack is None:
        return
    for name, profile in stack.profiles.items():
        json.dumps(profile.model_dump(mode="json"), allow_nan=False)
        measured = list(itertools.islice(cells_of(stack, name, profile, workloads=stack.workloads), 20))
        assert measured or not (stack.endpoints and stack.languages and stack.workloads)
        for one in measured:
            assert Path(str(one)).name == str(one)
            assert len(f".{one}.anchor.json.12345678") < 256
            words = facts.command_line(
                one.spec, model="/m", speculative=one.spec.speculative, per_request=True
            )
            assert all(isinstance(word, str) and "\0" not in word for word in words)
            assert one.spec.key
            with contextlib.suppress(DraftgateError):  # no such model here
                facts.resolve_speculative(one.spec, target="/m", say=str)
        options = Options(
            stack=stack,
            profile_name=name,
            profile=profile,
            workloads=stack.workloads,
            repeats=1,
            seed=0,
            results=folder / "results",
            resume=False,
            server_url=None,
            baselines=folder / "b",
            gate="on",
            update="",
            pairs=6,
            sequential=False,
            compare=None,
            command="",
        )
        with contextlib.suppress(DraftgateError):  # no such prompts
            assert Run(options, SHIPPED / "fixtures").estimate_s(measured) >= 0


@fuzz
@given(toml_of(RECIPE) | damaged(RECIPE.encode()))
@example(RECIPE.replace("[engine.args]", f"[engine.args]\n{'a.' * 300}a = 1").encode())
def test_a_recipe(folder: Path, content: bytes) -> None:
    path = put(folder, "r.toml", content)
    recipe = read(path, lambda: load_recipe(path))
    if recipe is not None:
        again = path.with_name("again.toml")
        again.write_text(scrub.recipe_toml(recipe), encoding="utf-8")
        load_recipe(again)
        assert Path(recipe.name).name == recipe.name
        assert Path(recipe.drafter).name == recipe.drafter


@fuzz
@given(
    st.text(max_size=20)
    | st.builds(
        "{}={}".format,
        st.sampled_from(("train.epochs", "x", "a.b.c", "name", "train", ".", "a..b", "a." * 1100)),
        st.sampled_from(TOML_VALUES),
    )
)
def test_a_change_of_a_recipe(change: str) -> None:
    path = RECIPES / "smoke-cpu.toml"
    with contextlib.suppress(DraftgateError):
        load_recipe(path, [change])


TEMPLATES = """plain = 0.1
[templates]
ask = ["Explain {concept} to {audience}.", "What is {concept}, and what is {concept2}?"]
write = ["Write a {form} about {concept}."]
[weights]
write = 2
[words]
concept = ["inflation", "a {form}", "gravity"]
audience = ["a child", "my {relative}"]
relative = ["aunt", "uncle"]
form = ["poem", "letter"]
"""
DOUBLING = "".join(f'w{chr(97 + i)} = ["{{w{chr(98 + i)}}} {{w{chr(98 + i)}2}}"]\n' for i in range(25))


@fuzz
@given(toml_of(TEMPLATES) | damaged(TEMPLATES.encode()))
@example(f'[templates]\na = ["{{wa}}"]\n[words]\n{DOUBLING}wz = ["1", "2", "3"]'.encode())
@example(
    (
        '[templates]\na = ["{w_}"]\n[words]\n'
        + "".join(f'{"w" * i}_ = ["{{{"w" * (i + 1)}_}}", "x"]\n' for i in range(1, 500))
        + f'{"w" * 500}_ = ["y"]'
    ).encode()
)
@example(b'[templates]\na = ["x"]\nb = ["y"]\n[weights]\na = 1e308\nb = 1e308')
def test_a_template_file(folder: Path, content: bytes) -> None:
    path = put(folder, "t.toml", content)
    templates = read(path, lambda: Templates(path))
    if templates is not None:
        drawn = list(itertools.islice(templates.draw(0), 20))
        assert bool(drawn) == bool(templates.all)


RUN = RunRecord(
    run="20260101-tiny",
    stack="tiny",
    profile="gate",
    options={"seed": 0},
    subject=("quantization",),
    provenance={"host": "h"},
    environment={"cpu": "A CPU", "gpus": []},
).model_dump(mode="json", by_alias=True)
SPEED = {
    **{
        name: CELL[name]
        for name in ("schema", "stack", "profile", "cell", "identity", "subject", "environment")
    },
    "provenance": {},
    "ratios": [1.2, 1.3, 1.25, 1.22, 1.31, 1.27],
}


@fuzz
@given(json_of(CELL) | damaged(CELL_FILE))
@example(CELL_FILE.replace(b'"findings"', b'"schema": 2, "findings"', 1))
@example(CELL_FILE.replace(b'"gpus": []', b'"gpus": "A CPU"'))
@example(CELL_FILE.replace(b'"gpus": []', b'"gpus": true'))
@example(CELL_FILE.replace(b'"gpus": []', b'"gpus": [{"name": "%s"}]' % (b"x" * 300)))
@example(CELL_FILE.replace(b'"gpus": []', b'"gpus": [{"name": "\xe4\xb8\xad"}]'))
def test_a_cell_file(folder: Path, content: bytes) -> None:
    path = put(folder, "c.json", content)
    record = read(path, lambda: records.load(path, CellRecord))
    if record is None:
        return
    assert record.schema_ == records.SCHEMA
    again = path.with_name("again.json")
    write_atomically(again, records.dump_cell(record))
    assert records.dump_cell(records.load(again, CellRecord)) == records.dump_cell(record)  # NaN is no NaN
    for kept in (
        baseline.path_of(folder, record),
        baseline.path_of(folder, record).with_suffix(".anchor.json"),
    ):
        assert kept.resolve().is_relative_to(folder)
    harmless(run_table.report([record]))
    run_table.verdict_report([(record, baseline_verdict(record))])


def baseline_verdict(record: CellRecord) -> Verdict:
    return judge(cell("en", prompts=cell("en").prompts[:10]), record)


@fuzz
@given(
    json_of(CELL) | damaged(CELL_FILE),
    st.sampled_from(("json", *cli._PAGES, *cli._DATA)),
    st.booleans(),
)
def test_a_comparison(folder: Path, content: bytes, kind: str, first: bool) -> None:  # noqa: FBT001
    shutil.rmtree(folder / "runs", ignore_errors=True)
    good = write_cell(folder / "runs/a", cell("en", prompts=cell("en").prompts[:10]))
    write_cell(folder / "runs/b", plain("en"))
    path = folder / "runs/b/c.json"
    path.write_bytes(content)
    sides = (path.parent, good.parent) if first else (good.parent, path.parent)
    try:
        found = compare([collecting.collect(side) for side in sides])
        if kind == "json":
            text = render.as_json(export.as_data(found, exit_code=found.exit_code(strict=True)))
        elif kind in cli._PICTURES:  # what they show; to draw it takes half a second
            text = picture(found).text
        elif kind in cli._DATA:
            text = cli._DATA[kind](found)
        else:
            text = cli._PAGES[kind](document(found))
    except DraftgateError as error:
        assert str(error)
        return
    if isinstance(text, bytes):
        columns = parquet.read_table(io.BytesIO(text)).to_pydict().values()
        text = "\n".join(value for column in columns for value in column if isinstance(value, str))
    harmless(text)
    assert path.read_bytes() == content


@fuzz
@given(json_of(RUN) | damaged(json.dumps(RUN).encode()))
def test_a_run_file(folder: Path, content: bytes) -> None:
    path = put(folder, "run.json", content)
    record = read(path, lambda: records.load(path, RunRecord))
    if record is not None:
        assert json.loads(json.dumps(record.model_dump(by_alias=True)))


@fuzz
@given(json_of(SPEED) | damaged(json.dumps(SPEED).encode()))
@example(json.dumps(SPEED | {"environment": {"cpu": [], "gpus": "A CPU"}}).encode())
def test_a_speed_file(folder: Path, content: bytes) -> None:
    path = put(folder, "v.json", content)
    record = read(path, lambda: records.load(path, speedup.SpeedRecord))
    if record is None:
        return
    good = speedup.SpeedRecord.model_validate(SPEED)
    for pair in ((good, record), (record, good)):
        assert speedup.judge(*pair).text
    assert speedup.path_of(folder, record).resolve().is_relative_to(folder)


HEAD = {"cell": "chat-en-instruct-ngram-k4", "seed": 0}
LINES = [json.dumps({"schema": 1, **HEAD}, sort_keys=True), *(json.dumps(p) for p in CELL["prompts"][:3])]
JOURNAL = "".join(line + "\n" for line in LINES).encode()


@st.composite
def line_files(draw: st.DrawFn, valid: Sequence[Any]) -> bytes:
    """A file of one object a line, one of which was changed."""
    at = draw(st.integers(0, len(valid) - 1))
    parts = [as_bytes(value) for value in valid]
    parts[at] = draw(json_of(valid[at]))
    return b"".join(part + b"\n" for part in parts)


@fuzz
@given(line_files([json.loads(line) for line in LINES]) | damaged(JOURNAL))
@example(b"what somebody else wrote, without an end of line")
@example(b"what somebody else wrote\nin lines, without an end")
def test_a_journal(folder: Path, content: bytes) -> None:
    path = put(folder, "j.jsonl", content)
    try:
        journal = Journal(path, HEAD)
    except DraftgateError as error:
        assert "j.jsonl" in str(error)
        assert path.read_bytes() == content
        return
    known = list(journal.records)
    journal.append(PromptRecord.model_validate(CELL["prompts"][0] | {"prompt": "new", "repeat": 7}))
    assert [*known, journal.records[-1]] == Journal(path, HEAD).records
    assert len({(r.prompt, r.repeat) for r in known}) == len(known)


# Prompts and predictions

PROMPTS = [{"id": f"i-{i}", "kind": "k", "language": "en", "text": f"Tell me of {i}."} for i in range(4)]
LINE = Predicted.of(
    id="i-1",
    language="en",
    tokens=6,
    prompt_hash="p",
    text_hash="t",
    reach=(2, 0, 1, 1, 0),
    outside=(3,),
    full_restricted=(4, 2),
    not_argmax=0,
)
VALIDATION = [LINE.model_dump(mode="json", by_alias=True) | {"id": f"i-{i}"} for i in range(3)]


def jsonl(values: Sequence[Any]) -> bytes:
    return b"".join(as_bytes(value) + b"\n" for value in values)


@fuzz
@given(line_files(PROMPTS) | damaged(jsonl(PROMPTS)))
def test_a_prompt_file(folder: Path, content: bytes) -> None:
    path = put(folder, "en.jsonl", content)
    found = read(path, lambda: prompts.load_prompts(folder, "in", "en", at_most=10))
    if found is not None:
        assert found
        assert all(p.id.strip() and prompts.hash_of(p.text) for p in found)


@fuzz
@given(line_files(PROMPTS) | damaged(jsonl(PROMPTS)))
@example(jsonl([PROMPTS[0], PROMPTS[0]]))
def test_a_held_out_file(folder: Path, content: bytes) -> None:
    path = put(folder, "held_out.jsonl", content)
    found = read(path, lambda: load_held_out(path))
    if found is not None:
        assert found
        assert len({p.id for p in found}) == len(found)
        assert all(prompts.hash_of(p.text) for p in found)


@fuzz
@given(line_files(VALIDATION) | damaged(jsonl(VALIDATION)))
def test_a_validation_file(folder: Path, content: bytes) -> None:
    path = put(folder, "validation.jsonl", content)
    found = read(path, lambda: prediction.load(path))
    if found is not None:
        assert found
        prediction.summarise(found)
        prediction.dump(found).encode()


# What training reads

ROWS = [
    {
        "id": f"r{i}",
        "language": "en",
        "source": "self",
        "prompt": "p",
        "temperature": 0.7,
        "text": "t",
        "messages": [{"role": "user", "content": "c"}],
        "input_ids": [1, 2, 3, 4 + i],
        "loss_mask": [0, 0, 1, 1],
        "answer": "a",
        "primary_id": f"r{i}",
        "metadata": {"finish_reason": "stop", "usage": {"completion_tokens": 2}},
    }
    for i in range(4)
]


@fuzz
@given(line_files(ROWS) | damaged(jsonl(ROWS)))
@example(jsonl(ROWS).replace(b'{"id"', b'{"\xed\xa0\x80id"', 1))
def test_answers_and_prompts_of_training(folder: Path, content: bytes) -> None:
    path = put(folder, "rows.jsonl", content)
    indexed = read(path, lambda: rows.index(path, 3))
    if indexed and indexed[0]:
        found = rows.arranged(indexed[0], len(indexed[0]) // 2, seed=0)
        for row, data in zip(found, rows.contents_of(path, found), strict=True):
            ids, mask = rows.within(data, 3)
            assert (row.id, row.tokens, row.supervised) == (data["id"], len(ids), sum(mask))
    read(path, lambda: list(datasets.local(path)))
    read(path, lambda: answer_filter.read_prompts(path))
    assert all(as_line(data).encode() for data in complete_lines(path))
    good = path.with_name("ask.jsonl")
    good.write_bytes(jsonl(ROWS))
    progress.Answers(good, path).waiting()
    progress.failures(path.with_name("x.jsonl"))


METRICS = [
    {
        "train": {"loss": 1.5, "full_acc_0": 0.4},
        "epoch": 0,
        "step": 1,
        "at": 2.0,
        "began": 1.0,
        "waited_s": 0.1,
        "samples": 4,
        "empty_samples": 0,
        "empty_steps": 0,
    },
    {"val": {"loss_epoch": 1.2, "full_acc_0_epoch": 0.5}, "epoch": 0, "step": 1},
]


@fuzz
@given(line_files(METRICS) | damaged(jsonl(METRICS)))
def test_what_a_trainer_logged(folder: Path, content: bytes) -> None:
    path = put(folder, "metrics.jsonl", content)
    assert read(path, lambda: trainer_metrics.last_line(path))
    read(path, lambda: trainer_metrics.validations(path))


CONFIG = {
    "speculators_model_type": "eagle3",
    "transformer_layer_config": {"_name_or_path": "/x", "model_type": "llama"},
    "speculators_config": {"verifier": {"name_or_path": "/x"}},
    "dtype": "bfloat16",
    "eagle_aux_hidden_state_layer_ids": [1, 2, 3],
}
TARGET = Target(model="org/tiny")


@fuzz
@given(json_of(CONFIG) | damaged(json.dumps(CONFIG).encode()))
def test_a_drafters_configuration(folder: Path, content: bytes) -> None:
    path = put(folder, "config.json", content)
    config = read(path, lambda: weights.config_of(path.parent, TARGET))
    if config is not None:
        assert config["speculators_config"]["verifier"]["name_or_path"] == "org/tiny"


@fuzz
@given(json_of(RECORDS) | damaged(json.dumps(RECORDS, indent=1).encode()))
def test_a_drafters_records(folder: Path, content: bytes) -> None:
    path = put(folder, "training.json", content)
    try:
        drafter_export.add_served(path.parent, [SERVED])
    except DraftgateError as error:
        assert "training.json" in str(error)
        assert path.read_bytes() == content
        assert [p.name for p in path.parent.iterdir()] == [path.name]
    else:
        harmless(path.with_name("README.md").read_text(encoding="utf-8"))


# What an engine answers


@fuzz
@given(
    damaged(PAGE.encode())
    | st.tuples(
        st.sampled_from(PAGE.splitlines()),
        st.sampled_from(("-1", "NaN", "+Inf", "-Inf", "1e400", "1e308", "0x1", "", "1_0")),
    ).map(lambda put: PAGE.replace(put[0], f"{put[0].rpartition(' ')[0]} {put[1]}").encode())
)
def test_a_metrics_page(content: bytes) -> None:
    try:
        found = metrics.parse(content.decode("utf-8", errors="replace"))
    except metrics.NotMetrics:
        return
    counts = {name: value for name, value in vars(found).items() if isinstance(value, int)}
    assert all(0 <= value < 2**63 for value in (*counts.values(), *found.per_position))
    assert 0 <= found.kv_usage < float("inf")
    with contextlib.suppress(ValueError):  # the client makes a finding of it
        assert found.histogram
    assert (found - found).generated == 0
