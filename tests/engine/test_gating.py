"""The gate on real engines: the same again, a drafter made worse, workers side by side."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.engine.conftest import ROOT, Draftgate

SHORT = ("--prompts", "12", "--max-tokens", "48", "--concurrency", "4")
STACK = ROOT / "fixtures/stacks/smollm2-cpu.toml"


def verdicts(output: str) -> list[str]:
    """The rows of the paired table."""
    table = output.split("tokens per step against the baseline")[1]
    return re.findall(r"^(?:chat|raw)-\S+ .*$", table, flags=re.MULTILINE)


def test_a_baseline_is_asked_for_then_met_then_missed(draftgate: Draftgate, tmp_path: Path) -> None:
    """The whole workflow of one cell: no baseline, a new one, the same again, a drafter that drafts less."""
    # Another setting is another drafter: its tokens alone decide, and 12 prompts would be too few.
    enough = ("--prompts", "24", "--max-tokens", "48", "--concurrency", "8")
    cell = ("-m", "chat and zh and ngram and k4", *enough, "--baselines", str(tmp_path / "baselines"))

    first = draftgate.run(*cell, "--update-baselines-new-only")
    assert first.returncode == 0, first.stdout
    (baseline,) = [p for p in tmp_path.glob("baselines/**/*.json") if "anchor" not in p.name]
    before = baseline.read_bytes()

    shy = tmp_path / "shy.toml"
    shy.write_text(
        STACK.read_text().replace(
            "prompt_lookup_min = 2\nprompt_lookup_max = 4", "prompt_lookup_min = 9\nprompt_lookup_max = 9"
        )
    )
    worse = draftgate.run(*cell, "--stack", str(shy), "--junitxml", str(tmp_path / "junit.xml"))

    assert worse.returncode == 1
    assert re.search(
        r"chat-zh-instruct-ngram-k4: regressed: tokens per step [\d.]+ -> [\d.]+ "
        r"\(-[\d.]+ %, 95 % CI -[\d.]+\.\.-[\d.]+\).*paired over 24 prompts, \d+ with the same text",
        worse.stdout,
    ), worse.stdout
    (failure,) = ET.parse(tmp_path / "junit.xml").getroot().iter("failure")  # noqa: S314 - our own file
    assert "chat-zh-instruct-ngram-k4: regressed" in (failure.get("message") or "")
    assert baseline.read_bytes() == before  # nothing moves a baseline by itself


def test_a_missing_baseline_fails_and_names_the_command(draftgate: Draftgate, tmp_path: Path) -> None:
    cell = ("-m", "chat and en and none", "--prompts", "2", "--max-tokens", "8")
    done = draftgate.run(*cell, "--baselines", str(tmp_path / "nothing"))

    assert done.returncode == 1
    assert "no baseline at" in done.stdout
    assert "--update-baselines-new-only" in done.stdout
    assert not (tmp_path / "nothing").exists()


@pytest.mark.nightly
def test_workers_side_by_side_give_the_same_verdicts(draftgate: Draftgate, tmp_path: Path) -> None:
    """One prompt at a time: in a batch a text may move, whoever runs it."""
    alone_at_a_time = ("--prompts", "12", "--max-tokens", "48", "--concurrency", "1")
    cells = ("-m", "chat and en and ngram", *alone_at_a_time, "--baselines", str(tmp_path / "baselines"))
    assert draftgate.run(*cells, "--update-baselines").returncode == 0

    alone, one, two = (draftgate.run(*cells, "-n", n, "--dist", "loadgroup") for n in ("0", "1", "2"))

    assert (alone.returncode, one.returncode, two.returncode) == (0, 0, 0), two.stdout
    assert len(verdicts(alone.stdout)) == 2
    assert verdicts(alone.stdout) == verdicts(one.stdout) == verdicts(two.stdout)
    speeds = re.findall(r"^chat-\S+ .*$", two.stdout.split("aggregate tok/s")[1], flags=re.MULTILINE)[:2]
    assert all(row.split()[1:] == ["—"] * 5 for row in speeds)
