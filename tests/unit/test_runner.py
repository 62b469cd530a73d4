"""What the runner keeps of a run's outcomes, and what each suite makes of what it measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from harness.config.stack import NO_DRAFTER, Profile
from harness.errors import BadInput
from harness.judge.baselines import store
from harness.judge.verdict import Verdict, judge
from harness.measure.validity import MOSTLY
from harness.results.records import CellRecord, Finding
from harness.suites import (
    acceptance,
    endpoints,
    load,
    lossless,
    parity,
    runner,
    self_drafting,
    selfcheck,
    speed,
)
from harness.suites.ending import ending
from harness.suites.runner import OUTCOMES, Bench, Kind, Outcome, ask, fingerprint, keep, kept
from tests.factories.audits import good
from tests.factories.benches import bench, cell_of
from tests.factories.predictions import PROMPTS, predicted, reaches, served, spoiled
from tests.factories.records import failed_record, server_spec
from tests.factories.runs import cell, plain, write_cell

BUSY = Finding(code="foreign-traffic", hard=True, text="the server finished 30 requests while 24 ran")
NAME = "chat-en-instruct-ngram-k4"


def outcome(**changes: Any) -> Outcome:
    return Outcome.model_validate({"suite": "acceptance", "cell": NAME, **changes})


# What is kept


def test_an_outcome_is_read_back_with_its_verdict(tmp_path: Path) -> None:
    one = outcome(kind="failed", sentence="regressed", verdict=judge(cell(), cell(worse=4)))
    keep(tmp_path, one)

    assert one.verdict
    assert one.verdict.kind == "regressed"
    assert kept(tmp_path) == {("acceptance", NAME): one}


def test_the_last_outcome_of_a_cell_counts(tmp_path: Path) -> None:
    for sentence in ("first", "second"):
        keep(tmp_path, outcome(sentence=sentence))
        keep(tmp_path, outcome(suite="load", sentence=sentence))

    assert [o.sentence for o in kept(tmp_path).values()] == ["second", "second"]


@pytest.mark.parametrize("line", ["", "{", '{"suite": 1}', "[" * 10_000, "\ud800", '{"suite": "a\\ud800"}'])
def test_a_line_that_cannot_be_read_is_left_out(tmp_path: Path, line: str) -> None:
    keep(tmp_path, outcome())
    with (tmp_path / OUTCOMES).open("ab") as file:
        file.write(line.encode("utf-8", "surrogatepass") + b"\n")
    keep(tmp_path, outcome(suite="load"))

    assert list(kept(tmp_path)) == [("acceptance", NAME), ("load", NAME)]


def test_a_torn_line_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    keep(tmp_path, outcome())
    path = tmp_path / OUTCOMES
    path.write_bytes(path.read_bytes()[:-9])
    keep(tmp_path, outcome(suite="load"))

    assert list(kept(tmp_path)) == [("load", NAME)]


def test_an_outcome_holds_until_a_file_that_decided_it_changes(tmp_path: Path) -> None:
    there, gone = tmp_path / "there", tmp_path / "gone"
    there.write_text("one")
    one = outcome(files=fingerprint(there, gone))
    assert one.holds

    gone.write_text("not any more")
    assert not one.holds
    gone.unlink()
    there.write_text("two")
    assert not one.holds


# A verdict is made once


def measured(monkeypatch: pytest.MonkeyPatch, ours: Bench, record: CellRecord) -> None:
    """As if `record` came from a server; it lies in the run's folder."""
    write_cell(ours.run.folder / "acceptance", record)
    monkeypatch.setattr(Bench, "measured", lambda *_, **__: record)


def test_the_table_is_made_from_the_verdict_that_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = bench(tmp_path)
    store(ours.run.options.baselines, cell())
    measured(monkeypatch, ours, cell(worse=4))
    found, action = ask(ours, acceptance.acceptance, cell_of(ours))
    assert (found.kind, action) == ("failed", "fail")

    def never(*_: object, **__: object) -> Verdict:
        raise AssertionError("it was judged again")

    monkeypatch.setattr(acceptance, "verdict", never)
    texts = [text for _, text in ending(ours.run, (), whole=False).sections]

    assert any(f"▼ {NAME}: tokens per step" in text for text in texts)


def test_a_cell_whose_baseline_changed_since_is_judged_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = bench(tmp_path)
    folder = ours.run.options.baselines
    store(folder, cell())
    measured(monkeypatch, ours, cell(worse=4))
    ask(ours, acceptance.acceptance, cell_of(ours))
    for path in folder.rglob("*.json"):
        path.unlink()
    store(folder, cell(worse=4))

    texts = [text for _, text in ending(ours.run, (), whole=False).sections]

    assert not any("▼ " + NAME in text for text in texts)
    assert any("0.0" in text and "24/24" in text for text in texts)


# What each suite makes of what it measured


def kind_of(question: Callable[..., Outcome], ours: Bench, *args: Any) -> Kind:
    return question(ours, *args).kind


@pytest.mark.parametrize("gate", ["off", "warn", "on", "strict"])
def test_a_cell_that_is_no_measurement_is_invalid_under_every_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: str
) -> None:
    ours = bench(tmp_path, gate=gate)
    measured(monkeypatch, ours, cell(findings=(BUSY,)))

    found = acceptance.acceptance(ours, cell_of(ours))

    assert found.kind == "invalid"
    assert BUSY.text in found.sentence


@pytest.mark.parametrize(
    ("gate", "worse", "kind"),
    [
        ("off", 4, "fine"),
        ("on", 4, "failed"),
        ("on", 0, "fine"),
        ("strict", 0, "fine"),
        ("warn", 4, "failed"),
    ],
)
def test_a_cell_is_compared_with_its_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: str, worse: int, kind: Kind
) -> None:
    ours = bench(tmp_path, gate=gate)
    store(ours.run.options.baselines, cell())
    measured(monkeypatch, ours, cell(worse=worse))

    assert kind_of(acceptance.acceptance, ours, cell_of(ours)) == kind


def test_a_cell_without_a_baseline_has_failed_unless_it_is_only_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for gate, kind in (("on", "failed"), ("off", "fine")):
        ours = bench(tmp_path, gate=gate)
        measured(monkeypatch, ours, cell())
        assert kind_of(acceptance.acceptance, ours, cell_of(ours)) == kind


def test_a_cell_that_is_stored_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = bench(tmp_path, update="all")
    store(ours.run.options.baselines, cell())
    measured(monkeypatch, ours, cell(worse=4))

    found = acceptance.acceptance(ours, cell_of(ours))

    assert (found.kind, found.verdict) == ("fine", None)
    assert found.sentence.startswith("replaced baseline")


def test_what_is_no_measurement_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = bench(tmp_path, update="all", gate="warn")
    measured(monkeypatch, ours, cell(findings=(BUSY,)))

    with pytest.raises(BadInput, match="not a valid measurement"):
        acceptance.acceptance(ours, cell_of(ours))


def sequence(*records: CellRecord) -> Callable[..., CellRecord]:
    todo = iter(records)
    return lambda *_, **__: next(todo)


@pytest.mark.parametrize(
    ("second", "kind"),
    [
        (cell(identity={"concurrency": 4}), "fine"),
        (cell(identity={"concurrency": 4}, worse=4), "noteworthy"),
        (cell(identity={"concurrency": 4}, prompts=(failed_record("p1"), *cell().prompts[1:])), "failed"),
        (cell(identity={"concurrency": 4}, findings=(BUSY,)), "invalid"),
    ],
)
def test_a_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: CellRecord, kind: Kind) -> None:
    why = Finding(code="request-failed", hard=True, text="the server answered 503")
    if kind == "failed":
        broken = second.prompts[0].model_copy(update={"findings": (why,)})
        second = second.model_copy(update={"prompts": (broken, *second.prompts[1:]), "findings": (why,)})
    monkeypatch.setattr(Bench, "measured", sequence(cell(), second))
    monkeypatch.setattr(load, "passes", lambda *_: 3)  # 8 prompts of the file, 24 of the record
    ours = bench(tmp_path)

    assert kind_of(load.under_load, ours, cell_of(ours)) == kind


@pytest.mark.parametrize(
    ("drafter", "gate", "kind"),
    [
        (cell(), "off", "fine"),
        (cell(), "on", "failed"),  # no baseline
        (cell(findings=(BUSY,)), "off", "invalid"),
        (cell(findings=(Finding(code=MOSTLY, hard=False, text="most loop"),)), "on", "unsure"),
    ],
)
def test_a_speed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drafter: CellRecord, gate: str, kind: Kind
) -> None:
    starts: list[str] = []

    def start(_: Bench, one: Any, **words: Any) -> CellRecord:
        assert words["fresh"], "every start is a server of its own"
        starts.append(one.name.drafter)
        return drafter if one.name.k else plain()

    monkeypatch.setattr(Bench, "measured", start)
    ours = bench(tmp_path, gate=gate)

    assert kind_of(speed.speed_up, ours, cell_of(ours)) == kind
    assert starts == ["none", "ngram", "ngram", "none"][: len(starts)]


@pytest.mark.parametrize(
    ("loss", "findings", "kind"),
    [(0.0, (), "fine"), (0.5, (), "failed"), (0.0, (BUSY,), "invalid")],
)
def test_parity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float, findings: tuple[Finding, ...], kind: Kind
) -> None:
    reach = reaches(1)
    pairs = [(type("Held", (), {"id": line.id, "language": "en"})(), line) for line in predicted(reach)]
    monkeypatch.setattr(parity, "_held_out", lambda _: pairs)
    monkeypatch.setattr(Bench, "measured", sequence(served(spoiled(reach, loss), findings=findings)))
    ours = bench(tmp_path)

    assert kind_of(parity.parity, ours, cell_of(ours)) == kind


def test_too_few_prompts_for_parity_are_nothing_to_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach = reaches(1)
    pairs = [(type("Held", (), {"id": line.id, "language": "en"})(), line) for line in predicted(reach)]
    monkeypatch.setattr(parity, "_held_out", lambda _: pairs)
    monkeypatch.setattr(Bench, "measured", sequence(served(reach[: PROMPTS // 2])))

    ours = bench(tmp_path)
    assert kind_of(parity.parity, ours, cell_of(ours)) == "failed"


def test_endpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, sound = bench(tmp_path), good()
    chat = sound.records["chat"]
    swapped = {**sound.rendered, "chat": sound.rendered["raw"]}
    invalid = {**sound.records, "chat": chat.model_copy(update={"findings": (BUSY,)})}
    for audit, kind in (
        (sound, "fine"),
        (endpoints.Audit(records=sound.records, rendered=swapped), "failed"),
        (endpoints.Audit(records=invalid, rendered=sound.rendered), "invalid"),
    ):
        monkeypatch.setattr(endpoints, "_audited", lambda *_, audit=audit: audit)
        assert kind_of(endpoints.endpoints, ours, cell_of(ours)) == kind


@pytest.mark.parametrize(
    ("greedy", "sampled", "kind"),
    [
        ("ok", "ok", "fine"),
        ("ok", "not checked", "noteworthy"),
        ("broken", "not checked", "failed"),
        ("ok", "broken", "failed"),
    ],
)
def test_lossless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, greedy: str, sampled: str, kind: Kind
) -> None:
    found = [("T=0", greedy, "told"), ("T=0.7", sampled, "told")]
    monkeypatch.setattr(lossless, "_found", lambda *_: found)
    ours = bench(tmp_path)

    assert kind_of(lossless.lossless, ours, cell_of(ours)) == kind


def test_answers_of_lossless_that_are_no_measurement_are_invalid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lossless.probe, "ask", lambda *_, **__: ([], BUSY.text))
    monkeypatch.setattr("harness.engine.slot.Slot.get", lambda *_: None)
    ours = bench(tmp_path)

    assert kind_of(lossless.lossless, ours, cell_of(ours)) == "invalid"


@pytest.mark.parametrize(
    ("seen", "kind"), [("ok", "fine"), ("broken", "invalid"), ("not checked", "unchecked")]
)
def test_the_self_check(tmp_path: Path, seen: str, kind: Kind) -> None:
    ours = bench(tmp_path)
    name = self_drafting.name_of(0.0)
    check = self_drafting.Check.model_validate({"name": name, "outcome": seen, "text": "told"})
    ours.shared[selfcheck.SUITE] = self_drafting.SelfCheck(engine="vLLM", patches=(), checks=(check,))

    assert kind_of(selfcheck.drafting_for_itself, ours, 0.0) == kind


# The options of a run reach every suite


def test_a_server_is_started_as_the_run_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(runner, "running", lambda *_, **words: given.update(words))
    monkeypatch.setattr(runner, "attach", lambda url, _, key: given.update(url=url, key=key))
    spec = server_spec()

    runner.starter(bench(tmp_path, patch="probe").run, print)(spec)
    assert given["patch"] == "probe"
    runner.starter(bench(tmp_path, server_url="http://here", api_key="sk").run, print)(spec)
    assert (given["url"], given["key"]) == ("http://here", "sk")


class Fake:
    """In place of a measurement: keeps what it was made with, and writes a record."""

    given: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, **words: Any) -> None:
        self.given.append(words)

    def prepare(self) -> None:
        pass

    def one_pass(self, _: int) -> None:
        pass

    def finish(self, *, stopped_at: int | None) -> None:
        assert stopped_at is None
        write_cell(self.given[-1]["folder"], cell())


SERVER = {"version": "", "patches": (), "attached": False}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What measurements and questions to a server were made with; no server is started."""
    Fake.given = []

    def asked(*_: object, **words: Any) -> tuple[list[Any], str]:
        Fake.given.append(words)
        return [], BUSY.text

    monkeypatch.setattr(runner, "Measurement", Fake)
    monkeypatch.setattr(lossless.probe, "ask", asked)
    monkeypatch.setattr(selfcheck, "ask", asked)
    monkeypatch.setattr(self_drafting, "ask", asked)
    monkeypatch.setattr("harness.engine.slot.Slot.get", lambda *_, **__: SimpleNamespace(**SERVER))
    return Fake.given


def test_a_cell_is_measured_once(tmp_path: Path, given: list[dict[str, Any]]) -> None:
    ours, again = bench(tmp_path, stall_seconds=7), bench(tmp_path)
    one = cell_of(ours)
    words: dict[str, Any] = {"suite": "acceptance", "prompts": ours.run.prompts(one)}

    records = [b.measured(one, **words) for b in (ours, ours, again)]

    assert len(given) == 1
    assert records == [cell()] * 3
    assert given[0]["stall_seconds"] == 7
    assert given[0]["renew"] == ours.slot.renew


@pytest.mark.parametrize(("attached", "warmed"), [(False, [2, 0, 2]), (True, [2, 2, 2])])
def test_the_first_cell_on_a_start_warms_it_up_for_all(
    tmp_path: Path,
    given: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    *,
    attached: bool,
    warmed: list[int],
) -> None:
    """Of an attached server each cell learns from its first requests what it reports."""
    monkeypatch.setitem(SERVER, "attached", attached)
    ours = bench(tmp_path)
    for number in range(3):
        ours.slot.starts = 1 + number // 2
        ours.measured(cell_of(ours), suite=f"load/{number}", prompts=())

    assert [len(words["warmups"]) for words in given] == warmed


@pytest.mark.parametrize(("cache", "cold"), [("cold", True), ("warm", False)])
def test_a_cold_cell_names_its_prompts_to_the_slot(
    tmp_path: Path, given: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, *, cache: str, cold: bool
) -> None:
    words: dict[str, Any] = {}

    def get(*_: object, **more: Any) -> SimpleNamespace:
        words.update(more)
        return SimpleNamespace(**SERVER)

    monkeypatch.setattr("harness.engine.slot.Slot.get", get)
    ours = bench(tmp_path, profile=Profile(prompts=8, max_tokens=64, cache=cache))
    prompts = ours.run.prompts(cell_of(ours))

    ours.measured(cell_of(ours), suite="acceptance", prompts=prompts)

    assert words == {"anew": False, "cold": [p.text for p in prompts] if cold else ()}
    assert len(given) == 1


def test_a_start_of_the_speed_suite_is_not_renewed(tmp_path: Path, given: list[dict[str, Any]]) -> None:
    ours = bench(tmp_path)

    ours.measured(cell_of(ours), suite="speed/00", prompts=(), fresh=True)

    assert given[0]["renew"] is None


def test_suites_that_ask_by_themselves_wait_as_long(tmp_path: Path, given: list[dict[str, Any]]) -> None:
    ours = bench(tmp_path, stall_seconds=7)
    lossless.lossless(ours, cell_of(ours))
    selfcheck.drafting_for_itself(ours, 0.0)
    selfcheck._asked(ours, NO_DRAFTER)

    assert [words["stall_seconds"] for words in given] == [7] * len(given)
    assert len(given) >= 4
