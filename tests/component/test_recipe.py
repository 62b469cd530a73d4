"""`draftgate recipe` as a user runs it: on folders of runs, and its page as `draftgate claims` reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness.judge.speedup import SpeedRecord, write
from tests.factories.runs import cell, plain, write_run

DRAFTER = {
    "drafter": "ngram",
    "k": 4,
    "method": "ngram",
    "engine": "0.32.0",
    "settings": {"prompt_lookup_max": 4},
}
COMMAND = (
    "vllm serve /path/to/tiny --dtype bfloat16 --speculative-config "
    '\'{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}\''
)


def draftgate(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_starts_in_turn_make_a_claim_and_the_page_holds(tmp_path: Path) -> None:
    record = cell(subject=DRAFTER)
    run = write_run(tmp_path / "run", plain(seconds=4.0), record)
    names = ("stack", "profile", "cell", "identity", "subject", "environment", "provenance")
    fields = {name: getattr(record, name) for name in names}
    write(
        run / "speed" / f"{record.cell}.json", SpeedRecord(**fields, ratios=(1.4, 1.5, 1.45, 1.42, 1.44, 1.5))
    )
    other = write_run(tmp_path / "other", *(
        one.model_copy(update={"environment": one.environment.model_copy(update={"cpu": "another CPU"})})
        for one in (plain(seconds=0.2), record)
    ))  # fmt: skip
    page = tmp_path / "page.md"

    shown = draftgate("recipe", run, other)
    written = draftgate("recipe", run, other, "--output", page)
    checked = draftgate("claims", page, run, other)

    assert (shown.returncode, shown.stderr, written.returncode, written.stdout) == (0, "", 0, "")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("| 1.45 |", "| 1.46 |"), encoding="utf-8")
    assert draftgate("claims", page, run, other).returncode == 1
    page.write_text(text, encoding="utf-8")
    for text in (shown.stdout, page.read_text(encoding="utf-8")):
        first, second = text.split("another CPU")  # a block for each device
        assert COMMAND in first
        assert "6 pairs of starts" in first
        assert "description" not in first
        assert "--speculative-config" not in second
        assert "vllm serve /path/to/tiny --dtype bfloat16" in second  # drafting is slower there


def test_a_folder_that_is_no_run_ends_in_a_sentence(tmp_path: Path) -> None:
    refused = draftgate("recipe", tmp_path)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.rstrip().endswith("[no-cells]")
