"""The instrument itself: sound with the patch, found broken without it, and then nothing is measured."""

from __future__ import annotations

import pytest

from tests.engine.conftest import Draftgate

LOSSLESS = (
    "bench_suites/test_lossless.py", "-k", "lossless", "-m", "self and chat and en",
    "--prompts", "4", "--max-tokens", "32", "--self-check", "off",
)  # fmt: skip


@pytest.mark.nightly  # what it checks is checked by test_selfdraft too, and how a run ends on a fake engine
def test_a_broken_instrument_stops_the_run_before_anything_is_measured(draftgate: Draftgate) -> None:
    cell = ("-m", "chat and en and none", "--prompts", "2", "--max-tokens", "8", "--gate", "off")
    code, output = draftgate.run(*cell, env={"DRAFTGATE_MEND": "probe"})

    assert code == 1
    assert "the instrument is broken: vLLM" in output
    assert "the target drafting for itself at T=0.7" in output
    assert "Traceback" not in output
    assert not list(draftgate.results.glob("*/acceptance/*"))


@pytest.mark.nightly
@pytest.mark.parametrize(("patch", "code"), [("1", 0), ("probe", 1)])
def test_the_engine_fault_is_not_lossless(draftgate: Draftgate, patch: str, code: int) -> None:
    found, output = draftgate.run(*LOSSLESS, env={"DRAFTGATE_MEND": patch})

    assert found == code, output
    assert ("not lossless: T=0.7" in output) == bool(code)
