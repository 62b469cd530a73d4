"""`draftgate import`, on files that the other tools wrote against a real engine (tests/data/imports)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.judge.collect import collect
from harness.judge.compare import Comparison, compare
from harness.measure.validity import total
from harness.results.description import Description
from harness.results.records import CellRecord, load
from tests.factories.runs import cell, write_run

DATA = Path(__file__).parents[1] / "data" / "imports"
AIPERF, GUIDELLM = "aiperf/profile_export.jsonl", "guidellm.json"
CELL = "imported/chat-any-any-{}-k4.json"

Import = Callable[..., CellRecord]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the files, to damage."""
    monkeypatch.chdir(tmp_path)
    for drafter in DATA.glob("*/"):
        shutil.copytree(drafter, drafter.name)


@pytest.fixture
def imported(capsys: pytest.CaptureFixture[str]) -> Import:
    def one(file: str, *, drafter: str = "eagle3r1", output: str = "run", name: str = "") -> CellRecord:
        code = main(["import", f"{drafter}/{file}", "--output", output, "--drafter", name or drafter])
        assert code == 0, capsys.readouterr().err
        return load(Path(output) / CELL.format(name or drafter), CellRecord)

    return one


def compared(*runs: str, across: tuple[str, ...] = ()) -> Comparison:
    return compare([collect(Path(run)) for run in runs], across=across)


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def change(path: str, edit: Callable[[Any], None], *, line: int | None = None) -> None:
    """Edit a JSON file, or one line of JSON lines."""
    if line is None:
        data = json.loads(Path(path).read_text())
        edit(data)
        Path(path).write_text(json.dumps(data))
        return
    rows = lines(path)
    edit(rows[line])
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


# Requests into cells


@pytest.mark.parametrize("file", [AIPERF, GUIDELLM])
def test_a_cell_has_the_counts_of_the_file(imported: Import, file: str) -> None:
    record = imported(file)
    told = [row["spec_decode_acceptance"] for row in lines(f"eagle3r1/{AIPERF}")]

    sums = total(record.prompts)
    assert record.valid
    assert sums.verify_steps == sum(one["num_spec_steps"] for one in told)
    assert sums.accepted == sum(one["num_accepted_draft_tokens"] for one in told)
    assert sums.drafted == sum(one["num_draft_tokens"] for one in told)
    assert sums.output_tokens == sum(one["completion_tokens"] for one in told)
    assert all(r.committed and r.text and r.ttft_s and r.total_s for r in record.prompts)


@pytest.mark.parametrize("file", [AIPERF, GUIDELLM])
def test_the_identity_says_who_measured_and_nothing_that_the_file_does_not(
    imported: Import, file: str
) -> None:
    record = imported(file)

    tool = "aiperf" if file == AIPERF else "guidellm"
    assert record.identity.as_given() == {
        "imported": tool, "endpoint": "chat", "target": "smollm2-135m-instruct",
        "sampling": {"temperature": 0}, "max_tokens": 48, "concurrency": 1, "metric_version": 1,
    }  # fmt: skip
    assert record.provenance["imported"]["version"] == ("0.13.0" if file == AIPERF else "0.8.1")
    assert all(r.token_ids is None for r in record.prompts)


def test_two_tools_that_asked_one_server_the_same_agree(imported: Import) -> None:
    imported(AIPERF, output="a")
    imported(GUIDELLM, output="b")

    (row,) = compared("a", "b", across=("imported",)).rows
    (pair,) = row.others
    assert pair
    assert (pair.verdict.kind, pair.verdict.prompts, pair.verdict.same_text) == ("identical", 8, 8)
    (row,) = compared("a", "b").rows
    assert row.others[0]
    assert "imported differs" in row.others[0].verdict.text


@pytest.mark.parametrize("file", [AIPERF, GUIDELLM])
def test_two_drafters_get_a_paired_verdict(imported: Import, file: str) -> None:
    imported(file, drafter="ngram", output="old")
    imported(file, drafter="eagle3r1", output="new")

    (row,) = compared("old", "new").rows
    (pair,) = row.others
    assert pair
    assert pair.verdict.primary
    assert (pair.verdict.prompts, pair.verdict.same_text) == (8, 8)
    assert pair.verdict.kind == "improved"
    assert row.figures.tok_s
    assert not pair.same_environment  # nobody knows on which machine


def test_an_import_is_not_judged_by_what_was_measured(imported: Import) -> None:
    imported(AIPERF)
    (measured,) = write_run(Path("measured"), cell()).rglob("chat*.json")

    (row,) = compared(str(measured), f"run/{CELL.format('eagle3r1')}").rows
    assert row.others[0]
    assert row.others[0].verdict.kind == "invalid"


def test_without_the_files_beside_it_texts_are_not_known() -> None:
    for name in ("inputs.json", "outputs.json", "profile_export_aiperf.json"):
        Path("eagle3r1/aiperf", name).unlink()
    for run in ("run", "again"):
        assert main(["import", f"eagle3r1/{AIPERF}", "--output", run, "--drafter", "eagle3r1"]) == 0
    record = load(Path("run/imported/any-any-any-eagle3r1-k4.json"), CellRecord)

    assert record.identity.as_given() == {
        "imported": "aiperf", "endpoint": "any", "sampling": {}, "metric_version": 1,
    }  # fmt: skip
    (row,) = compared("run", "again").rows
    assert row.others[0]
    assert (row.others[0].verdict.kind, row.others[0].verdict.same_text) == ("identical", None)


def test_texts_that_nobody_knows_are_not_the_same(imported: Import) -> None:
    Path("eagle3r1/aiperf/outputs.json").unlink()
    record = imported(AIPERF)
    imported(AIPERF, output="again")

    assert {(r.text, r.text_hash) for r in record.prompts} == {("", "")}
    assert not {f.code for f in record.findings} & {"no-text", "loops"}
    (row,) = compared("run", "again").rows
    assert row.others[0]
    assert row.others[0].verdict.same_text is None


def test_a_failed_request_makes_the_cell_invalid_and_a_cancelled_one_is_left_out(imported: Import) -> None:
    path = f"eagle3r1/{AIPERF}"
    change(path, lambda row: row["metadata"].update(was_cancelled=True), line=0)
    change(path, lambda row: row["metadata"].update(benchmark_phase="warmup"), line=1)
    record = imported(AIPERF)
    assert record.valid
    assert (len(record.prompts), record.warmups) == (6, 1)

    change(path, lambda row: row.update(error={"type": "TimeoutError", "message": "late"}), line=2)
    again = imported(AIPERF, output="again")
    assert not again.valid
    assert "TimeoutError" in again.why_invalid


def test_a_request_without_its_acceptance_among_others_makes_the_cell_invalid(imported: Import) -> None:
    change(f"eagle3r1/{AIPERF}", lambda row: row.pop("spec_decode_acceptance"), line=3)

    assert "no acceptance" in imported(AIPERF).why_invalid


def test_steps_that_do_not_make_the_tokens_are_found(imported: Import) -> None:
    def longer(row: dict[str, Any]) -> None:
        row["metrics"]["usage_completion_tokens"]["value"] = 20

    change(f"eagle3r1/{AIPERF}", longer, line=3)

    assert "do not make its tokens" in imported(AIPERF).why_invalid


def test_each_benchmark_of_a_report_is_a_cell(imported: Import) -> None:
    def twice(report: dict[str, Any]) -> None:
        other = json.loads(json.dumps(report["benchmarks"][0]))
        other["config"]["strategy"] = {"type_": "concurrent", "streams": 4}
        report["benchmarks"].append(other)

    change(f"eagle3r1/{GUIDELLM}", twice)
    assert main(["import", f"eagle3r1/{GUIDELLM}", "--output", "run", "--drafter", "x"]) == 0

    found = {
        entry.suite: load(entry.path, CellRecord).identity.concurrency
        for entry in collect(Path("run")).entries
    }
    assert found == {"imported/1-synchronous": 1, "imported/2-concurrent": 4}


def test_a_prompt_that_was_asked_twice_is_repeated(imported: Import) -> None:
    rows = lines(f"eagle3r1/{AIPERF}")
    Path(f"eagle3r1/{AIPERF}").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))

    assert [r.repeat for r in imported(AIPERF).prompts].count(1) == 1


def _first_body(edit: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Edits what AIPerf says that it asked first."""
    return lambda inputs: edit(inputs["data"][0]["payloads"][0])


@pytest.mark.parametrize(
    "edit",
    [
        lambda body: body.update(temperature="0", model=None, seed="x", max_tokens="48"),
        lambda body: body.update(messages="hello"),
        lambda body: body.update(messages=["hello", None]),
        lambda body: body.update(messages=[{"role": "user", "content": [{"type": "text", "text": None}]}]),
        lambda body: (body.pop("messages"), body.update(prompt=[1, 2, 3])),
        lambda body: body.clear(),
    ],
)
def test_an_odd_request_is_no_traceback(imported: Import, edit: Callable[[dict[str, Any]], None]) -> None:
    change("eagle3r1/aiperf/inputs.json", _first_body(edit))

    assert imported(AIPERF).valid


def test_k_is_what_steps_show_where_the_engine_names_less(imported: Import) -> None:
    def less(row: dict[str, Any]) -> None:
        row["spec_decode_acceptance"]["num_spec_tokens"] = 2

    for line in range(8):
        change(f"eagle3r1/{AIPERF}", less, line=line)

    assert imported(AIPERF).cell.k == 4


def test_histograms_alone_are_enough_for_a_verdict(imported: Import) -> None:
    def summary(row: dict[str, Any]) -> None:
        row["spec_decode_acceptance"].update(per_step_accepted=None, per_step_drafted=None)

    for line in range(8):
        change(f"eagle3r1/{AIPERF}", summary, line=line)
    record = imported(AIPERF, output="new")
    imported(AIPERF, drafter="ngram", output="old")

    assert {r.accepted for r in record.prompts} == {None}
    assert "single steps" in next(f.text for f in record.findings if f.code == "imported")
    (row,) = compared("old", "new").rows
    assert row.others[0]
    assert row.others[0].verdict.kind == "improved"


def test_without_max_tokens_nobody_knows_how_an_answer_ended(imported: Import) -> None:
    def without(inputs: dict[str, Any]) -> None:
        for one in inputs["data"]:
            del one["payloads"][0]["max_tokens"]

    change("eagle3r1/aiperf/inputs.json", without)
    record = imported(AIPERF)

    assert {r.finish for r in record.prompts} == {"stop"}
    assert "counts as stopped" in next(f.text for f in record.findings if f.code == "imported")


def test_none_is_a_cell_where_the_user_says_so(imported: Import) -> None:
    def without(report: dict[str, Any]) -> None:
        for one in report["benchmarks"][0]["requests"]["successful"]:
            one["response_metrics"] = None

    change(f"eagle3r1/{GUIDELLM}", without)
    assert main(["import", f"eagle3r1/{GUIDELLM}", "--output", "run", "--drafter", "none"]) == 0

    record = load(Path("run/imported/chat-any-any-none.json"), CellRecord)
    assert total(record.prompts).tokens_per_step == 1


# Descriptions


def test_a_result_of_vllm_bench_is_described_and_never_paired(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "eagle3r1/vllm-bench.json", "--output", "run"]) == 0

    data = json.loads(Path("eagle3r1/vllm-bench.json").read_text())
    found = load(Path("run/described/vllm-bench.json"), Description)
    assert (found.drafts, found.accepted) == (
        data["spec_decode_num_drafts"], data["spec_decode_accepted_tokens"],
    )  # fmt: skip
    assert f"{data['spec_decode_acceptance_length']:.2f}" in capsys.readouterr().out
    for path in ("run", "run/described/vllm-bench.json"):
        assert main(["compare", path, path]) == 2
        assert found.why_not_paired in capsys.readouterr().err


def test_two_scrapes_are_described_by_what_the_server_counted_between() -> None:
    assert (
        main(["import", *(f"eagle3r1/metrics-{at}.txt" for at in ("before", "after")), "--output", "run"])
        == 0
    )

    found = load(Path("run/described/metrics-before.txt.json".replace(".txt", "")), Description)
    assert found.drafts == 582
    assert found.accepted == 807
    assert found.acceptance
    assert sum(found.acceptance) * found.drafts == pytest.approx(found.accepted)


# What cannot be imported


def _cut(path: str) -> None:
    text = Path(path).read_text()
    Path(path).write_text(text[: len(text) * 2 // 3])


def _write(text: str) -> Callable[[str], None]:
    return lambda path: Path(path).write_text(text) and None


def _first(edit: Callable[[Any], None]) -> Callable[[str], None]:
    return lambda path: change(path, edit, line=0)


def _negative(row: dict[str, Any]) -> None:
    row["spec_decode_acceptance"]["acceptance_histogram"]["0"] = -1


def _other_steps(row: dict[str, Any]) -> None:
    row["spec_decode_acceptance"]["per_step_accepted"][0] = 0


def _no_stats(report: dict[str, Any]) -> None:
    del report["benchmarks"][0]["requests"]["successful"][2]["output_metrics"]


def _half(path: str) -> None:
    change(path, lambda answers: answers["data"][0].update(response_text="\ud800"))


def _only(path: str, edit: Callable[[Any], None]) -> None:
    """Leaves the first line of a file, edited."""
    Path(path).write_text(json.dumps(lines(path)[0]) + "\n")
    change(path, edit, line=0)


def _no_drafts(row: dict[str, Any]) -> None:
    row["spec_decode_acceptance"] = {"acceptance_histogram": {}}


def _no_time(result: dict[str, Any]) -> None:
    result["duration"] = -1


def _no_body(report: dict[str, Any]) -> None:
    report["benchmarks"][0]["requests"]["successful"][2]["request_args"] = "{"


@pytest.mark.parametrize(
    ("file", "damage", "code", "says"),
    [
        (AIPERF, _cut, "damaged-file", "line 6"),
        (AIPERF, _write(""), "damaged-file", "empty"),
        (AIPERF, _first(_negative), "damaged-file", "line 1, field spec_decode_acceptance"),
        (AIPERF, _first(_other_steps), "damaged-file", "line 1"),
        (AIPERF, _first(lambda row: row["metadata"].pop("session_num")), "damaged-file", "session_num"),
        (AIPERF, _first(lambda row: row["metrics"].clear()), "damaged-file", "line 1, field metrics"),
        (AIPERF, _write('{"metadata": {}, "metrics": {}}\n'), "damaged-file", "line 1, field metadata"),
        ("aiperf/inputs.json", _cut, "damaged-file", "inputs.json"),
        ("aiperf/outputs.json", _half, "damaged-file", "surrogate"),
        (AIPERF, lambda path: _only(path, _no_drafts), "import-nothing", "not one draft"),
        (GUIDELLM, _cut, "damaged-file", "cut off"),
        (GUIDELLM, _write("[]"), "import-file", "GuideLLM's JSON"),
        (GUIDELLM, _write('{"benchmarks": [], "metadata": {}}'), "import-nothing", "no benchmark"),
        (GUIDELLM, lambda path: change(path, _no_stats), "damaged-file", "successful.2.output_metrics"),
        (GUIDELLM, lambda path: change(path, _no_body), "damaged-file", "request_args"),
        ("vllm-bench.json", lambda path: change(path, _no_time), "damaged-file", "duration"),
        ("vllm-bench.json", _write("\x00\x01"), "import-file", "not a file that draftgate imports"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], file: str, damage: Callable[[str], None], code: str, says: str
) -> None:
    damage(f"eagle3r1/{file}")
    words = [] if "bench" in file else ["--drafter", "x"]
    asked = AIPERF if file.startswith("aiperf") else file

    refused(capsys, f"eagle3r1/{asked}", *words, code=code, says=says)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (
            [f"eagle3r1/{AIPERF}", f"eagle3r1/{GUIDELLM}", "--drafter", "x"],
            "import-file",
            "files of one tool",
        ),
        (["eagle3r1/aiperf/inputs.json"], "import-file", "beside it lies"),
        (["eagle3r1/aiperf/profile_export_aiperf.json"], "import-file", "beside it lies"),
        (["eagle3r1"], "import-file", "folder"),
        (["eagle3r1/guidelm.json"], "import-file", "did you mean"),
        ([f"eagle3r1/{AIPERF}"], "import-drafter", "--drafter"),
        ([f"eagle3r1/{AIPERF}", "--drafter", "none"], "import-drafter", "--drafter"),
        ([f"eagle3r1/{AIPERF}", "--drafter", "../x"], "import-drafter", "not a name"),
        ([f"eagle3r1/{AIPERF}", f"eagle3r1/{AIPERF}", "--drafter", "x"], "would-overwrite", "there already"),
        (["eagle3r1/metrics-before.txt"], "import-file", "it takes two"),
        (
            ["eagle3r1/metrics-after.txt", "eagle3r1/metrics-before.txt"],
            "import-file",
            "earlier scrape first",
        ),
        (["eagle3r1/vllm-bench.json", "--drafter", "x"], "import-file", "leave it out"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], code: str, says: str
) -> None:
    refused(capsys, *words, code=code, says=says)


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: str, says: str) -> None:
    ended = main(["import", *words, "--output", "out"])
    out, err = capsys.readouterr()
    assert (ended, out, err.count("\n")) == (2, "", 1), err
    assert err.endswith(f" [{code}]\n")
    assert says in err
    assert not Path("out").exists()


def test_no_acceptance_is_said_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    path = f"eagle3r1/{AIPERF}"
    Path(path).write_text(
        "".join(json.dumps({**row, "spec_decode_acceptance": None}) + "\n" for row in lines(path))
    )

    refused(capsys, path, "--drafter", "x", code="import-nothing", says="--per-request-spec-decode-metrics")


def test_a_run_that_was_measured_is_not_added_to(
    imported: Import, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(Path("measured"), cell())
    before = sorted(Path("measured").rglob("*"))

    assert main(["import", f"eagle3r1/{GUIDELLM}", "--output", "measured", "--drafter", "x"]) == 2
    assert "[would-overwrite]" in capsys.readouterr().err
    assert sorted(Path("measured").rglob("*")) == before


def test_a_second_drafter_is_added_to_an_imported_run(imported: Import) -> None:
    imported(AIPERF, name="one")
    imported(AIPERF, name="other")

    assert {entry.cell.drafter for entry in collect(Path("run")).entries} == {"one", "other"}


@pytest.mark.parametrize("file", [AIPERF, GUIDELLM])
def test_turns_of_a_conversation_are_one_unit(imported: Import, file: str) -> None:
    def later_turns(data: Any) -> None:
        infos = [one["info"] for one in data["benchmarks"][0]["requests"]["successful"]]
        for turn, info in enumerate(infos[:3]):
            info |= {"conversation_id": "c", "turn_index": turn}

    if file == GUIDELLM:
        change(f"eagle3r1/{file}", later_turns)
    else:
        for turn in range(3):
            change(
                f"eagle3r1/{file}",
                lambda data, turn=turn: data["metadata"].update(conversation_id="c", turn_index=turn),
                line=turn,
            )
    prompts = imported(file).prompts
    later = [r for r in prompts if r.conversation]
    assert len(later) == 2
    assert len({r.unit for r in prompts}) == len(prompts) - 2
