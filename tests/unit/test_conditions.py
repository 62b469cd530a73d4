from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.engine.offers import lossy_verification
from harness.errors import BadInput
from harness.measure.draft_vocab import Coverage, coverage, draft_vocabulary
from harness.measure.engine_findings import findings
from harness.results.conditions import Identity, Subject
from harness.results.records import Finding
from tests.factories.records import cell_name

COLD = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
WARM = {**COLD, "temperature": 0.7}
FAULT = {"fault": "cpu-temperature", "probe": "fault", "mended": False}


def found_of(subject: dict[str, Any], **changes: Any) -> dict[str, Finding]:
    values: dict[str, Any] = {"covered": None, "cell": cell_name(), **changes}
    identity = Identity(
        sampling=values.pop("sampling", COLD),
        dtype="bfloat16",
        verification=lossy_verification(subject.get("settings")),
    )
    found = findings(values.pop("cell"), Subject(**subject), identity=identity, **values)
    return {f.code: f for f in found}


def test_nothing_special_is_nothing_to_say() -> None:
    plain = {"mends": [], "engine_files": [], "loads_code": [], "sampling_defaults": {}}
    assert found_of(plain) == {}
    assert found_of({}) == {}
    assert found_of({"engine_files": "unverified", "sampling_defaults": "unverified"}) == {}


def test_a_fault_that_nobody_patched_makes_sampled_acceptance_no_measurement() -> None:
    hard = found_of({"mends": [FAULT]}, sampling=WARM)["engine-faulty"]
    soft = found_of({"mends": [FAULT]})["engine-faulty"]
    assert hard.hard
    assert hard.values == {"fault": "cpu-temperature"}
    assert not soft.hard
    assert found_of({"mends": [FAULT]}, sampling=WARM, cell=cell_name(drafter="none", k=0)) == {}
    assert found_of({"mends": [{**FAULT, "mended": True}]}, sampling=WARM) == {}
    assert found_of({"mends": [{**FAULT, "probe": "healthy"}]}, sampling=WARM) == {}


@pytest.mark.parametrize(
    "settings",
    [
        {"rejection_sample_method": "fly", "fly_window_size": 2},
        {"rejection_sample_method": "synthetic"},
        {"acceptance_method": "typical_acceptance_sampler"},
        {"rejection_sample_method": "of a later version"},
    ],
)
def test_drafts_that_are_not_verified_exactly_make_no_measurement(settings: dict[str, Any]) -> None:
    """Unless the stack declares that the comparison is about it."""
    assert found_of({"settings": settings})["lossy-verification"].hard
    assert not found_of({"settings": settings}, declared=("verification",))["lossy-verification"].hard


@pytest.mark.parametrize("way", ["standard", "block", "strict", "probabilistic", None])
def test_drafts_that_are_verified_exactly_are_nothing_to_say(way: str | None) -> None:
    assert found_of({"settings": {"rejection_sample_method": way, "draft_lm_head_quantization": "fp8"}}) == {}


def test_a_k_that_the_engine_chooses_is_a_footnote() -> None:
    schedule = {"num_speculative_tokens_per_batch_size": [[1, 4, 4], [5, 64, 1]]}
    assert not found_of({"settings": schedule})["dynamic-k"].hard
    assert found_of({"settings": {"num_speculative_tokens_per_batch_size": None}}) == {}


@pytest.mark.parametrize(
    ("args", "execution", "named"),
    [
        ({"max_model_len": 8192}, {"max_model_len": 2048}, "max_model_len 2048, not 8192"),
        ({"enable-chunked-prefill": True}, {"chunked_prefill": False}, "chunked_prefill False, not True"),
        ({}, {"dtype": "float16"}, "dtype float16, not bfloat16"),
        ({"max_model_len": 8192}, {"max_model_len": 8192, "dtype": "bfloat16"}, None),
        (
            {"max_model_len": "8k", "kv_cache_dtype": "auto"},
            {"max_model_len": 8192, "kv_cache_dtype": "fp8"},
            None,
        ),
        ({"max_model_len": -1}, {"max_model_len": 8192}, None),
        ({"max_model_len": 8192}, {}, None),
        ({"max_model_len": 8192}, "unverified", None),
    ],
)
def test_what_the_engine_replaced_is_a_footnote(args: Any, execution: Any, named: str | None) -> None:
    found = found_of({"engine_args": args, "execution": execution})
    assert [f.text.endswith(named) and not f.hard for f in found.values() if named] == [True] * bool(named)
    assert bool(found) == bool(named)


def test_changed_files_of_the_engine_are_named_with_their_hash() -> None:
    files = [[f"vllm/{name}.py", "ab12"] for name in "abcde"]
    assert found_of({"engine_files": files[:1]})["engine-patched"].text.endswith(": vllm/a.py (ab12)")
    assert found_of({"engine_files": files})["engine-patched"].text.endswith("vllm/c.py (ab12) and 2 more")


def test_what_puts_code_before_the_engine_is_a_patch_too() -> None:
    found = found_of({"loads_code": ["PYTHONPATH"]})["engine-patched"]
    assert not found.hard
    assert "PYTHONPATH" in found.text


def test_defaults_of_the_model_that_requests_override_are_named_with_what_was_sent() -> None:
    found = found_of({"sampling_defaults": {"temperature": 0.6, "top_p": 1.0, "top_k": 20}})[
        "sampling-defaults"
    ]
    assert "(temperature 0.6, top_k 20)" in found.text
    assert "(temperature 0, top_k 0)" in found.text
    assert found_of({"sampling_defaults": {"temperature": 0.0, "max_tokens": 20}}) == {}


def test_defaults_that_no_request_gives_are_in_force() -> None:
    found = found_of({"sampling_defaults": {"length_penalty": 2.0}})["sampling-defaults"]
    assert found.text.endswith(": length_penalty 2.0")


# The draft vocabulary


def test_coverage_below_99_percent_is_a_footnote_with_the_ceiling_it_puts_on_acceptance() -> None:
    covered = Coverage(known=8192, inside=900, tokens=1000)
    found = found_of({}, covered=covered, cell=cell_name(language="zh"))["draft-vocabulary"]
    assert not found.hard
    assert found.values == {"known": 8192, "inside": 900, "tokens": 1000}
    assert all(figure in found.text for figure in ("90.0%", "(zh)", "tokens per step 5.0"))


@pytest.mark.parametrize("inside", [990, 999, 1000])
def test_coverage_of_99_percent_or_more_is_not_worth_a_word(inside: int) -> None:
    assert found_of({}, covered=Coverage(known=8192, inside=inside, tokens=1000)) == {}


def test_without_output_there_is_nothing_to_cover() -> None:
    assert found_of({}, covered=Coverage(known=8192, inside=0, tokens=0)) == {}


def safetensors(folder: Path, **tensors: Any) -> Path:
    """A file as the library writes it."""
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    names = {"<i8": "I64", "|b1": "BOOL", "<i4": "I32", "<f4": "F32"}
    for name, values in tensors.items():
        raw = values.tobytes()
        head[name] = {
            "dtype": names[values.dtype.str], "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }  # fmt: skip
        data += raw
    text = json.dumps(head).encode()
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_the_map_of_an_eagle3_drafter_is_read_from_its_offsets(tmp_path: Path) -> None:
    spoken = np.array([1, 4, 7])
    safetensors(tmp_path, fc=np.zeros(3, dtype=np.float32), d2t=spoken - np.arange(3))
    assert draft_vocabulary(str(tmp_path)) == {1, 4, 7}


def test_the_map_is_read_from_the_mask_where_there_are_no_offsets(tmp_path: Path) -> None:
    safetensors(tmp_path, t2d=np.array([False, True, False, False, True]))
    assert draft_vocabulary(str(tmp_path)) == {1, 4}


def test_a_real_checkpoint_and_our_reader_agree(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    mask = np.arange(96) % 2 == 0
    library.save_file(
        {"t2d": mask, "d2t": np.flatnonzero(mask) - np.arange(48)}, tmp_path / "model.safetensors"
    )
    assert draft_vocabulary(str(tmp_path)) == set(range(0, 96, 2))


def test_a_drafter_without_a_map_speaks_the_whole_vocabulary(tmp_path: Path) -> None:
    safetensors(tmp_path, fc=np.zeros(3, dtype=np.float32))
    assert draft_vocabulary(str(tmp_path)) is None
    assert draft_vocabulary(None) is None
    assert draft_vocabulary("org/name") is None
    assert draft_vocabulary(str(tmp_path / "nowhere")) is None


@pytest.mark.parametrize(
    "damage", [b"", b"\xff" * 8, struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9) + b"{"]
)
def test_a_damaged_file_is_named_and_what_to_do(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(damage)
    with pytest.raises(BadInput, match=r"model.safetensors: its map .* cannot be read .*: copy"):
        draft_vocabulary(str(tmp_path))


def test_output_tokens_count_as_often_as_they_came() -> None:
    covered = coverage(frozenset({1, 2}), {1: 5, 2: 3, 9: 2})
    assert (covered.known, covered.inside, covered.tokens) == (2, 8, 10)
    assert covered.share == 0.8
    assert covered.most_per_step(7) == 5.0  # two tokens outside, so at least two of the steps
    assert covered.most_per_step(3) == 4.0  # more than k and one a step never come
    assert coverage(frozenset({1}), {1: 5}).most_per_step(3) == 4.0
