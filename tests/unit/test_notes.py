from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.judge.footnotes import holm_notes, subject_notes, weights_notes
from harness.judge.pairing import execution_notes
from harness.judge.verdict import Kind, Verdict, judge
from harness.report.run_table import report, verdict_report
from harness.results.conditions import Identity
from harness.results.records import CellRecord
from harness.stats import paired
from tests.factories import runs
from tests.factories.records import cell_name
from tests.factories.simulated import cell, drafter, worse


def judged(kind: Kind, p: float | None) -> Verdict:
    return Verdict(kind=kind, text="so it is", p=p)


def test_of_many_cells_the_clear_losses_stay_and_the_others_are_named_with_their_p() -> None:
    """Five p-values: the smallest counts five times, the second four times, and so on."""
    verdicts = [
        ("a", judged("regressed", 0.0001)),
        ("b", judged("ok", 0.5)),
        ("c", judged("regressed", 0.0009)),
        ("d", judged("identical", 1.0)),
        ("e", judged("inconclusive", 0.2)),
    ]
    [note] = holm_notes(verdicts)
    assert all(part in note for part in ("0.0012", "all 5 cells", "1 of 2 regressed", "c (p 0.0036)"))


def test_at_the_level_itself_a_loss_is_still_significant() -> None:
    verdicts = [("a", judged("regressed", paired.ALPHA_CELL / 2)), ("b", judged("ok", 0.3))]
    [note] = holm_notes(verdicts)
    assert "1 of 1 regressed" in note
    assert "(p" not in note


def test_of_many_names_three_are_given() -> None:
    verdicts = [(f"c{i}", judged("regressed", 0.0009)) for i in range(5)]
    [note] = holm_notes(verdicts)
    assert re.findall(r"c\d \(p 0\.0045\)", note) == [f"c{i} (p 0.0045)" for i in range(3)]
    assert "2 more" in note


@pytest.mark.parametrize(
    "verdicts",
    [
        [],
        [("a", judged("regressed", 0.0001))],
        [("a", judged("ok", 0.0001)), ("b", judged("ok", 0.5))],
        [("a", judged("regressed", None)), ("b", judged("regressed", None))],
        [("a", judged("regressed", 0.0001)), ("b", judged("invalid", None))],
    ],
    ids=["nothing", "one cell", "no loss", "several looks", "one that was judged"],
)
def test_without_a_loss_among_several_cells_there_is_nothing_to_say(
    verdicts: list[tuple[str, Verdict]],
) -> None:
    assert holm_notes(verdicts) == []


def test_the_report_of_a_run_says_it_and_changes_no_verdict() -> None:
    lost, same = cell(worse(drafter(3), 0.1)), cell(drafter(3), cell=cell_name(language="zh"))
    p = paired.ALPHA_CELL / 1.5
    text = verdict_report([(lost, judged("regressed", p)), (same, judged("identical", 1.0))])
    assert "0 of 1 regressed" in text
    assert "chat-en-instruct-ngram-k4 (p 0.0016)" in text
    assert "▼ chat-en-instruct-ngram-k4: so it is" in text


def test_what_is_wrong_with_all_cells_alike_is_said_once_and_no_table_compares_nothing() -> None:
    nothing = Verdict(kind="invalid", text="no baseline in there")
    text = verdict_report(
        [(cell(drafter(3)), nothing), (cell(drafter(3), cell=cell_name(language="zh")), nothing)]
    )
    assert text == "✗ all 2 cells: no baseline in there"


def with_weights(name: str, weights: str | None) -> CellRecord:
    return cell(drafter(3), subject={"drafter": name, "engine": "0.32.0", "weights": weights})


def test_two_names_for_the_same_weights_are_noted_as_one_drafter() -> None:
    old, new = with_weights("round1", "abcd"), with_weights("round2", "abcd")
    [note] = weights_notes(old, new)
    assert all(part in note for part in ("round1", "round2", "abcd"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("round1", "abcd"), ("round2", "beef")),
        (("round1", "abcd"), ("round1", "abcd")),
        (("ngram", None), ("suffix", None)),
        (("round1", "unverified"), ("round2", "unverified")),
    ],
)
def test_other_weights_one_name_or_weights_that_are_not_known_say_nothing(
    old: tuple[str, str | None], new: tuple[str, str | None]
) -> None:
    assert weights_notes(with_weights(*old), with_weights(*new)) == []


def test_different_paths_of_the_engine_stand_below_the_speed_up() -> None:
    paths = {"model_runner": "V2", "async_scheduling": True, "max_model_len": 2048}
    runs = (paths, paths | {"model_runner": "V1", "async_scheduling": False, "attention": "FLASH_ATTN"})
    none, drafted = cell(drafter(1)), cell(drafter(1))
    none = none.model_copy(update={"cell": cell_name(drafter="none", k=0)})
    two = [
        one.model_copy(update={"subject": one.subject.model_copy(update={"execution": how})})
        for one, how in zip((none, drafted), runs, strict=True)
    ]

    (note,) = execution_notes(*two)
    assert all(part in note for part in ("async scheduling", "model runner", "V2", "V1"))
    assert not any(part in note for part in ("2048", "FLASH_ATTN"))
    assert f"speed-up: {note}" in report(two)
    assert "speed-up: " not in report([two[0], two[0]])
    assert note in judge(*two).notes
    assert not any("paths" in note for note in judge(two[0], two[0]).notes)
    unverified = two[1].subject.model_copy(update={"execution": "unverified"})
    assert execution_notes(two[0], two[1].model_copy(update={"subject": unverified})) == []


@pytest.mark.parametrize("v1", [{"model_runner": "V1", "async_scheduling": False}, {"attention": [1, 3]}, {}])
def test_different_paths_are_said_wherever_a_speed_up_is_shown(
    tmp_path: Path, v1: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    v2 = {"model_runner": "V2", "async_scheduling": True, "attention": [1, 2]}
    drafts = {"drafter": "ngram", "k": 4, "engine": "0.32.0", "settings": {}, "method": "ngram"}
    none = runs.plain(seconds=4.0, subject={**drafts, "drafter": "none", "k": 0, "execution": v2})
    drafted = runs.cell(subject={**drafts, "execution": v2 | v1})
    run = runs.write_run(tmp_path / "run", none, drafted)
    notes = execution_notes(none, drafted)
    assert len(notes) == bool(v1)
    note = "".join(notes).partition(":")[0] or "different paths"
    said = []
    for words in (["compare"], ["recipe"], ["report"], ["compare", "--format", "svg"]):
        file = tmp_path / "out.svg"
        written = ["--output", str(file)] if words[-1] in ("svg", "report") else ["--wide"]
        assert main([*words, str(run), *written]) == 0
        shown = capsys.readouterr().out
        said.append(note in (file.read_text(encoding="utf-8") if "--output" in written else shown))
    assert said == [bool(v1)] * 4


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"logits_processors": ["waits:Waits"]}, '{} -> {"logits_processors": ["waits:Waits"]}'),
        (
            {"compilation_config": {"mode": 3, "cudagraph_mode": "FULL", "sizes": [1, 2, 4, 8, 16, 32, 64]}},
            '{"compilation_config": {"mode": 0}} -> {"compilation_config": {"mode": 3}}',
        ),
        ({"compilation_config": "O2"}, None),
    ],
)
def test_of_two_engines_settings_only_what_differs_is_said(more: dict[str, Any], said: str | None) -> None:
    """However long the rest of them is."""
    rest = {"compilation_config": {"mode": 0, "cudagraph_mode": "FULL", "sizes": [1, 2, 4, 8, 16, 32, 64]}}
    sides = [cell(drafter(3), subject={"engine_args": args}) for args in (rest, rest | more)]
    [note] = [note for note in subject_notes(*sides) if note.startswith("engine args")]
    before = json.dumps(rest)[:77] + "..."
    assert note == f"engine args: {said or before + ' -> ' + json.dumps(more)}"


def test_another_way_to_verify_drafts_is_refused_unless_it_is_the_subject() -> None:
    exact = cell(drafter(20))
    fly = Identity(**exact.identity.model_dump(), verification="fly")
    lossy = exact.model_copy(update={"identity": fly})

    assert "verification differs" in judge(exact, lossy).text
    assert judge(lossy, lossy).kind == "identical"
    assert judge(exact, lossy, across=("verification",)).kind == "identical"
