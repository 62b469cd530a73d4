"""Which answers are valid, and what a drafter costs of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from harness.config.prompts import Prompt
from harness.errors import BadInput
from harness.measure.structured import check_schemas, flaw_of, kind_of
from harness.results.records import CellRecord, Finding, PromptRecord
from harness.suites import tools
from harness.suites.tools import Pairs
from harness.text.render import lay_out
from tests.factories import benches
from tests.factories.records import failed_record
from tests.factories.runs import answer, cell, plain

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
BUSY = Finding(code="foreign-traffic", hard=True, text="the server finished 30 requests while 24 ran")


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": CITY}}


def prompt(number: int = 0, **request: Any) -> Prompt:
    request = request or {"tools": [function("find"), function("find_all")], "tool_choice": "required"}
    return Prompt(id=f"instruct-{number:03d}", language="en", text="Where?", request=request)


def schema(number: int = 0) -> Prompt:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY}}
    return prompt(number, response_format=form)


def said(text: str, number: int = 0, *, calls: bool = False, k: int = 4) -> PromptRecord:
    parts = (("tool_calls", len(text)),) if calls and text else None
    return answer(number, k=k, text=text, parts=parts)


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ('find{"city": "Oslo"}', ""),
        ('find_all{"city": "Oslo"}', ""),
        ('find{"city": "Oslo"}find_all{"city": "Bergen"}', ""),
        ('find{"city": "Oslo"', "not JSON"),
        ("find", "not JSON"),
        ('find{"city": 3}', "not of the schema"),
        ('find{"city": "Oslo"}find{}', "not of the schema"),
        ('fly{"city": "Oslo"}', "another function"),
        ("", "no call"),
    ],
)
def test_a_call_is_valid_where_its_function_is_there_and_its_arguments_fit(text: str, flaw: str) -> None:
    assert flaw_of(prompt(), said(text, calls=True)) == flaw


def test_a_call_of_another_function_than_the_one_that_is_named_is_not_valid() -> None:
    choice = {"type": "function", "function": {"name": "find"}}
    one = prompt(tools=[function("find"), function("go")], tool_choice=choice)

    assert flaw_of(one, said('find{"city": "Oslo"}', calls=True)) == ""
    assert flaw_of(one, said('go{"city": "Oslo"}', calls=True)) == "another function"


def test_a_call_that_is_written_as_content_is_none() -> None:
    assert flaw_of(prompt(), said('find{"city": "Oslo"}')) == "no call"


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ('{"city": "Oslo"}', ""),
        ('{"city": 3}', "not of the schema"),
        ('{"city": "Os', "not JSON"),
        ("", "not JSON"),
    ],
)
def test_json_is_valid_where_it_keeps_to_its_schema(text: str, flaw: str) -> None:
    assert flaw_of(schema(), said(text)) == flaw


@pytest.mark.parametrize("reference", ["#/$defs/gone", "http://127.0.0.1:1/schema.json", "#"])
def test_a_reference_that_leads_nowhere_is_not_followed(reference: str) -> None:
    one = prompt(response_format={"type": "json_schema", "json_schema": {"schema": {"$ref": reference}}})

    assert flaw_of(one, said('{"city": "Oslo"}')) == "not of the schema"


def test_what_the_target_thinks_is_no_part_of_its_answer() -> None:
    text = 'Hmm.{"city": "Oslo"}'
    record = answer(0, text=text, parts=(("reasoning", 4), ("content", len(text) - 4)))

    assert flaw_of(schema(), record) == ""


def test_a_request_that_failed_has_no_answer() -> None:
    assert flaw_of(schema(), failed_record()) == "no answer"


def pairs(*, lost: int = 0, won: int = 0, of: int = 24, **changes: Any) -> Pairs:
    """The first `lost` answers are valid with `none` alone, the next `won` with the drafter alone."""
    good, bad = '{"city": "Oslo"}', '{"city": '

    def record(wrong: range, k: int) -> CellRecord:
        prompts = tuple(said(bad if i in wrong else good, i, k=k) for i in range(of))
        return cell(prompts=prompts, **changes) if k else plain(prompts=prompts)

    prompts = {one.id: one for one in map(schema, range(of))}
    return Pairs.of(prompts, record(range(lost, lost + won), 0), record(range(lost), 4))


@pytest.mark.parametrize(
    ("lost", "won", "kind"),
    [(0, 0, "fine"), (3, 3, "fine"), (0, 9, "fine"), (1, 0, "unsure"), (9, 0, "unsure"), (10, 0, "failed"),
     (16, 3, "unsure"), (18, 3, "failed")],
)  # fmt: skip
def test_valid_answers_that_a_drafter_costs_fail_where_chance_does_not_explain_them(
    lost: int, won: int, kind: str
) -> None:
    assert pairs(lost=lost, won=won).judged()[0] == kind


def test_the_sentence_has_the_counts_and_what_is_wrong() -> None:
    _, sentence = pairs(lost=10).judged()

    assert sentence.startswith("24 of 24 answers of `none` are valid, 14 with the drafter: 10 lost, 0 won")
    assert sentence.endswith("lost 10 not JSON (instruct-000, instruct-001, instruct-002, ...)")


def test_calls_of_which_none_is_valid_without_a_drafter_are_not_judged_and_that_is_said() -> None:
    prompts = {one.id: one for one in (prompt(0), schema(1))}
    records = [
        make(prompts=(said("", 0, k=k), said('{"city": "Oslo"}', 1, k=k)))
        for make, k in ((plain, 0), (cell, 4))
    ]

    kind, sentence = Pairs.of(prompts, *records).judged()
    assert (kind, "no call of `none` is valid" in sentence) == ("noteworthy", True)


def test_a_target_that_answers_nothing_valid_cannot_be_asked() -> None:
    assert pairs(won=24).judged()[0] == "unchecked"


def test_what_is_no_measurement_is_not_judged() -> None:
    assert pairs(findings=(BUSY,)).judged()[0] == "invalid"


def test_a_server_that_was_given_is_described() -> None:
    found = dataclasses.replace(pairs(lost=12), plain=None)

    assert found.judged()[0] == "fine"
    assert dataclasses.replace(pairs(lost=24), plain=None).judged()[0] == "unchecked"
    assert found.rows()[-1]["none_valid"] is None
    assert "—" in lay_out(found.report(""))


def test_the_table_has_calls_schemas_and_all() -> None:
    prompts = {one.id: one for one in (prompt(0), schema(1))}
    records = [
        make(prompts=(said('find{"city": "Oslo"}', 0, calls=True, k=k), said("{}", 1, k=k)))
        for make, k in ((plain, 0), (cell, 4))
    ]
    found = Pairs.of(prompts, *records)

    assert [(row["kind"], row["valid"], row["prompts"]) for row in found.rows()] == [
        ("call", 1, 1), ("schema", 0, 1), ("all", 1, 2),
    ]  # fmt: skip


# The prompts


@pytest.mark.parametrize("language", ["en", "zh"])
def test_shipped_prompts_are_calls_and_schemas(language: str, tmp_path: Path) -> None:
    run = benches.bench(tmp_path).run
    one = benches.cell_of(benches.bench(tmp_path), "chat-en-instruct-ngram-k4")
    one = dataclasses.replace(one, name=one.name.model_copy(update={"language": language}))
    found = tools.asked(run, one)

    assert [kind_of(p) for p in found].count("call") == 20
    assert [kind_of(p) for p in found].count("schema") == 12
    assert {json.dumps(p.request["tool_choice"])[:10] for p in found if kind_of(p) == "call"} == {
        '"required"', '{"type": "',
    }  # fmt: skip
    for one_prompt in found:
        check_schemas(one_prompt)


def test_a_call_is_left_to_the_target_where_the_stack_names_a_parser(tmp_path: Path) -> None:
    stack = benches.stack(engine={"args": {"tool-call-parser": "hermes", "enable_auto_tool_choice": True}})
    bench = benches.bench(tmp_path, stack=stack)

    found = tools.asked(bench.run, benches.cell_of(bench))
    assert "auto" in [p.request.get("tool_choice") for p in found]


@pytest.mark.parametrize(
    "request_fields",
    [
        {"tools": [{"type": "function"}]},
        {"tools": [function("find")], "tool_choice": {"type": "function", "function": {"name": "fly"}}},
        {"tools": ["find"]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "text"}}}},
        {"response_format": {"type": "json_schema", "json_schema": []}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"schema": {"$ref": "http://127.0.0.1/x"}},
            }
        },
    ],
)
def test_what_is_no_schema_is_refused(request_fields: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="instruct-000"):
        check_schemas(prompt(**request_fields))
