"""The embedded model: converted once, whoever asks, and made again when it is damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RESOLVE = """
from harness.engine.models import resolve
said = []
print(resolve("embedded:smollm2-135m-instruct", say=said.append))
print(any(" ready in " in text for text in said))
"""


def ask(cache: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "DRAFTGATE_CACHE": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-c", RESOLVE], env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.nightly  # the model is converted three times, and imported five times
def test_two_at_once_convert_it_once_and_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    both = [ask(tmp_path), ask(tmp_path)]
    answers = [process.communicate(timeout=300)[0].split() for process in both]

    (folder,) = {answer[0] for answer in answers}
    assert sorted(answer[1] for answer in answers) == ["False", "True"]
    assert sorted(p.name for p in (tmp_path / "models").iterdir() if p.is_dir()) == [Path(folder).name]

    weights = Path(folder) / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(1000)
    again = ask(tmp_path).communicate(timeout=300)[0].split()

    assert again == [folder, "True"]
    assert weights.stat().st_size > 1000
    assert ask(tmp_path).communicate(timeout=300)[0].split() == [folder, "False"]
