"""Known answers, their judges, and what is remembered of them."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.config.cells import ServerSpec
from harness.config.prompts import load as load_prompts
from harness.config.stack import Stack, find, load
from harness.engine.facts import resolve_speculative
from harness.engine.server import Server
from harness.measure.probe import Answer
from harness.plugin import DATA
from harness.provenance import integrity
from harness.suites import known_answers as known, random_drafter as guessing, selfcheck as calibration
from harness.suites.known_answers import Place
from harness.suites.selfcheck import Calibration, Check
from tests.factories.records import prompt_record, server_spec


def drawn(chances: list[float], *, seed: int, true: float | None = None, k: int = 3) -> list[Place]:
    """Places of verify steps, each draft accepted with its chance, or always with `true` of it."""
    rng, places = np.random.default_rng(seed), []
    for chance in chances:
        for position in range(k):
            accepted = bool(rng.random() < (chance if true is None or position == 0 else chance * true))
            places.append(Place(position=position, accepted=accepted, chance=chance, gap=2.0))
            if not accepted:
                break
    return places


CHANCES = [0.3 + 0.6 * ((i * 37) % 100) / 100 for i in range(60)]


def test_places_follow_the_steps_and_end_with_the_answer() -> None:
    found = list(known.verified([2, 0, 3], [3, 3, 3], 7))

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
    assert list(known.verified([1], [1], 9)) == [(1, 0, True)]


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0])
def test_the_chance_of_a_cut_list_is_that_of_the_whole_vocabulary(temperature: float) -> None:
    logits = np.random.default_rng(1).normal(0, 3, 5000)
    logprobs = np.sort(logits - np.log(np.exp(logits).sum()))[::-1]
    scaled = np.exp(logprobs / temperature)

    assert known.chance(list(logprobs[:100]), temperature) == pytest.approx(
        scaled[0] / scaled.sum(), rel=0.03
    )


def test_a_sound_instrument_is_rarely_called_broken() -> None:
    called = sum(known.judge_sampled(drawn(CHANCES, seed=seed), 3)[0] == "broken" for seed in range(2000))

    assert called <= 8  # 0.1 % of 2000 is 2; more than 8 happen once in 4000 times


def test_the_known_fault_is_found_in_two_prompts() -> None:
    """Nothing accepted from position 1 on, which is what the CPU engine's fault does."""
    for seed in range(50):
        outcome, text = known.judge_sampled(drawn(CHANCES, seed=seed, true=0.0), 3)
        assert outcome == "broken"
        assert "position 1" in text


def test_no_draft_at_all_is_broken() -> None:
    assert known.judge_sampled([], 3)[0] == known.judge_greedy([], 3)[0] == "broken"


@pytest.mark.parametrize(
    ("told", "outcome"), [({"histogram": (0, 0, 0, 9)}, "not checked"), ({"undrafted": 36}, "broken")]
)
def test_steps_that_the_engine_does_not_tell_are_not_called_broken(
    told: dict[str, Any], outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"source": "counters", "accepted": None, "drafted": None, "histogram": (0, 0, 0, 0), **told}
    answer = Answer(record=prompt_record(**record), prompt_ids=(1, 2), ids=(3,) * 37)
    monkeypatch.setattr(calibration, "ask", lambda *_, **__: ([answer], ""))
    server = Server(
        url="", key="", spec=server_spec(k=3), model="", start_id="", version="0.24.0", attached=False,
        per_request=False, log=None,
    )  # fmt: skip
    prompts = load_prompts(DATA / "prompts", "instruct", "en", at_most=1)

    found = calibration.calibrate(server, prompts, say=str)

    assert {check.outcome for check in found.checks} == {outcome}


def greedy(*refused_at: float) -> list[Place]:
    sure = [Place(position=i % 3, accepted=True, chance=1.0, gap=4.0) for i in range(90)]
    return sure + [Place(position=0, accepted=False, chance=1.0, gap=gap) for gap in refused_at]


def test_at_zero_a_refusal_is_borne_at_a_tie_only() -> None:
    assert known.judge_greedy(greedy(), 3)[0] == "ok"
    assert known.judge_greedy(greedy(0.02), 3)[0] == "ok"
    assert known.judge_greedy(greedy(0.02, 3.0), 3)[0] == "broken"
    assert known.judge_greedy(greedy(*[0.02] * 20), 3)[0] == "broken"


@pytest.mark.parametrize(
    ("accepted", "drafts", "tokens", "outcome"),
    [(17, 453, 1359, "ok"), (0, 453, 1359, "broken"), (453, 453, 1359, "broken"), (0, 0, 0, "broken"),
     (17, 453, 17, "broken")],
)  # fmt: skip
def test_random_weights_are_near_zero_and_not_what_a_broken_counter_gives(
    accepted: int, drafts: int, tokens: int, outcome: str
) -> None:
    assert known.judge_guessing(accepted, drafts, tokens, 3)[0] == outcome


def test_a_broken_instrument_says_what_is_broken() -> None:
    wrong = Check(name="the target drafting for itself at T=0.7", outcome="broken", text="0 of 38")
    found = Calibration(engine="vLLM 0.32.0", patches=(), checks=(wrong,))

    assert found.broken == (wrong,)
    assert "the target drafting for itself at T=0.7: 0 of 38" in found.sentence()
    assert "no patch is in force" in found.sentence()


def test_the_family_of_a_stack_is_its_engine_and_target() -> None:
    """Other drafters, other names: the same calibration. Other arguments or another patch: another one."""
    stack = load(find("smollm2-cpu", DATA / "stacks"))
    spec = calibration.self_spec(stack)
    other = calibration.self_spec(stack.model_copy(update={"drafters": {}}))
    args = stack.engine.model_copy(update={"args": {**stack.engine.args, "max_model_len": 512}})

    def key(one: object, patch: str = "1") -> str:
        assert isinstance(one, type(spec))
        return calibration.key_of(one, target="org/tiny", patch=patch)

    pytest.importorskip("vllm")
    assert key(spec) == key(other)
    assert key(spec) != key(calibration.self_spec(stack.model_copy(update={"engine": args})))
    assert key(spec) != key(spec, "probe")
    assert key(spec) != key(dataclasses.replace(spec, env={"A": "b"}))
    before = key(spec)
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("VLLM_PLUGINS", "another")
        assert key(spec) != before
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(integrity, "changed_files", lambda _folder: (("vllm/envs.py", "0" * 16),))
        assert key(spec) != before


def test_a_damaged_memory_is_none(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    assert calibration._remembered(path) is None
    path.write_text('{"schema": 1, "engine"')
    assert calibration._remembered(path) is None


def test_a_guesser_is_a_safetensors_file_of_the_layout(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "vocab_size": 96, "num_hidden_layers": 6, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    guessing.write(tmp_path / "drafter", target=tmp_path, tokens=[90, 5, 5, 7], k=3)

    load_file = pytest.importorskip("safetensors.numpy").safe_open
    with load_file(tmp_path / "drafter/model.safetensors", "numpy") as tensors:
        d2t = tensors.get_tensor("d2t")
        assert list(d2t + np.arange(3)) == [5, 7, 90]
        assert list(np.nonzero(tensors.get_tensor("t2d"))[0]) == [5, 7, 90]
        assert tensors.get_slice("fc.weight").get_shape() == [32, 96]
        assert tensors.get_slice("lm_head.weight").get_shape() == [3, 32]
    raw = (tmp_path / "drafter/model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    assert header["lm_head.weight"]["dtype"] == "BF16"
    assert math.prod(header["t2d"]["shape"]) == 96


def test_a_guessing_drafter_is_found_from_a_relative_results_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`results`, where every run goes, is a relative path: it was taken for a hub id."""

    def written(folder: Path, **_: Any) -> None:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")

    written(tmp_path / "target")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibration, "write_guesser", written)

    class Started(Exception):  # noqa: N818
        pass

    def running(spec: ServerSpec, **_: Any) -> None:
        resolve_speculative(spec, target="/t", say=lambda _: None)
        raise Started

    monkeypatch.setattr(calibration, "running", running)
    stack = Stack(schema=1, name="tiny", target={"model": str(tmp_path / "target")}, drafters={})
    with pytest.raises(Started):
        calibration.guessing(stack, [], [], folder=Path("results/servers"), say=lambda _: None)


def test_our_errors_end_in_a_sentence_in_the_calibration_suite_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import pytest\nfrom harness.errors import BadInput\n"
        "@pytest.mark.calibration\ndef test_it():\n    raise BadInput('no such target')\n"
    )
    done = pytester.runpytest_subprocess("-p", "harness.plugin", "-p", "no:cacheprovider")
    assert "no such target" in "\n".join(done.outlines)
    assert "raise BadInput" not in "\n".join(done.outlines)
