"""Known answers, their judges, and what is remembered of them."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.config.cells import ServerSpec
from harness.config.prompts import load_prompts
from harness.engine.facts import resolve_speculative
from harness.engine.models import located
from harness.engine.server import Server
from harness.engine.slot import Slot
from harness.measure.probe import Answer
from harness.plugin import DATA
from harness.provenance.record import weights_hash
from harness.suites import known_answers, self_drafting, selfcheck
from harness.suites.known_answers import DraftToken, Result
from harness.suites.self_drafting import Check, SelfCheck
from tests.factories.benches import bench, stack
from tests.factories.records import prompt_record, server_spec


def drawn(chances: list[float], *, seed: int, true: float | None = None, k: int = 3) -> list[DraftToken]:
    """Places of verify steps, each draft accepted with its chance, or always with `true` of it."""
    rng, draft_tokens = np.random.default_rng(seed), []
    for chance in chances:
        for position in range(k):
            accepted = bool(rng.random() < (chance if true is None or position == 0 else chance * true))
            draft_tokens.append(DraftToken(position=position, accepted=accepted, chance=chance, gap=2.0))
            if not accepted:
                break
    return draft_tokens


CHANCES = [0.3 + 0.6 * ((i * 37) % 100) / 100 for i in range(60)]


def test_places_follow_the_steps_and_end_with_the_answer() -> None:
    found = list(known_answers.verified([2, 0, 3], [3, 3, 3], 7))

    # first token, then 3 committed, then 1, then 4 of which the answer holds 2
    assert found == [
        (1, 0, True),
        (2, 1, True),
        (3, 2, False),
        (4, 0, False),
        (5, 0, True),
        (6, 1, True),
    ]


def test_a_step_that_proposed_less_checks_less() -> None:
    assert list(known_answers.verified([1], [1], 9)) == [(1, 0, True)]


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0])
def test_the_chance_of_a_cut_list_is_that_of_the_whole_vocabulary(temperature: float) -> None:
    logits = np.random.default_rng(1).normal(0, 3, 5000)
    logprobs = np.sort(logits - np.log(np.exp(logits).sum()))[::-1]
    scaled = np.exp(logprobs / temperature)

    assert known_answers.chance(list(logprobs[:100]), temperature) == pytest.approx(
        scaled[0] / scaled.sum(), rel=0.03
    )


def test_a_sound_instrument_is_rarely_called_broken() -> None:
    called = sum(
        known_answers.judge_sampled(drawn(CHANCES, seed=seed), 3)[0] == "broken" for seed in range(2000)
    )

    assert called <= 8  # 0.1 % of 2000 is 2; more than 8 happen once in 4000 times


def test_the_known_fault_is_found_in_two_prompts() -> None:
    """Nothing accepted from position 1 on, which is what the CPU engine's fault does."""
    for seed in range(50):
        outcome, text = known_answers.judge_sampled(drawn(CHANCES, seed=seed, true=0.0), 3)
        assert outcome == "broken"
        assert "position 1" in text


def test_no_draft_at_all_is_broken() -> None:
    assert known_answers.judge_sampled([], 3)[0] == known_answers.judge_greedy([], 3)[0] == "broken"


@pytest.mark.parametrize(
    ("told", "outcome"), [({"histogram": (0, 0, 0, 9)}, "not checked"), ({"undrafted": 36}, "broken")]
)
def test_steps_that_the_engine_does_not_tell_are_not_called_broken(
    told: dict[str, Any], outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"source": "counters", "accepted": None, "drafted": None, "histogram": (0, 0, 0, 0), **told}
    answer = Answer(record=prompt_record(**record), prompt_ids=(1, 2), ids=(3,) * 37)
    monkeypatch.setattr(self_drafting, "ask", lambda *_, **__: ([answer], ""))
    server = Server(
        url="", key="", spec=server_spec(k=3), model="", start_id="", version="0.24.0", attached=False,
        per_request=False, log=None,
    )  # fmt: skip
    prompts = load_prompts(DATA / "prompts", "instruct", "en", at_most=1)

    found = self_drafting.check_itself(server, prompts, say=str)

    assert {check.outcome for check in found.checks} == {outcome}


def greedy(*refused_at: float) -> list[DraftToken]:
    sure = [DraftToken(position=i % 3, accepted=True, chance=1.0, gap=4.0) for i in range(90)]
    return sure + [DraftToken(position=0, accepted=False, chance=1.0, gap=gap) for gap in refused_at]


def test_at_zero_a_refusal_is_borne_at_a_tie_only() -> None:
    assert known_answers.judge_greedy(greedy(), 3)[0] == "ok"
    assert known_answers.judge_greedy(greedy(0.02), 3)[0] == "ok"
    assert known_answers.judge_greedy(greedy(0.02, 3.0), 3)[0] == "broken"
    assert known_answers.judge_greedy(greedy(*[0.02] * 20), 3)[0] == "broken"


@pytest.mark.parametrize(
    ("accepted", "drafts", "tokens", "outcome"),
    [(17, 453, 1359, "ok"), (0, 453, 1359, "broken"), (453, 453, 1359, "broken"), (0, 0, 0, "broken"),
     (17, 453, 17, "broken")],
)  # fmt: skip
def test_random_weights_are_near_zero_and_not_what_a_broken_counter_gives(
    accepted: int, drafts: int, tokens: int, outcome: str
) -> None:
    assert known_answers.judge_guessing(accepted, drafts, tokens, 3)[0] == outcome


def test_a_broken_instrument_says_what_is_broken() -> None:
    wrong = Check(name="the target drafting for itself at T=0.7", outcome="broken", text="0 of 38")
    found = SelfCheck(engine="vLLM 0.32.0", patches=(), checks=(wrong,))

    assert found.broken == (wrong,)
    assert "the target drafting for itself at T=0.7: 0 of 38" in found.sentence()
    assert "no patch is in force" in found.sentence()


def test_a_damaged_memory_is_none(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    assert selfcheck._remembered(path) is None
    path.write_text('{"schema": 1, "engine"')
    assert selfcheck._remembered(path) is None


@pytest.mark.parametrize(("outcome", "checked"), [("ok", 1), ("broken", 2)])
def test_a_sound_instrument_alone_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Result, checked: int
) -> None:
    checks = tuple(Check(name=name, outcome=outcome, text="") for name in selfcheck.CHECKS)
    done: list[str] = []

    def check(server: str, *_: object, **__: object) -> SelfCheck:
        done.append(server)
        return SelfCheck(engine="vLLM 0.32.0", patches=(), checks=checks)

    monkeypatch.setattr(selfcheck, "check_itself", check)
    monkeypatch.setattr(selfcheck, "resolve", lambda *_, **__: "/t")
    monkeypatch.setattr(selfcheck, "key_of", lambda *_, **__: "key")
    monkeypatch.setenv("DRAFTGATE_CACHE", str(tmp_path))
    slot: Any = SimpleNamespace(get=lambda _: "server", close=lambda: None)
    run = bench(tmp_path).run
    assert selfcheck.seconds_ahead(run) == run.pace.self_checking_s(4, 64) > 0
    first, again = (selfcheck.ensure(slot, stack(), (), say=lambda _: None) for _ in range(2))

    assert first == again
    assert first.took_s is not None
    assert len(done) == checked
    assert bool(selfcheck.seconds_ahead(run)) == (checked > 1)  # what is remembered keeps no run waiting


@pytest.mark.parametrize("changes", [{"self_check": "off"}, {"server_url": "http://127.0.0.1:1"}])
def test_a_run_without_a_self_check_does_not_wait_for_one(tmp_path: Path, changes: dict[str, str]) -> None:
    assert selfcheck.seconds_ahead(bench(tmp_path, **changes).run) == 0


def test_weights_that_nobody_has_hashed_yet_are_not_read_for_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take minutes, and what is remembered of the self-check needs their hash."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setenv("DRAFTGATE_CACHE", str(tmp_path / "cache"))
    run = bench(tmp_path, stack=stack(target={"model": str(tmp_path)})).run

    assert selfcheck.seconds_ahead(run) > 0
    assert not (tmp_path / "cache").exists()
    weights_hash(str(tmp_path))
    asked: list[str] = []
    monkeypatch.setattr(selfcheck, "key_of", lambda *_, target, **__: asked.append(target) or "key")
    selfcheck.seconds_ahead(run)
    assert asked == [str(tmp_path)]


def test_a_model_that_is_not_ready_yet_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAFTGATE_CACHE", str(tmp_path))
    target = {"model": "embedded:smollm2-135m-instruct"}
    run = bench(tmp_path, stack=stack(target=target)).run
    cold = selfcheck.seconds_ahead(run)
    Path(located(target["model"])).mkdir(parents=True)

    assert 0 < selfcheck.seconds_ahead(run) < cold


def test_a_random_drafter_is_found_from_a_relative_results_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`results`, where every run goes, is a relative path: it was taken for a hub id."""

    def written(folder: Path, **_: Any) -> None:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")

    written(tmp_path / "target")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(selfcheck, "write_random_drafter", written)

    class Started(Exception):  # noqa: N818
        pass

    def start(spec: ServerSpec) -> AbstractContextManager[Server]:
        resolve_speculative(spec, target="/t", say=lambda _: None)
        raise Started

    tiny = stack(target={"model": str(tmp_path / "target")})
    ours = bench(Path(), stack=tiny)
    ours.shared[selfcheck.SUITE] = SelfCheck(engine="vLLM 0.32.0", patches=(), checks=())
    with pytest.raises(Started):
        selfcheck.random_weights(dataclasses.replace(ours, slot=Slot(start, lambda _: None)))
