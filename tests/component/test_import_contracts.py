"""`make lint` fails on an import that points upward: the contracts are broken on purpose, in a copy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BROKEN = {
    "harness: a package imports only from those below it": ("harness/stats/paired.py", "harness.run"),
    "harness imports neither training nor the fixtures": ("harness/errors.py", "training.errors"),
    "training imports neither the fixtures nor pytest": ("training/errors.py", "pytest"),
    "pytest is known in the plugin's modules and fixtures/ alone": ("harness/text/render.py", "pytest"),
    "vLLM is imported in engine/ alone": ("harness/provenance/hardware.py", "vllm"),
}
"""By contract: a module, and what it must not import."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("harness", "training", "fixtures"):
        for file in (ROOT / name).rglob("*.py"):
            path = tmp_path / file.relative_to(ROOT)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_can_be_broken(copy: Path) -> None:
    for module, imported in BROKEN.values():
        with (copy / module).open("a", encoding="utf-8") as file:
            file.write(f"\nimport {imported}\n")

    line = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    done = subprocess.run(line, cwd=copy, capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 1, done.stderr
    assert {contract for contract in BROKEN if f"{contract} BROKEN" in done.stdout} == set(BROKEN), (
        done.stdout
    )
    assert f"Contracts: 0 kept, {len(BROKEN)} broken." in done.stdout
