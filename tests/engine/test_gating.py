"""The gate on real engines: the same again, a drafter made worse, workers side by side."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.engine.server import Server
from harness.judge import baselines
from harness.results.records import CellRecord
from tests.engine.conftest import NGRAM, ROOT, Draftgate

STACK = ROOT / "fixtures/stacks/smollm2-cpu.toml"


def verdicts(output: str) -> list[str]:
    """The rows of the paired table."""
    table = output.split("tokens per step against the baseline")[1]
    return re.findall(r"^(?:chat|raw)-\S+ .*$", table, flags=re.MULTILINE)


@NGRAM
def test_a_drafter_that_drafts_less_misses_its_baseline_on_other_prompts_too(
    record_of: Callable[..., CellRecord], draftgate: Draftgate, tmp_path: Path
) -> None:
    """The baseline is the shared server's; the run starts its own, and does the self-check if need be."""
    # Another setting is another drafter: its tokens alone decide, and 12 prompts would be too few.
    shape = {"prompts": 16, "max_tokens": 24, "concurrency": 8}
    first, others = (
        record_of(language="zh", profile_name="quick", after=after, folder=f"after{after}", **shape)
        for after in (0, shape["prompts"])
    )
    baseline = baselines.store(tmp_path / "baselines", first, reserve=others)
    before = baseline.read_bytes()
    shy = tmp_path / "shy.toml"
    shy.write_text(
        STACK.read_text().replace(
            "prompt_lookup_min = 2\nprompt_lookup_max = 4", "prompt_lookup_min = 9\nprompt_lookup_max = 9"
        )
    )
    words = [word for name, value in shape.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    code, output = draftgate.run(
        "-m", "chat and zh and ngram and k4", *words, "--confirm", "--baselines", str(tmp_path / "baselines"),
        "--stack", str(shy), "--junitxml", str(tmp_path / "junit.xml"),
    )  # fmt: skip

    assert code == 1
    assert "self-check: vLLM" in output
    assert re.search(
        r"chat-zh-instruct-ngram-k4: regressed: tokens per step [\d.]+ -> [\d.]+ "
        r"\(-[\d.]+ %, 95 % CI -[\d.]+\.\.-[\d.]+\).*paired over 16 prompts, \d+ with the same text"
        r".*; confirmed on 16 other prompts",
        output,
    ), output
    (failure,) = ET.parse(tmp_path / "junit.xml").getroot().iter("failure")  # noqa: S314 - our own file
    assert "chat-zh-instruct-ngram-k4: regressed" in (failure.get("message") or "")
    assert baseline.read_bytes() == before  # nothing moves a baseline by itself


@NGRAM
def test_a_baseline_is_asked_for_then_made_then_met(
    engine: Server, draftgate: Draftgate, tmp_path: Path
) -> None:
    folder = tmp_path / "baselines"

    def run(*words: str) -> tuple[int, str]:
        return draftgate.run(
            "-m", "chat and en and ngram and k4", "--prompts", "8", "--max-tokens", "8",
            "--server-url", engine.url, "--baselines", str(folder), *words,
            env={"DRAFTGATE_API_KEY": engine.key},
        )  # fmt: skip

    code, output = run()
    assert code == 1
    assert "no baseline in" in output
    assert "--update-baselines-new-only" in output
    assert not folder.exists()

    code, output = run("--update-baselines-new-only")
    assert code == 0, output
    assert [p for p in folder.glob("**/*.json") if "anchor" not in p.name]

    code, output = run()
    assert code == 0, output
    assert "chat-en-instruct-ngram-k4: identical" in output


@pytest.mark.nightly
def test_workers_side_by_side_give_the_same_verdicts(draftgate: Draftgate, tmp_path: Path) -> None:
    """One prompt at a time: in a batch a text may move, whoever runs it."""
    alone_at_a_time = ("--prompts", "12", "--max-tokens", "48", "--concurrency", "1")
    cells = ("-m", "chat and en and ngram", *alone_at_a_time, "--baselines", str(tmp_path / "baselines"))
    assert draftgate.run(*cells, "--update-baselines")[0] == 0

    runs = [draftgate.run(*cells, "-n", n, "--dist", "loadgroup") for n in ("0", "1", "2")]
    alone, one, two = (output for _, output in runs)

    assert [code for code, _ in runs] == [0, 0, 0], two
    assert len(verdicts(alone)) == 2
    assert verdicts(alone) == verdicts(one) == verdicts(two)
    speeds = re.findall(r"^chat-\S+ .*$", two.split("aggregate tok/s")[1], flags=re.MULTILINE)[:2]
    assert all(row.split()[1:] == ["—"] * 5 for row in speeds)
