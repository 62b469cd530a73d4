"""Variants of a stack are an axis; a reference is another target that only stands beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import selection
from harness.cli import main
from harness.config.cells import Cell, cells_of, without_drafts
from harness.config.stack import PROFILES, Stack
from harness.engine.facts import EngineFacts
from harness.engine.spelling import check, check_names
from harness.errors import BadInput
from harness.judge.collect import by_variant, collect
from harness.judge.compare import Comparison, compare
from harness.judge.pairing import Refused, pair
from harness.report.compare_table import document
from harness.report.export import long_rows
from harness.report.run_table import report
from harness.results.records import CellName, CellRecord, dump_cell, load
from harness.suites import throughput
from harness.text.render import as_text
from tests.factories.runs import cell, plain, write_run
from tests.factories.stacks import HEAD, NGRAM, stack

NONE = "[drafters.none]\n"
REST = f'revision = "r1"\n[engine.args]\nmax-model-len = 2048\n[engine.env]\nA = "1"\nB = "2"\n{NONE}{NGRAM}'
SHORT = "[variants.short]\nmax_model_len = 512\n"
OTHER = '[variants.other]\nmodel = "./changed"\ndtype = "bfloat16"\n[variants.other.env]\nB = "3"\n'
BIG = '[references.big]\nmodel = "org/big"\ngpu_memory_utilization = 0.5\n'


def made(tmp_path: Path, text: str) -> Stack:
    return stack(tmp_path, f'languages = ["en"]\nendpoints = ["chat"]\n{HEAD}{REST}{text}')


def cells(made: Stack) -> list[Cell]:
    return list(cells_of(made, "quick", PROFILES["quick"], workloads=("instruct",)))


# The axis


def test_the_stack_as_it_stands_keeps_its_names_and_each_variant_has_its_own(tmp_path: Path) -> None:
    found = cells(made(tmp_path, SHORT + OTHER))

    assert list(map(str, found)) == [
        "chat-en-instruct-none",
        "chat-en-instruct-ngram-k2",
        "chat-en-instruct-short-none",
        "chat-en-instruct-short-ngram-k2",
        "chat-en-instruct-other-none",
        "chat-en-instruct-other-ngram-k2",
    ]
    assert [one.spec.label for one in found[1:4]] == ["ngram-k2", "short-none", "short-ngram-k2"]
    assert len({one.spec for one in found}) == len(found)
    assert "variant" not in found[0].name.model_dump()
    assert found[2].name.variant == "short"


def test_a_variant_changes_single_fields_and_leaves_the_others(tmp_path: Path) -> None:
    base, short, other = (cells(made(tmp_path, SHORT + OTHER))[i].spec for i in (0, 2, 4))

    assert base.args == {"max-model-len": 2048}
    assert (short.args, short.target, short.env) == ({"max_model_len": 512}, base.target, base.env)
    assert (other.args, other.env) == (base.args, {"A": "1", "B": "3"})
    assert (other.target.model, other.target.dtype) == (str(tmp_path / "changed"), "bfloat16")
    assert other.target.revision is None  # the base's is of another model
    assert base.target.revision == "r1"


def test_an_empty_variant_is_the_stack_once_more_on_a_server_of_its_own(tmp_path: Path) -> None:
    base, again = (cells(made(tmp_path, "[variants.again]\n"))[i].spec for i in (0, 2))

    assert (again.args, again.target) == (base.args, base.target)
    assert again != base


def test_none_of_a_variant_is_its_own(tmp_path: Path) -> None:
    found = cells(made(tmp_path, OTHER))

    assert without_drafts(found[3]).name == found[2].name
    assert without_drafts(found[3]).spec == found[2].spec


def test_a_marker_selects_a_variant_and_base_the_rest(tmp_path: Path) -> None:
    with_variants, without = made(tmp_path, SHORT), made(tmp_path, "")

    def words(of: Stack, number: int) -> set[str]:
        return selection.words_of(cells(of)[number], of)

    assert words(with_variants, 0) >= {"base", "none"}
    assert "short" not in words(with_variants, 0)
    assert "base" not in words(with_variants, 2)
    assert words(with_variants, 2) >= {"short", "none"}
    assert "base" not in words(without, 0)
    assert "variants base, short" in selection.no_cell_matches("shrot", with_variants)
    assert "'short'" in selection.no_cell_matches("shrot", with_variants)


def test_another_stack_is_compared_as_it_stands(tmp_path: Path) -> None:
    of, (base, *_, short) = made(tmp_path, SHORT), cells(made(tmp_path, SHORT))

    assert throughput.SUITE.takes(base, of, "")
    assert not throughput.SUITE.takes(short, of, "")


@pytest.mark.parametrize(
    ("text", "code", "key"),
    [
        ("[variants.base]\n", "stack-name", "variants.base"),
        ("[variants.ngram]\n", "stack-name", "variants.ngram"),
        ("[variants.none]\n", "stack-name", "variants.none"),
        ("[variants.chat]\n", "stack-name", "variants.chat"),
        ("[variants.skip]\n", "stack-name", "variants.skip"),
        ('[variants."a b"]\n', "stack-name", "variants.a b"),
        (f"{SHORT}[references.Short]\nmodel = 'org/x'\n", "stack-name", "references.Short"),
        ("[variants.x]\ndtype = 16\n", "wrong-field", "variants.x.dtype"),
        ("[variants.x]\nport = 0\n", "wrong-field", "variants.x.port"),
        ("[variants.x.engine.args]\nmax_model_len = 8\n", "wrong-field", "variants.x.engine"),
        ('[variants.x]\ntarget = "org/x"\n', "wrong-field", "variants.x.target"),
        ("[variants.x.args]\nmax_model_len = 8\n", "wrong-field", "variants.x.args"),
        ('[variants.x]\nserved_model_name = "x"\n', "stack-argument", "variants.x.served_model_name"),
        ('[variants.x]\napi_key = "x"\n', "stack-argument", "variants.x.api_key"),
        ("[variants.x]\na-b = 1\na_b = 1\n", "stack-argument", "variants.x.a_b"),
        ("[variants.x]\nseed = 1979-05-27\n", "stack-value", "variants.x.seed"),
        ("[references.x]\n", "wrong-field", "references.x.model"),
    ],
)
def test_what_cannot_be_is_refused_with_line_and_key(tmp_path: Path, text: str, code: str, key: str) -> None:
    with pytest.raises(BadInput) as caught:
        made(tmp_path, text)

    assert caught.value.code == code
    assert f"key {key}" in str(caught.value)
    assert "line " in str(caught.value)


def test_an_argument_that_the_engine_does_not_know_is_named_by_its_line(tmp_path: Path) -> None:
    known = frozenset({"max_model_len", "port", "kv_cache_dtype"})
    facts = EngineFacts(package="vllm", version="1", per_request=True, methods=frozenset(), arguments=known)
    base, *_, typo = cells(made(tmp_path, '[variants.kv8]\nkv_cache_dytpe = "fp8"\n'))

    check_names(base.spec, facts)
    with pytest.raises(BadInput) as caught:
        check_names(typo.spec, facts)

    assert caught.value.code == "unknown-to-engine"
    assert "tiny.toml, line 18, key variants.kv8.kv_cache_dytpe" in str(caught.value)
    assert "'kv_cache_dtype'" in str(caught.value)


@pytest.mark.parametrize("table", ["variants", "references"])
def test_a_target_that_is_not_there_is_named_by_its_line(tmp_path: Path, table: str) -> None:
    *_, gone = cells(made(tmp_path, f'[{table}.gone]\nmodel = "./nowhere"\n'))

    with pytest.raises(BadInput) as caught:
        check(gone.spec)

    assert caught.value.code == "model-missing"
    assert f"tiny.toml, line 18, key {table}.gone.model" in str(caught.value)


# Comparing


def of(
    variant: str, *, worse: int = 0, changes: dict[str, Any] | None = None, **identity: Any
) -> list[CellRecord]:
    """`none` and a drafter of a variant."""
    known = {"identity": {"variant": variant, **identity}}
    both = [plain(**known), cell(worse=worse, **known)]
    return [
        one.model_copy(
            update={
                "cell": one.cell.model_copy(update={"variant": variant}),
                "subject": one.subject.model_copy(update={"variant": changes or {}}),
            }
        )
        for one in both
    ]


def beside(name: str = "big") -> CellRecord:
    record = plain(identity={"variant": name, "target": name})
    named = record.cell.model_copy(update={"variant": name, "reference": True})
    return record.model_copy(update={"cell": named})


def compared(run: Path) -> Comparison:
    return compare(by_variant(collect(run)), across=("variant",))


def test_a_record_of_a_variant_is_read_back(tmp_path: Path) -> None:
    for record in (of("short")[0], beside()):
        path = tmp_path / f"{record.cell}.json"
        path.write_text(dump_cell(record), encoding="utf-8")
        assert load(path, CellRecord) == record


def test_two_variants_are_refused_unless_the_variant_is_the_subject() -> None:
    base, other = cell(), of("other", changes={"dtype": "float32"}, dtype="float32")[1]

    with pytest.raises(Refused, match="--across variant"):
        pair(base, other)
    with pytest.raises(Refused):
        pair(base, other, across=("dtype",))

    assert len(pair(base, other, across=("variant",)).prompts) == 24


def test_a_variant_excuses_what_it_changes_and_nothing_else() -> None:
    base, other = cell(), of("other", changes={"max_model_len": 512}, dtype="float32")[1]

    with pytest.raises(Refused, match="dtype"):
        pair(base, other, across=("variant",))


def test_cells_of_one_variant_are_not_excused_by_it() -> None:
    changes = {"dtype": "float32"}
    one, other = of("x", changes=changes)[1], of("x", changes=changes, dtype="float32")[1]

    with pytest.raises(Refused, match="dtype"):
        pair(one, other, across=("variant",))


def test_another_target_of_a_variant_is_paired_by_prompt() -> None:
    other = of("other", changes={"model": "x"}, target="x", weights="ab", chat_template="cd")[1]

    assert len(pair(cell(), other, across=("variant",)).prompts) == 24


def test_what_a_variant_changes_stands_above_the_table_and_in_no_note(tmp_path: Path) -> None:
    def with_engine(record: CellRecord, **more: Any) -> CellRecord:
        about = {
            "engine_args": {"seed": 1, **more},
            "execution": {"kv_cache_dtype": "auto", "runner": 2, **more},
        }
        about |= {"resolved_config": ", ".join(f"{k}={v}" for k, v in {"seed": 1, **more}.items())}
        return record.model_copy(update={"subject": record.subject.model_copy(update=about)})

    small = of("small", changes={"kv_cache_dtype": "fp8"})
    cells = [with_engine(plain()), with_engine(cell())]
    cells += [
        with_engine(small[0], kv_cache_dtype="fp8"),
        with_engine(small[1], kv_cache_dtype="fp8", slow=True),
    ]
    found = compared(write_run(tmp_path / "run", *cells))

    none, drafted = ([note for a in row.others if a for note in a.notes] for row in found.rows)
    assert not any("fp8" in note for note in none + drafted)
    assert sum("slow" in note for note in none) == 0
    assert sum("slow" in note for note in drafted) == 2  # the arguments and the resolved configuration
    assert found.columns[1].conditions["kv_cache_dtype"] == ("fp8",)


def test_one_run_is_compared_with_itself_across_its_variants(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", plain(), cell(), *of("short"), *of("other", worse=2))

    found = compared(run)
    text = as_text(document(found), None)

    assert [column.name for column in found.columns] == ["base", "other", "short"]
    assert [str(row.figures.entry.cell.drafter) for row in found.rows] == ["none", "ngram"]
    assert [len(row.others) for row in found.rows] == [2, 2]
    assert [a and a.verdict.kind for a in found.rows[1].others] == ["regressed", "identical"]
    assert not found.judged
    assert found.exit_code(strict=True) == 0
    assert "chat-en-instruct-ngram-k4" in text
    assert "95 % CI" in text


def test_a_stack_may_gate_across_its_variants(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", plain(), cell(), *of("other", worse=2), subject=("variant",))

    assert compared(run).exit_code(strict=False) == 1


def test_the_command_compares_the_variants_of_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", plain(), cell(), *of("short"))

    assert main(["compare", "--across", "variant", str(run)]) == 0
    assert "base → short" in capsys.readouterr().out


def test_one_run_is_compared_across_nothing_but_its_variants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", plain(), cell(), *of("short"))

    assert main(["compare", "--across", "varient", str(run)]) == 2
    assert "'variant'" in capsys.readouterr().err


def test_a_run_says_every_target_that_its_variants_have() -> None:
    text = report([plain(), *of("other", dtype="float32")])

    assert "target tiny bfloat16, tiny float32" in text


def test_a_run_of_one_variant_has_nothing_to_compare_across_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", plain(), cell())

    with pytest.raises(BadInput) as caught:
        by_variant(collect(run))

    assert caught.value.code == "no-cells"


def test_two_runs_pair_variant_by_variant(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, plain(), cell(), *of("short")) for name in ("old", "new")]

    found = compare([collect(run) for run in runs])

    assert [row.others[0] and str(row.others[0].figures.entry.cell) for row in found.rows] == [
        str(row.figures.entry.cell) for row in found.rows
    ]
    assert len(found.rows) == 4


def test_the_variant_is_a_column_of_files_where_it_is_used(tmp_path: Path) -> None:
    without = write_run(tmp_path / "without", plain(), cell())
    with_it = write_run(tmp_path / "with", plain(), *of("short"))

    assert "variant" not in long_rows(compare([collect(without)]))[0]
    header, rows = long_rows(compare([collect(with_it)]))
    assert {row[header.index("variant")] for row in rows} == {None, "short"}


# References


def test_a_reference_is_measured_without_a_drafter(tmp_path: Path) -> None:
    found = cells(made(tmp_path, BIG))
    reference = found[-1]

    assert [str(one) for one in found if one.name.reference] == ["chat-en-instruct-big-none"]
    assert (reference.spec.target.model, reference.spec.speculative) == ("org/big", None)
    assert reference.spec.args["gpu_memory_utilization"] == 0.5
    assert reference.spec.args["max-model-len"] == 2048
    assert CellName.model_validate(reference.name.model_dump()) == reference.name


def test_a_reference_is_never_paired() -> None:
    for old, new in ((plain(), beside()), (beside(), plain()), (beside(), beside())):
        with pytest.raises(Refused):
            pair(old, new, across=("variant", "target"))


def test_a_reference_is_a_row_without_verdict_and_no_reason_to_fail(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old", plain(), cell(), beside())
    new = write_run(tmp_path / "new", plain(), cell())
    found = compare([collect(old), collect(new)])

    assert [row.figures.entry.cell.reference for row in found.rows] == [False, False, True]
    assert found.rows[2].others == (None,)
    assert found.one_sided == (0,)
    assert found.exit_code(strict=True) == 0
    text = as_text(document(found), None)
    assert "chat-en-instruct-big-none (reference)" in text
    assert "only in" not in text
    assert compare([collect(new), collect(old)]).exit_code(strict=True) == 0


def test_a_run_marks_its_references() -> None:
    assert "chat-en-instruct-big-none (reference)" in report([plain(), cell(), beside()])


# The mechanism of a drafter that does not fit


def test_across_variants_a_note_says_whether_acceptance_fell_faster_at_depth(tmp_path: Path) -> None:
    rows = compared(write_run(tmp_path / "run", plain(), cell(), *of("again"), *of("other", worse=2))).rows
    again, other = (a.verdict.notes for a in rows[1].others if a)

    assert any("neither faster nor less" in note for note in again)
    assert any("position 0" in note for note in other)
    assert not any("position 0" in note for a in rows[0].others if a for note in a.verdict.notes)
