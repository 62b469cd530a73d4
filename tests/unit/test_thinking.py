"""Whether the target may think is an axis; steps while it thinks and in its answer are told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.config.cells import Cell, cells_of
from harness.config.stack import PROFILES
from harness.errors import BadInput
from harness.judge.collect import collect
from harness.judge.compare import compare
from harness.judge.pairing import Refused, pair
from harness.measure import validity
from harness.report.compare_table import document
from harness.report.export import as_data, csv_rows
from harness.report.run_table import part_table, report, written
from harness.results.records import CellName, CellRecord, PromptRecord, dump_cell, load
from harness.results.stretches import parts_of
from harness.text.render import as_json
from tests.factories.records import cell_name, cell_record, prompt_record
from tests.factories.stacks import HEAD, NGRAM, stack

NONE = "[drafters.none]\n"
BOTH = 'thinking = ["on", "off"]\n'


def cells(tmp_path: Path, text: str) -> list[Cell]:
    made = stack(tmp_path, f'languages = ["en"]\n{text}{HEAD}{NONE}{NGRAM}')
    return list(cells_of(made, "quick", PROFILES["quick"], workloads=("instruct",)))


# The axis


def test_over_chat_each_cell_comes_with_and_without_thinking(tmp_path: Path) -> None:
    found = cells(tmp_path, BOTH)

    assert [str(cell) for cell in found][:3] == [
        "chat-en-instruct-think_on-none",
        "chat-en-instruct-think_off-none",
        "raw-en-instruct-none",
    ]
    assert [cell.template for cell in found][:3] == [
        {"enable_thinking": True},
        {"enable_thinking": False},
        {},
    ]
    assert "think_off" in found[1].name.words
    assert len({cell.spec for cell in found}) == 2  # the same servers


def test_without_the_axis_names_and_files_are_as_before(tmp_path: Path) -> None:
    found = cells(tmp_path, "")

    assert [str(cell) for cell in found][:2] == ["chat-en-instruct-none", "raw-en-instruct-none"]
    assert all(cell.template == {} for cell in found)
    assert "thinking" not in found[0].name.model_dump()


def test_the_template_may_call_it_otherwise(tmp_path: Path) -> None:
    made = stack(tmp_path, f'{BOTH}{HEAD}thinking_key = "thinking"\n{NONE}')

    first = next(cells_of(made, "quick", PROFILES["quick"], workloads=("instruct",)))

    assert first.template == {"thinking": True}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('thinking = ["maybe"]\n', "wrong-field"),
        ('thinking = ["on", "on"]\n', "stack-name"),
        ('endpoints = ["raw"]\n' + BOTH, "stack-endpoint"),
        ('workloads = ["think_on"]\n' + BOTH, "stack-name"),
    ],
)
def test_an_axis_that_cannot_be_is_refused(tmp_path: Path, text: str, code: str) -> None:
    with pytest.raises(BadInput) as caught:
        cells(tmp_path, text)

    assert caught.value.code == code


def test_a_name_is_read_back(tmp_path: Path) -> None:
    record = thinks(thinking="on")
    path = tmp_path / f"{record.cell}.json"
    path.write_text(dump_cell(record), encoding="utf-8")

    assert load(path, CellRecord) == record


# Acceptance, apart


def thought(prompt: str = "instruct-001", **changes: Any) -> PromptRecord:
    """Steps of 5, 5 and 1 tokens that begin at tokens 1, 6 and 11; the answer begins at token 6."""
    values: dict[str, Any] = {
        "accepted": (4, 4, 0),
        "drafted": (4, 4, 4),
        "histogram": (1, 0, 0, 0, 2),
        "undrafted": 0,
        "draft_tokens": 12,
        "output_tokens": 12,
        "text": "I think so.",
        "parts": (("reasoning", 7), ("content", 4)),
        "part_tokens": (6, 6),
    }
    return prompt_record(prompt, **(values | changes))


def thinks(*prompts: PromptRecord, thinking: str | None, **changes: Any) -> CellRecord:
    identity = {"sampling": {"temperature": 0.0}, **({"thinking": thinking} if thinking else {})}
    name = cell_name(thinking=thinking)
    records = prompts or tuple(thought(f"instruct-{i:03}") for i in range(12))
    return cell_record(*records, cell=name, identity=identity, **changes)


def test_a_step_is_of_the_part_in_which_it_begins() -> None:
    thinking, answer = parts_of([thought()])

    assert (thinking.part, thinking.tokens_per_step, thinking.prompts) == ("thinking", 5, 1)
    assert (answer.part, answer.tokens_per_step, answer.prompts) == ("answer", 3, 1)


def test_reasoning_between_tool_calls_is_thinking_too() -> None:
    parts = (("reasoning", 3), ("tool_calls", 4), ("reasoning", 4))

    thinking, answer = parts_of([thought(parts=parts, part_tokens=(6, 5, 1))])

    assert (thinking.tokens_per_step, answer.tokens_per_step) == (3, 5)


@pytest.mark.parametrize("changes", [{"part_tokens": None}, {"accepted": None, "drafted": None}])
def test_what_cannot_be_placed_is_a_dash(changes: dict[str, Any]) -> None:
    record = thinks(thought(**changes), thinking="on")

    header, rows = written(*part_table([record]))

    assert header == ["cell", "answers", "thinking", "answer"]
    assert rows == [["chat-en-instruct-think_on-ngram-k4", "0/0", "—", "—"]]


def test_answers_without_reasoning_have_no_parts() -> None:
    assert parts_of([prompt_record()]) == ()
    assert written(*part_table([cell_record(prompt_record())]))[1] == []


@pytest.mark.parametrize("tokens", [(6, 5), (12,), (6, 5, 1)])
def test_parts_that_do_not_make_the_answer_are_refused(tokens: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="parts"):
        thought(part_tokens=tokens)


def test_the_tables_and_the_exports_have_them(tmp_path: Path) -> None:
    record = thinks(thinking="on")
    path = tmp_path / "cell.json"
    path.write_text(dump_cell(record), encoding="utf-8")
    found = compare([collect(path)])

    assert "5.00" in report([record]).split("while the target thinks")[1]
    header, [line] = csv_rows(found)
    values = dict(zip(header, line, strict=True))
    assert values["base_thinking"] == "on"
    assert (values["base_tokens_per_step_in_thinking"], values["base_tokens_per_step_in_answer"]) == (5, 3)
    [data] = json.loads(as_json(as_data(found, exit_code=0)))["cells"]
    assert [part["tokens_per_step"] for part in data["base"]["parts"]] == [5, 3]


# Comparing


def test_on_and_off_are_compared_only_where_that_is_asked_for(tmp_path: Path) -> None:
    on, off = thinks(thinking="on"), thinks(thinking="off")

    with pytest.raises(Refused, match="thinking differs"):
        pair(on, off)
    assert len(pair(on, off, across=("thinking",)).prompts) == 12

    sides = []
    for name, record in (("a", on), ("b", off)):
        tmp_path.joinpath(name).mkdir()
        (tmp_path / name / f"{record.cell}.json").write_text(dump_cell(record), encoding="utf-8")
        sides.append(collect(tmp_path / name))
    table, *_ = document(compare(sides, across=("thinking",))).blocks
    assert table.rows[0][0] == "chat-en-instruct-think_on→think_off-ngram-k4"


def test_a_pivot_by_thinking_sets_them_side_by_side(tmp_path: Path) -> None:
    for record in (thinks(thinking="on"), thinks(thinking="off"), thinks(thinking=None)):
        (tmp_path / f"{record.cell}.json").write_text(dump_cell(record), encoding="utf-8")

    [block] = document(compare([collect(tmp_path)]), pivot="thinking").blocks

    assert {"think_on", "think_off", "—"} <= {title.split(" ")[0] for title in block.header}
    assert len(block.rows) == 1


@pytest.mark.parametrize(
    ("thinking", "records", "said"),
    [
        ("on", [thought(), prompt_record("b")], False),
        ("on", [prompt_record("a"), prompt_record("b")], True),
        ("off", [thought(), prompt_record("b")], True),
        ("off", [prompt_record("b")], False),
        (None, [thought()], False),
    ],
)
def test_a_switch_that_does_nothing_is_said(
    thinking: str | None, records: list[PromptRecord], *, said: bool
) -> None:
    name = CellName.model_validate(cell_name().model_dump() | {"thinking": thinking})

    found = validity.findings(name, records, moved=None, cache="cold", patches=())

    assert ("thinking" in {finding.code for finding in found}) == said
