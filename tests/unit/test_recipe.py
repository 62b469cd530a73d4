"""Which drafter records support for a use, and where they support none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.commands.import_requests import PROFILE
from harness.commands.recipe import evidence
from harness.engine.spelling import serve_command
from harness.errors import BadInput
from harness.judge.over_none import Evidence, of_cell, of_speed
from harness.judge.recipe import Choice, choose, uses
from harness.judge.speedup import SpeedRecord, write
from harness.measure.validity import MOSTLY
from harness.results.conditions import Environment, Gpu, Identity, Subject
from harness.results.records import CellRecord, Finding, RunRecord, load
from tests.factories.records import prompt_record
from tests.factories.refusals import refused
from tests.factories.runs import cell, write_cell, write_run
from tests.factories.terminal import fits_80_columns

LOOPS = Finding(code=MOSTLY, hard=False, text="20 of 24 answers end in a loop")
SCATTER = (0.97, 1.0, 1.03)
"""Of the speed, from prompt to prompt: of 24 prompts the interval is about +-1 %."""


def timed(gain: float, drafter: str = "ngram", language: str = "en", **changes: Any) -> CellRecord:
    """A cell that is so many times as fast as `none` below."""
    k = changes.pop("k", 4)
    record = cell(language, drafter, k, **changes)
    prompts = [
        r.model_copy(update={"total_s": r.output_tokens / (10 * gain * SCATTER[i % 3 if k else 1])})
        for i, r in enumerate(record.prompts)
    ]
    return record.model_copy(update={"prompts": tuple(prompts)})


def none(language: str = "en", **changes: Any) -> CellRecord:
    return timed(1, "none", language, k=0, **changes)


def one(gain: float, drafter: str = "ngram", language: str = "en", **changes: Any) -> Evidence:
    """What such a cell says, beside `none` under the same conditions."""
    same = {name: value for name, value in changes.items() if name == "identity"}
    return of_cell("run", timed(gain, drafter, language, **changes), none(language, **same))


def turned(gain: float, drafter: str = "ngram") -> Evidence:
    """What the speed suite says, of six pairs of starts."""
    record = cell(drafter=drafter)
    kept = ("stack", "profile", "cell", "identity", "subject", "environment", "provenance")
    fields = {name: getattr(record, name) for name in kept}
    return of_speed("run", SpeedRecord(**fields, ratios=tuple(gain * s for s in SCATTER * 2)))


def kind(*evidence: Evidence) -> str:
    return choose("use", evidence).kind


def drafter(found: Choice) -> str:
    assert found.chosen
    return found.chosen.name


# The choice


def test_the_fastest_is_chosen_and_one_start_each_describes() -> None:
    found = choose("use", [one(1.5), one(1.8, "eagle"), one(0.8, "slow")])

    assert (found.kind, drafter(found), found.claimed) == ("drafter", "eagle-k4", False)


def test_a_claim_is_preferred_to_a_faster_description() -> None:
    found = choose("use", [turned(1.3), one(1.8, "eagle")])

    assert (drafter(found), found.claimed) == ("ngram-k4", True)


def test_starts_in_turn_outrank_the_cell_of_the_same_drafter() -> None:
    assert kind(one(1.5), turned(0.9)) == "none"


def test_nothing_measured_is_said_to_be_that() -> None:
    assert kind() == "not measured"


@pytest.mark.parametrize("gain", [1.0, 1.02, 0.99])
def test_nothing_is_chosen_where_it_is_not_settled(gain: float) -> None:
    assert kind(one(gain)) == "nothing"


def test_one_start_each_must_gain_more_than_starts_may_differ_by() -> None:
    assert one(1.035).ends[0] > 1
    assert kind(one(1.035)) == "nothing"
    assert kind(turned(1.06)) == "drafter"
    assert one(0.98).ends[1] < 1
    assert kind(one(0.98)) == "nothing"
    assert kind(turned(0.95)) == "none"


def test_no_drafter_is_said_where_every_one_loses() -> None:
    assert kind(one(0.8), one(0.7, "eagle")) == "none"


@pytest.mark.parametrize("other", [one(1.0, "eagle"), one(0.7, "eagle", findings=(LOOPS,))])
def test_no_drafter_is_not_said_where_one_is_open(other: Evidence) -> None:
    assert kind(one(0.8), other) == "nothing"


def test_a_drafter_pays_in_every_place_or_is_not_chosen() -> None:
    assert kind(one(1.9), one(0.8, language="zh")) == "nothing"
    assert kind(one(1.9), one(1.2, language="zh")) == "drafter"


def test_the_worst_place_decides() -> None:
    evidence = [one(1.9), one(1.1, language="zh"), one(1.4, "eagle"), one(1.3, "eagle", "zh")]

    assert drafter(choose("use", evidence)) == "eagle-k4"


def test_a_drafter_without_evidence_in_a_place_is_not_chosen() -> None:
    evidence = [one(1.9), one(1.4, "eagle"), one(1.3, "eagle", "zh")]

    assert drafter(choose("use", evidence)) == "eagle-k4"


def test_two_runs_that_disagree_settle_nothing() -> None:
    assert kind(one(1.9), one(0.8)) == "nothing"


def test_a_run_that_measured_nothing_leaves_the_other_its_say() -> None:
    found = choose("use", [one(1.9), one(1.9, findings=(LOOPS,))])

    assert found.kind == "drafter"
    assert found.notes


# What is no evidence


@pytest.mark.parametrize(
    "changes",
    [
        {"findings": (LOOPS,)},
        {"findings": (Finding(code="dead-drafter", hard=True, text="dead"),)},
        {"findings": (Finding(code="unread-field", hard=False, text="unread"),)},
        {"findings": (Finding(code="server-restarted", hard=False, text="restarted"),)},
        {"findings": (Finding(code="foreign-traffic", hard=False, text="others"),)},
        {"prompts": tuple(prompt_record(f"p-{i}", total_s=None) for i in range(12))},
        {"prompts": cell().prompts[:7]},
        {"prompts": tuple(r.model_copy(update={"total_s": 1e-300}) for r in cell().prompts)},
        {"environment": Environment(cpu="another")},
    ],
)
def test_what_is_no_evidence(changes: dict[str, Any]) -> None:
    sound = of_cell("run", timed(2), none())
    assert sound.pays

    found = of_cell("run", timed(2).model_copy(update=changes), none())

    assert found.flaw
    assert not found.sound
    assert not found.pays
    assert not found.loses


def test_a_flaw_of_none_is_one_of_every_drafter() -> None:
    assert of_cell("run", timed(2), none(findings=(LOOPS,))).flaw
    assert of_cell("run", timed(2), None).flaw


def test_unread_parts_of_one_answer_are_found() -> None:
    unread = Finding(code="unread-field", hard=False, text="unread")
    record = timed(2)
    first = record.prompts[0].model_copy(update={"findings": (unread,)})

    assert of_cell("run", record.model_copy(update={"prompts": (first, *record.prompts[1:])}), none()).flaw


def test_a_lossy_verification_is_no_evidence() -> None:
    assert one(2, identity={"verification": "typical"}).flaw
    assert not one(2, identity={"verification": None}).flaw


def test_a_lossy_verification_is_no_evidence_over_starts_either() -> None:
    lossy = Identity(verification="typical")
    record = turned(2).record.model_copy(update={"identity": lossy})

    assert isinstance(record, SpeedRecord)
    assert not of_speed("run", record).sound
    assert kind(of_speed("run", record)) == "nothing"


BUSY = {"surroundings": {"others": 0.38}}
QUIET = {"surroundings": {"others": 0.01}}


@pytest.mark.parametrize("busy", [0, 1])
def test_what_a_busy_machine_timed_is_no_evidence(busy: int) -> None:
    """Whether it was busy beside the drafter or beside `none`."""
    pair = [timed(2, provenance=QUIET), none(provenance=QUIET)]
    assert of_cell("run", *pair).pays
    pair[busy] = pair[busy].model_copy(update={"provenance": BUSY})

    found = choose("use", [of_cell("run", *pair)])

    assert found.kind == "nothing"
    assert "38%" in "".join(found.notes)


def test_a_gpu_does_not_mind_what_the_processors_do() -> None:
    here = Environment(cpu="x", gpus=[Gpu(name="H200")])

    pair = [timed(2, provenance=BUSY, environment=here), none(provenance=BUSY, environment=here)]
    assert of_cell("run", *pair).pays


def test_starts_on_a_busy_machine_are_no_evidence_either() -> None:
    record = turned(2).record.model_copy(update={"provenance": BUSY})

    assert isinstance(record, SpeedRecord)
    assert kind(of_speed("run", record)) == "nothing"


def test_one_pair_of_starts_is_no_evidence() -> None:
    fields = dict(turned(2).record) | {"ratios": (2.0,)}

    assert of_speed("run", SpeedRecord(**{n: v for n, v in fields.items() if n != "schema_"})).flaw


# The uses


def by_use(*evidence: Evidence) -> dict[str, list[Evidence]]:
    return dict(uses(evidence))


def test_each_use_takes_its_evidence() -> None:
    alone, many = one(2), one(2, identity={"concurrency": 8})
    long = one(2, "eagle", "zh", identity={"max_tokens": 1500})
    found = by_use(alone, many, long)

    assert found == {
        "one user chatting": [alone, long],
        "long answers": [long],
        "many at once: 8 in flight": [many],
        "language en, 1 in flight": [alone],
        "language zh, 1 in flight": [long],
    }


def test_raw_counts_where_nobody_chats() -> None:
    raw = one(2, endpoint="raw", identity={"endpoint": "raw"})

    assert by_use(raw)["one user chatting"] == [raw]
    assert by_use(raw, one(2))["one user chatting"] == [one(2)]


def test_other_engines_targets_and_devices_are_other_blocks() -> None:
    same = one(2, "eagle", "zh", identity={"concurrency": 8})
    engine = {"drafter": "ngram", "k": 4, "engine": "0.33.0", "settings": {}}
    found = [
        one(2, identity={"target": "other"}),
        one(2, identity={"dtype": "float16"}),
        one(2, subject=engine),
        one(2, subject=engine | {"engine": "0.32.0", "engine_args": {"max_model_len": 1}}),
        one(2, environment={"cpu": "another"}),
    ]

    assert same.block == one(2).block
    assert len({e.block for e in (same, *found)}) == 6


# The command line


def test_the_command_is_the_recorded_server_without_what_measuring_needed() -> None:
    identity = Identity(target="org/t", revision="abc", dtype="bfloat16", cache="off", weights="1")
    subject = Subject(
        drafter="e", k=3, method="eagle3", settings={"a": 1}, weights="2",
        engine_args={"max-model-len": 64, "enable_prefix_caching": False, "port": 9, "enforce_eager": True,
                     "per_request_spec_decode_metrics": "detailed"},
        engine_env={"X": "a b"},
        resolved_config="model='org/t', speculative_config=SpeculativeConfig(method='eagle3', "
        "model='org/d', num_spec_tokens=3), tokenizer='org/t'",
    )  # fmt: skip

    assert serve_command(identity, subject) == (
        "X='a b' vllm serve org/t --revision abc --dtype bfloat16 --speculative-config "
        '\'{"a": 1, "method": "eagle3", "model": "org/d", "num_speculative_tokens": 3}\' '
        "--enforce-eager --max-model-len 64"
    )


def test_a_folder_is_named_as_one_that_the_reader_has() -> None:
    identity = Identity(target="tiny", revision="unverified", weights="1")
    drafts = Subject(drafter="head", k=2, method="eagle3", weights="2")

    assert serve_command(identity, drafts).startswith("vllm serve /path/to/tiny --speculative-config")
    assert "/path/to/head" in serve_command(identity, drafts)
    itself = drafts.model_copy(update={"weights": "1"})
    assert '"model": "/path/to/tiny"' in serve_command(identity, itself)
    assert serve_command(identity, drafts.model_copy(update={"method": None})) == "vllm serve /path/to/tiny"


# What is refused


def test_a_run_that_cannot_be_used_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_run(tmp_path / "good", none(), timed(2))
    bad = [
        tmp_path / "nowhere",
        write_cell(tmp_path / "cells", timed(2)).parent,
        write_run(tmp_path / "unfinished", none(), timed(2), finished=False),
        write_run(tmp_path / "undrafted", none()),
        write_run(tmp_path / "damaged", none(), timed(2)),
        write_run(tmp_path / "imported", timed(2, identity={"imported": "aiperf"})),
    ]
    path = bad[4] / "acceptance" / f"{timed(2).cell}.json"
    path.write_text(path.read_text(encoding="utf-8")[:-200], encoding="utf-8")

    assert main(["recipe", str(good)]) == 0
    for run in bad:
        capsys.readouterr()
        assert main(["recipe", str(good), str(run)]) == 2, run
        out, err = capsys.readouterr()
        assert not out
        assert err.count("\n") == 1
    assert main(["recipe", str(good), "--output", str(tmp_path / "nowhere" / "x.md")]) == 2
    assert main(["recipe", str(good), "--output", str(tmp_path / "x.csv")]) == 2


def test_a_narrow_terminal_gets_lines_of_its_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", none(), timed(2, subject={"method": None}))

    fits_80_columns(("recipe", str(run)), monkeypatch, capsys)


def test_what_it_writes_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method = {"drafter": "ngram", "k": 4, "method": "ngram", "engine": "0.32.0", "settings": {}}
    cells = [none(), timed(2, subject=method), none("zh"), timed(1.01, language="zh", subject=method)]
    run = write_run(tmp_path / "run", *cells)
    page = tmp_path / "page.md"

    assert main(["recipe", str(run), "--output", str(page)]) == 0
    assert main(["claims", str(page), str(run)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "vllm serve /path/to/tiny --dtype bfloat16 --speculative-config" in text
    page.write_text(text.replace("| 2.0", "| 2.1"), encoding="utf-8")
    assert text != page.read_text(encoding="utf-8")
    assert main(["claims", str(page), str(run)]) == 1


def test_a_run_of_starts_alone_is_read_too(tmp_path: Path) -> None:
    record = turned(1.4).record
    assert isinstance(record, SpeedRecord)
    run, page = write_run(tmp_path / "run"), tmp_path / "page.md"
    write(run / "speed" / f"{record.cell}.json", record)

    assert main(["recipe", str(run), "--output", str(page)]) == 0
    assert main(["claims", str(page), str(run)]) == 0
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("cell=chat-en", "cell=chat-zh"), encoding="utf-8")
    assert main(["claims", str(page), str(run)]) == 2


def test_starts_in_turn_of_a_curve_are_claims(tmp_path: Path) -> None:
    cells = [r.model_copy(update={"suite": "curve/01"}) for r in (none(), timed(1.6))]
    for pair, gain in enumerate((1.5, 1.52, 1.51)):
        where = f"curve/pairs/ngram/{pair:02d}/01"
        cells += [r.model_copy(update={"suite": where}) for r in (none(), timed(gain))]
    run, page = write_run(tmp_path / "run", *cells), tmp_path / "page.md"

    found = evidence(run)
    assert [(e.suite, e.starts) for e in found] == [("curve/01", True), ("curve/01", False)]
    assert choose("use", found).claimed
    assert main(["recipe", str(run), "--output", str(page)]) == 0
    assert main(["claims", str(page), str(run)]) == 0


def test_cells_of_other_suites_say_nothing(tmp_path: Path) -> None:
    cells = [none(), timed(2), none(suite="context/1024"), timed(0.5, suite="context/1024")]

    assert [e.suite for e in evidence(write_run(tmp_path / "run", *cells))] == ["acceptance"]


def test_a_run_is_called_as_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", none(), timed(2))
    write_run(tmp_path / "begun", none(), finished=False)
    monkeypatch.chdir(tmp_path)
    assert main(["recipe", "begun"]) == 2
    assert main(["recipe", "run", "nowhere"]) == 2
    assert str(tmp_path) not in capsys.readouterr().err
    monkeypatch.chdir(run)
    assert main(["recipe", ".", str(run)]) == 0
    assert "of run." in capsys.readouterr().out


def test_a_run_of_imports_alone_is_refused_as_that(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", none(), timed(2))
    record = load(run / "run.json", RunRecord).model_copy(update={"profile": PROFILE})
    (run / "run.json").write_text(record.model_dump_json(by_alias=True), encoding="utf-8")

    with refused(BadInput, "no-cells"):
        evidence(run)


@pytest.mark.parametrize(
    "changes",
    [
        {"provenance": {"server": {"attached": True}}, "subject": {"method": "ngram"}},
        {"subject": {"method": None}},
    ],
)
def test_what_no_record_tells_is_no_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    assert main(["recipe", str(write_run(tmp_path / "run", none(), timed(2, **changes)))]) == 0
    out = capsys.readouterr().out
    assert ": run (a description)" in out
    assert "vllm serve" not in out
