"""The self-check as a user runs it, and the drafters of the engine that it uses."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from harness.config.stack import find_stack, load_stack
from harness.plugin import DATA
from harness.suites import random_drafter, selfcheck
from harness.suites.self_drafting import self_spec
from tests.component import in_process
from tests.component.fake_engine import Fake, bench


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_the_family_of_a_stack_is_its_engine_and_target() -> None:
    """Other drafters, other names: the same self-check. Other arguments or another patch: another one."""
    stack = load_stack(find_stack("smollm2-cpu", DATA / "stacks"))
    spec = self_spec(stack)
    other = self_spec(stack.model_copy(update={"drafters": {}}))
    args = stack.engine.model_copy(update={"args": {**stack.engine.args, "max_model_len": 512}})

    def key(one: object, patch: str = "1") -> str:
        assert isinstance(one, type(spec))
        return selfcheck.key_of(one, target="org/tiny", patch=patch)

    assert key(spec) == key(other)
    assert key(spec) != key(self_spec(stack.model_copy(update={"engine": args})))
    assert key(spec) != key(spec, "probe")
    assert key(spec) != key(dataclasses.replace(spec, env={"A": "b"}))
    before = key(spec)
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("VLLM_PLUGINS", "another")
        assert key(spec) != before
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(selfcheck, "changed_files", lambda _folder: (("vllm/envs.py", "0" * 16),))
        assert key(spec) != before


def test_a_guesser_is_a_safetensors_file_of_the_layout(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "vocab_size": 96, "num_hidden_layers": 6, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    random_drafter.write(tmp_path / "drafter", target=tmp_path, tokens=[90, 5, 5, 7], k=3)

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


@pytest.mark.usefixtures("own_signals")
def test_our_errors_end_in_a_sentence_in_the_self_check_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import pytest\nfrom harness.errors import BadInput\n"
        "@pytest.mark.self_check\ndef test_it():\n    raise BadInput('no such target')\n"
    )
    done = in_process.run(pytester, "-m", "self_check")
    assert "no such target" in "\n".join(done.outlines)
    assert "raise BadInput" not in "\n".join(done.outlines)


def test_a_broken_instrument_stops_the_run_before_anything_is_measured(tmp_path: Path) -> None:
    """This engine drafts nothing, whatever it is told: not even the target accepts its own drafts."""
    folder = tmp_path / "engine"
    folder.mkdir()
    fake = Fake(folder)
    fake.stack = fake.stack.replace("FAKE_FREEZE", 'FAKE_DRAFTS_NOTHING = "1"\nFAKE_FREEZE')
    code, output = bench(fake, tmp_path, "--self-check", "on")

    assert code == 1, output
    assert "the self-check comes first, about" in output
    assert "the instrument is broken: " in output
    assert "Traceback" not in output
    assert not list(tmp_path.glob("results/*/acceptance/*"))
