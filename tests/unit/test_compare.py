from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BadInput, BadRecord
from harness.judge.collect import Entry, collect, match
from harness.judge.compare import Comparison, compare
from harness.judge.speedup import SpeedRecord, write as write_speed
from harness.report.labels import Labels
from harness.results.records import CellRecord, Finding, dump_cell, load
from tests.factories.records import cell_name
from tests.factories.runs import answer, cell, plain, write_cell, write_run

pytestmark = pytest.mark.usefixtures("here")


def names(entries: tuple[Entry, ...]) -> list[str]:
    return [str(e.cell) for e in entries]


def paired(base: Path, new: Path, *across: str) -> list[tuple[str, str]]:
    pairs = match(collect(base), collect(new), across=across).pairs
    return [(str(a.cell), str(b.cell)) for a, b in pairs]


def compared(*paths: Path, across: tuple[str, ...] = ()) -> Comparison:
    return compare([collect(path) for path in paths], across=across)


# What is a cell


def test_a_folder_holds_cells_in_any_depth_and_nothing_else() -> None:
    run = write_run(Path("run"), cell(), cell("zh", k=10), cell("zh", k=2), plain("zh"))
    (run / ".acceptance.json").write_text("{", encoding="utf-8")
    (run / "acceptance" / "chat-en-instruct-ngram-k4.anchor.json").write_text("{", encoding="utf-8")
    (run / "acceptance" / "chat-en-instruct-ngram-k4.jsonl").write_text("{", encoding="utf-8")
    write_cell(run / ".hidden", cell("en", "suffix"))
    expected = [
        "chat-en-instruct-ngram-k4",
        "chat-zh-instruct-none",
        "chat-zh-instruct-ngram-k2",
        "chat-zh-instruct-ngram-k10",
    ]
    assert names(collect(run).entries) == names(collect(Path()).entries) == expected


def test_a_cell_file_that_somebody_formatted_is_read_too() -> None:
    Path("cell.json").write_text(cell().model_dump_json(by_alias=True), encoding="utf-8")
    assert names(collect(Path("cell.json")).entries) == ["chat-en-instruct-ngram-k4"]


def test_speed_ups_are_not_cells_and_are_counted() -> None:
    starts = ("speed/00", "throughput/00/0-old", "curve/once/01", "curve/pairs/ngram/00/01",
              "curve/scheduled/ngram/00/01")  # fmt: skip
    run = write_run(Path("run"), cell(), *(cell(suite=suite) for suite in starts))
    record = SpeedRecord(
        stack="tiny", profile="gate", cell=cell_name(), identity={}, subject={}, environment={},
        provenance={}, ratios=(1.2, 1.3),
    )  # fmt: skip
    write_speed(run / "speed" / "chat-en-instruct-ngram-k4.json", record)
    side = collect(run)
    assert len(side.entries) == 1
    assert side.notes == ("6 files of speed-ups over pairs of starts are not compared here",)
    with pytest.raises(BadInput, match="holds no cell \\(2 files of speed-ups"):
        collect(run / "speed")


def test_an_unfinished_run_is_noted() -> None:
    run = write_run(Path("run"), cell(), finished=False)
    assert "run: the run is not finished" in compared(run, run).notes[0]


# Pairing


def test_cells_pair_by_name_and_the_rest_is_listed() -> None:
    a = write_run(Path("a"), plain(), cell(), cell("zh"))
    b = write_run(Path("b"), plain(), cell(), cell(endpoint="raw"))
    found = match(collect(a), collect(b))
    assert [(str(x.cell), str(y.cell)) for x, y in found.pairs] == [
        ("chat-en-instruct-none", "chat-en-instruct-none"),
        ("chat-en-instruct-ngram-k4", "chat-en-instruct-ngram-k4"),
    ]
    assert names(found.base_only) == ["chat-zh-instruct-ngram-k4"]
    assert names(found.new_only) == ["raw-en-instruct-ngram-k4"]
    notes = compared(a, b).notes
    assert "only in a, not in b: chat-zh-instruct-ngram-k4" in notes
    assert "only in b, not in a: raw-en-instruct-ngram-k4" in notes


def test_suites_tell_cells_of_one_name_apart() -> None:
    a = write_run(Path("a"), cell(), cell(suite="other"))
    b = write_run(Path("b"), cell(suite="other"), cell())
    pairs = match(collect(a), collect(b)).pairs
    assert [(x.suite, y.suite) for x, y in pairs] == [("acceptance", "acceptance"), ("other", "other")]
    one = write_run(Path("one"), cell(suite="third"))
    assert len(match(collect(write_run(Path("two"), cell())), collect(one)).pairs) == 1


def test_a_run_finds_its_profile_and_device_among_baselines() -> None:
    for device in ("cpu", "gpu"):
        for profile in ("quick", "gate"):
            gpus = [{"name": "GPU"}] if device == "gpu" else []
            record = cell(profile=profile, environment={"cpu": "A CPU", "gpus": gpus})
            write_cell(Path("baselines", "tiny", device, profile, "acceptance"), record)
    run = write_run(Path("run"), cell(profile="gate", environment={"cpu": "Another", "gpus": []}))
    ((old, _),) = match(collect(Path("baselines")), collect(run)).pairs
    assert (old.device, old.profile) == ("cpu", "gate")


def test_cells_that_cannot_be_told_apart_are_refused() -> None:
    for name in ("1", "2"):
        write_run(Path("runs", name), cell())
    with pytest.raises(BadInput, match=r"runs holds 2 cells named chat-en-instruct-ngram-k4 .*narrower"):
        compared(Path("runs"), write_run(Path("b"), cell()))


def test_the_only_drafter_of_each_side_is_set_side_by_side() -> None:
    a = write_run(Path("a"), plain(), cell("en", "eagle", 4))
    b = write_run(Path("b"), plain(), cell("en", "suffix", 2))
    assert paired(a, b) == [
        ("chat-en-instruct-none", "chat-en-instruct-none"),
        ("chat-en-instruct-eagle-k4", "chat-en-instruct-suffix-k2"),
    ]
    row = compared(a, b).rows[1]
    assert row.others[0]
    assert [p.index for p in row.others[0].positions] == [0, 1]


def test_of_several_drafters_none_is_taken_for_another() -> None:
    a = write_run(Path("a"), cell("en", "eagle"), cell("zh"))
    b = write_run(Path("b"), cell("en", "suffix", 2), cell("en", "suffix", 4), cell("zh"))
    assert paired(a, b) == [("chat-zh-instruct-ngram-k4", "chat-zh-instruct-ngram-k4")]


def test_a_drafter_is_not_set_against_none_that_has_its_own_partner() -> None:
    a = write_run(Path("a"), plain())
    b = write_run(Path("b"), plain(), cell())
    assert paired(a, b) == [("chat-en-instruct-none", "chat-en-instruct-none")]


def test_single_files_are_always_paired() -> None:
    a, b = write_cell(Path("a"), cell()), write_cell(Path("b"), cell("zh", "suffix", 2))
    assert paired(a, b) == [("chat-en-instruct-ngram-k4", "chat-zh-instruct-suffix-k2")]
    with pytest.raises(BadInput, match="language is en in one and zh in the other"):
        compared(a, Path("b"))


def test_across_an_axis_cells_pair_without_it() -> None:
    a, b = write_run(Path("a"), plain(), cell()), write_run(Path("b"), plain("zh"), cell("zh"))
    assert paired(a, b, "language") == [
        ("chat-en-instruct-none", "chat-zh-instruct-none"),
        ("chat-en-instruct-ngram-k4", "chat-zh-instruct-ngram-k4"),
    ]


# What is said of a pair


def only(comparison: Comparison) -> Any:
    (row,) = comparison.rows
    (against,) = row.others
    assert against
    return against


def pair_of(old: CellRecord, new: CellRecord, *across: str) -> Any:
    return only(compared(write_cell(Path("a"), old), write_cell(Path("b"), new), across=across))


def test_across_gives_no_verdict_but_the_change() -> None:
    a = write_cell(Path("a"), cell())
    b = write_cell(Path("b"), cell(worse=3, identity={"quantization": "fp8"}))
    refused = compared(a, b)
    assert refused.exit_code(strict=False) == 2
    assert "quantization differs" in only(refused).verdict.text
    result = compared(a, b, across=("quantization",))
    assert result.exit_code(strict=True) == 0
    assert only(result).verdict.change == pytest.approx(-0.1175, abs=1e-4)


def test_a_lossy_way_to_verify_drafts_is_compared_where_the_comparison_is_about_it() -> None:
    lossy = Finding.fatal("lossy-verification", "it accepts what the target rejects")
    exact, fly = cell(), cell(worse=3, identity={"verification": "fly"}, findings=(lossy,))
    a, b = write_cell(Path("a"), exact), write_cell(Path("b"), fly)
    assert compared(a, b).exit_code(strict=False) == compared(b, b).exit_code(strict=False) == 2
    result = compared(a, b, across=("verification",))
    assert only(result).verdict.change == pytest.approx(-0.1175, abs=1e-4)
    assert result.exit_code(strict=True) == 0


def test_across_is_judged_where_every_new_side_declares_it() -> None:
    fp8 = {"quantization": "fp8"}
    base = write_run(Path("base"), cell())
    declared = write_run(Path("declared"), cell(worse=3, identity=fp8), subject=("quantization", "dtype"))
    silent = write_run(Path("silent"), cell(worse=3, identity=fp8))
    assert compared(base, declared, across=("quantization",)).exit_code(strict=False) == 1
    assert compared(base, declared, silent, across=("quantization",)).exit_code(strict=False) == 0
    assert compared(base, declared, across=("quantization", "max_tokens")).exit_code(strict=False) == 0
    alone = declared / "acceptance" / "chat-en-instruct-ngram-k4.json"
    assert not compared(base, alone, across=("quantization",)).judged


def test_the_geomean_is_of_ratios_over_cells_with_both_sides() -> None:
    a = write_run(Path("a"), cell(), cell("zh"), cell(endpoint="raw"))
    b = write_run(Path("b"), cell(worse=3), cell("zh"))
    result = compared(a, b)
    mean, cells = result.geomean(0) or (0.0, 0)
    assert cells == 2
    assert 1 + mean == pytest.approx((1 + only_change(result)) ** 0.5)
    assert result.one_sided == (1,)


def only_change(result: Comparison) -> float:
    first = result.rows[0].others[0]
    assert first
    assert first.verdict.change is not None
    return first.verdict.change


def test_speed_up_is_over_none_of_the_same_run_also_for_a_single_file() -> None:
    a = write_run(Path("a"), plain(seconds=4.0), cell())
    single = a / "acceptance" / "chat-en-instruct-ngram-k4.json"
    figures = [compared(path, path).rows[-1].figures for path in (a, single)]
    tokens = sum(r.output_tokens for r in load(single, CellRecord).prompts)
    expected = tokens / (24 * 2.0) / (31 / 4.0)
    assert [f.speed_up for f in figures] == pytest.approx([expected, expected])


def test_a_cell_of_loops_is_marked_and_has_no_speed_up() -> None:
    loops = Finding(code="mostly-loops", hard=False, text="20 of 24 answers end in a loop")
    stuck = write_run(Path("a"), cell(findings=(loops,)), cell("zh"), plain(), plain("zh", findings=(loops,)))
    compared_rows = compared(stuck, stuck)
    by_name = {Labels(compared_rows).row(row): row.figures.speed_up for row in compared_rows.rows}

    assert by_name == {
        "chat-en-instruct-ngram-k4 ↻": None,
        "chat-en-instruct-none": None,
        "chat-zh-instruct-ngram-k4": None,
        "chat-zh-instruct-none ↻": None,
    }


def test_without_none_or_times_there_is_no_speed_up() -> None:
    assert compared(path := write_run(Path("a"), cell()), path).rows[0].figures.speed_up is None
    untimed = tuple(answer(i, began_s=None, ttft_s=None, total_s=None) for i in range(24))
    b = write_run(Path("b"), plain(), cell(prompts=untimed))
    assert compared(b, b).rows[1].figures.tok_s is None


def test_another_environment_is_noted_and_keeps_speeds_apart() -> None:
    found = pair_of(cell(), cell(environment={"cpu": "Another", "threads": 2, "gpus": []}))
    assert not found.same_environment
    assert found.notes == (
        "another environment: cpu was A CPU, is Another",
        "speed is not compared across environments",
    )


def test_prompts_without_partner_other_seeds_and_other_settings_are_noted() -> None:
    new = tuple(answer(i, seed=8) for i in range(23))
    subject = {"drafter": "ngram", "engine": "0.33.0", "settings": {"n": 2}}
    found = pair_of(cell(temperature=0.7), cell(temperature=0.7, prompts=new, subject=subject))
    assert found.notes == (
        "settings of the drafter differ: n null -> 2",
        "1 of 24 prompts have no partner and are left out",
        "other seeds: paired by prompt alone, which takes more prompts for the same certainty",
    )


def test_of_a_resolved_configuration_the_parts_that_differ_are_noted() -> None:
    before, after = ({"resolved_config": f"model='m', block={n}, seed=0"} for n in (16, 32))
    assert pair_of(cell(subject=before), cell(subject=after)).notes == (
        "resolved config: block=16 -> block=32",
    )


@pytest.mark.parametrize(("temperature", "noted"), [(0.0, 1), (0.7, 0)])
def test_other_text_without_sampling_is_noted(temperature: float, noted: int) -> None:
    new = tuple(answer(i, text_hash="x" if i < 3 else f"t{i:03d}") for i in range(24))
    found = pair_of(cell(temperature=temperature), cell(temperature=temperature, prompts=new))
    text = "3 of 24 answers have another text, though nothing is sampled (T=0)"
    assert list(found.notes) == [text] * noted


def test_two_passes_of_the_baseline_show_its_noise() -> None:
    twice = tuple(answer(i, repeat=r, worse=r * (i % 2)) for i in range(24) for r in (0, 1))
    a, b = write_cell(Path("a"), cell(prompts=twice)), write_cell(Path("b"), cell())
    (note,) = compared(a, b).rows[0].notes
    assert note.startswith("noise: two passes of the baseline differ by -2.")
    same = tuple(answer(i, repeat=r) for i in range(24) for r in (0, 1))
    (note,) = compared(write_cell(Path("a"), cell(prompts=same)), b).rows[0].notes
    assert note == "noise: two passes of the baseline are identical in all 24 prompts"


def test_a_field_that_is_the_same_everywhere_is_no_subject() -> None:
    path = write_cell(Path("a"), cell())
    assert compared(path, path, across=("quantization",)).notes == ("quantization is the same on every side",)


def test_a_damaged_none_beside_a_cell_is_named() -> None:
    run = write_run(Path("run"), plain(), cell())
    none = run / "acceptance" / "chat-en-instruct-none.json"
    none.write_text(none.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    single = run / "acceptance" / "chat-en-instruct-ngram-k4.json"
    with pytest.raises(BadRecord, match=r"chat-en-instruct-none\.json"):
        compared(single, single)


def test_cells_are_let_go_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(Path("run"), *(cell(workload_name) for workload_name in ("a", "b", "c", "d", "e", "f")))
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    class Held(CellRecord):
        """A record that can be watched."""

    def watched(path: Path, _: Any) -> CellRecord:
        nonlocal most
        gc.collect()
        record = Held.model_validate(load(path, CellRecord).model_dump(by_alias=True))
        alive.add(record)
        most = max(most, len(alive))
        return record

    monkeypatch.setattr(Held, "__hash__", object.__hash__)
    monkeypatch.setattr("harness.judge.compare.load", watched)
    gc.freeze()  # what was there before: else each collection looks at it again
    try:
        assert len(compared(run, run).rows) == 6
    finally:
        gc.unfreeze()
    assert 1 <= most <= 3


def test_text_of_cells_is_never_rewritten() -> None:
    path = write_cell(Path("a"), cell())
    compared(path, path)
    assert path.read_text(encoding="utf-8") == dump_cell(cell())


def test_positions_of_two_drafters_are_noted_as_such() -> None:
    assert pair_of(cell(), cell("en", "suffix")).notes == (
        "different drafters draft at different steps: positions compare what each one reached",
    )


@pytest.mark.parametrize(("drafter", "tested"), [("ngram", {True}), ("suffix", {False})])
def test_positions_are_judged_for_one_drafter_alone(drafter: str, tested: set[bool]) -> None:
    against = pair_of(cell(), cell(drafter=drafter, worse=6))

    assert against.verdict.kind == "regressed"
    assert {p.tested for p in against.positions} == tested


@pytest.mark.parametrize(
    ("seconds", "worse", "moved"),
    [
        (2.0, 0, None),
        (2.04, 0, None),  # inside the margin of speed
        (2.2, 0, {"speed": 1 / 1.1 - 1, "tokens": 0.0, "seconds": 0.1}),
        (2.0, 4, {}),
    ],
)
def test_a_change_of_speed_is_split_into_tokens_and_time(
    seconds: float, worse: int, moved: dict[str, float] | None
) -> None:
    old, new = (
        write_run(Path(name), cell(seconds=s, worse=w))
        for name, s, w in (("a", 2.0, 0), ("b", seconds, worse))
    )

    (found,) = compared(old, new).rows[0].others

    assert found
    if moved is None:
        assert found.speed is None
        return
    assert found.speed
    for name, value in moved.items():
        assert getattr(found.speed, name) == pytest.approx(value)
    assert 1 + found.speed.speed == pytest.approx((1 + found.speed.tokens) / (1 + found.speed.seconds))


def test_what_a_run_keeps_of_its_servers_is_no_cell(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", cell())
    (folder / "servers").mkdir()
    (folder / "servers" / "self-check.json").write_text('{"self_check": ["ok"]}\n')

    assert [entry.path.parent.name for entry in collect(folder).entries] == ["acceptance"]


def test_answers_of_a_fixed_length_are_never_compared_with_answers() -> None:
    old = write_run(Path("a"), cell())
    new = write_run(Path("b"), cell(identity={"ignore_eos": True}))

    (found,) = compared(old, new).rows[0].others

    assert found
    assert found.verdict.kind == "invalid"
    assert "ignore_eos" in found.verdict.text
