"""The ceiling: bytes from files, speeds from bytes, and no way into a table of measured figures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file

from harness.cli import main
from harness.commands import ceiling
from harness.commands.ceiling import Theoretical, allowed
from harness.engine.bandwidth import cores_of
from harness.engine.traffic import UnknownShape, Weights, passes_of
from harness.results.records import Finding, PromptRecord
from harness.text.numbers import number, percent, share
from tests.factories.records import prompt_record

LLAMA = {
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 8,
    "tie_word_embeddings": False,
}  # fmt: skip
PLAIN = {"model.embed_tokens.weight": 100, "model.layers.0.mlp.up_proj.weight": 30, "lm_head.weight": 100}


def model(folder: Path, config: dict[str, Any], tensors: dict[str, int], dtype: str = "auto") -> Weights:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({n: np.zeros(size, dtype=np.float16) for n, size in tensors.items()}, folder / "m.safetensors")
    return Weights(str(folder), dtype)


def test_a_step_reads_the_weights_once_and_one_row_of_the_embedding(tmp_path: Path) -> None:
    assert model(tmp_path, LLAMA, PLAIN).step() == 2 * 130
    assert model(tmp_path, LLAMA, PLAIN, "float32").step() == 4 * 130


def test_an_embedding_that_is_the_output_layer_too_is_read(tmp_path: Path) -> None:
    tied = {name: size for name, size in PLAIN.items() if "head" not in name}
    assert model(tmp_path, LLAMA | {"tie_word_embeddings": True}, tied).step() == 2 * 130


def test_of_experts_only_those_of_a_token_are_read(tmp_path: Path) -> None:
    tensors = PLAIN | {
        "model.layers.0.mlp.experts.0.up.weight": 80,
        "model.layers.0.mlp.shared_experts.up": 5,
    }
    moe = LLAMA | {"num_experts": 8, "num_experts_per_tok": 2}
    assert model(tmp_path, {"text_config": moe}, tensors).step() == 2 * (130 + 80 / 4 + 5)
    with pytest.raises(UnknownShape):
        model(tmp_path, LLAMA, tensors).step()


def test_what_no_decode_step_reads_is_left_out(tmp_path: Path) -> None:
    tensors = PLAIN | {"vision_tower.layers.0.weight": 50, "mtp.layers.0.weight": 7, "d2t": 9}
    weights = model(tmp_path, LLAMA, tensors)
    assert weights.step() == 2 * 130
    assert weights.own_drafter(3) == 3 * 2 * (7 + 100)


def test_layers_after_the_last_are_the_drafter_s_where_config_says_so(tmp_path: Path) -> None:
    tensors = PLAIN | {"model.layers.2.mlp.up_proj.weight": 11}
    weights = model(tmp_path, LLAMA | {"num_nextn_predict_layers": 1}, tensors)
    assert weights.step() == 2 * 130
    assert weights.own_drafter(1) == 2 * (11 + 100)
    with pytest.raises(UnknownShape):
        model(tmp_path, LLAMA, PLAIN).own_drafter(1)


def test_a_drafter_reads_its_layers_once_a_pass_and_borrows_the_output_layer(tmp_path: Path) -> None:
    target = model(tmp_path / "target", LLAMA, PLAIN)
    own = model(tmp_path / "own", LLAMA, {"fc.weight": 3, "layers.0.w": 10, "lm_head.weight": 20, "t2d": 9})
    borrowing = model(tmp_path / "borrowing", LLAMA, {"fc.weight": 3, "layers.0.w": 10})
    assert own.drafts(4, target) == 2 * (3 + 4 * 30)
    assert borrowing.drafts(4, target) == 2 * (3 + 4 * 110)


@pytest.mark.parametrize(
    ("config", "kind", "elements", "size"),
    [
        ({}, "auto", 2 * 2 * 2 * 10 * 2, 2),
        ({}, "fp8", 2 * 2 * 2 * 10 * 2, 1),
        ({"head_dim": 5}, "auto", 2 * 2 * 5 * 10 * 2, 2),
        (
            {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4},
            "auto",
            2 * 2 * 2 * 14,
            2,
        ),
        ({"layer_types": ["full_attention", "linear_attention"]}, "auto", 2 * 2 * 2 * 10, 2),
        ({"kv_lora_rank": 6, "qk_rope_head_dim": 2}, "auto", 8 * 10 * 2, 2),
    ],
)
def test_the_cache_is_what_config_says(
    tmp_path: Path, config: dict[str, Any], kind: str, elements: int, size: int
) -> None:
    weights = model(tmp_path, LLAMA | config, PLAIN)
    assert weights.cache(10, dtype="auto", kind=kind) == elements * size


@pytest.mark.parametrize(
    "config",
    [
        {}, {"num_hidden_layers": 2}, {"hidden_size": 8}, {"layer_types": 3},
        LLAMA | {"num_hidden_layers": "2"}, LLAMA | {"num_attention_heads": [4]},
    ],
)  # fmt: skip
def test_a_cache_of_unknown_shape_is_not_guessed(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(UnknownShape):
        model(tmp_path, config, PLAIN).cache(10, dtype="auto")


@pytest.mark.parametrize("damage", ["missing", "no config", "a list", "no weights", "cut off", "hub id"])
def test_weights_that_cannot_be_read_are_not_guessed(tmp_path: Path, damage: str) -> None:
    model(tmp_path / "m", LLAMA, PLAIN)
    if damage == "no config":
        (tmp_path / "m/config.json").unlink()
    if damage == "a list":
        (tmp_path / "m/config.json").write_text("[]")
    if damage == "no weights":
        (tmp_path / "m/m.safetensors").unlink()
    if damage == "cut off":
        (tmp_path / "m/m.safetensors").write_bytes(b"\1\0")
    folder = {"missing": str(tmp_path / "no"), "hub id": "org/name"}.get(damage, str(tmp_path / "m"))
    with pytest.raises(UnknownShape):
        Weights(folder, "auto")


@pytest.mark.parametrize(
    ("method", "settings", "passes"),
    [
        ("ngram", {}, 0), ("suffix", {}, 0), ("eagle3", {}, 4), ("qwen3_5_mtp", {}, 4), ("dflash", {}, 1),
        ("draft_model", {"parallel_drafting": True}, 1),
    ],
)  # fmt: skip
def test_passes_of_a_drafter(method: str, settings: dict[str, Any], passes: int) -> None:
    assert passes_of(method, 4, settings) == passes
    with pytest.raises(UnknownShape):
        passes_of("custom_class", 4, {})


@pytest.mark.parametrize(("a", "k", "expected"), [(0.0, 4, 10), (1.0, 4, 50), (0.5, 2, 17.5), (0.9, 0, 10)])
def test_speed_is_tokens_a_step_times_bandwidth_over_bytes(a: float, k: int, expected: float) -> None:
    assert float(allowed(a, k, read=100, per_second=1000).shown()) == expected


@pytest.mark.parametrize(
    ("env", "cores"),
    [
        ({}, [0, 1, 2]),
        ({"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}, [0, 1, 2, 3]),
        ({"VLLM_CPU_NUM_OF_RESERVED_CPU": "9"}, [0]),
        ({"VLLM_CPU_OMP_THREADS_BIND": "3,0-1|7"}, [0, 1, 3]),
        ({"VLLM_CPU_OMP_THREADS_BIND": "nobind"}, [0, 1, 2, 3]),
        ({"VLLM_CPU_OMP_THREADS_BIND": "all"}, [0, 1, 2, 3]),
    ],
)
def test_the_copy_runs_where_the_engine_would(env: dict[str, str], cores: list[int]) -> None:
    assert cores_of(env, range(4)) == cores


def test_no_table_record_or_export_can_hold_a_theoretical_figure() -> None:
    figure = Theoretical(123.0)
    shows: list[Callable[[Any], Any]] = [
        number,
        share,
        percent,
        float,
        json.dumps,
        "{}".format,
        "{:.1f}".format,
    ]
    for show in shows:
        with pytest.raises(TypeError):
            show(figure)
    with pytest.raises(ValidationError):
        PromptRecord.model_validate(prompt_record().model_dump() | {"total_s": figure})
    with pytest.raises(ValidationError):
        Finding.note("speed", "so it is", tok_s=figure)  # type: ignore[arg-type]
    out = io.StringIO()
    csv.writer(out).writerow([figure])
    assert "123" not in out.getvalue()


STACK = """
schema = 1
name = "tiny"
[target]
model = "{model}"
[drafters.none]
[drafters.ngram]
method = "ngram"
k = [2]
[drafters.odd]
method = "custom_class"
k = [3]
"""


def block_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], m: str
) -> str:
    monkeypatch.setattr(ceiling, "bandwidth", lambda *_, **__: 1e9)
    monkeypatch.setattr("harness.commands.doctor.checks", lambda *_, **__: iter(()))
    path = tmp_path / "tiny.toml"
    path.write_text(STACK.format(model=m))
    assert main(["doctor", "--stack", str(path), "--ceiling"]) == 0
    return capsys.readouterr().out


def test_what_is_not_known_is_a_dash_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model(tmp_path / "m", {"tie_word_embeddings": False}, PLAIN)
    out = block_of(tmp_path, monkeypatch, capsys, str(tmp_path / "m"))

    assert out.startswith("theoretical, not measured")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith(("n", "odd"))}
    assert rows["none"][2:] == ["3.85e+06"] * 4
    assert rows["odd-k3"] == ["—"] * 5
    assert sum(line.startswith("  —  odd: ") for line in out.splitlines()) == 1
    assert "  C  —  left out: " in out


def test_of_a_target_that_is_not_here_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = block_of(tmp_path, monkeypatch, capsys, "org/name")

    assert sum("—" in line for line in out.splitlines()) == 1
    assert "a=0.5" not in out
