"""What comes with draftgate: in a checkout it lies beside the package `harness`, in a wheel inside it."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (_PACKAGE / "fixtures").is_dir()
"""This is a wheel's copy. A wheel holds nothing on the top level but `harness`."""
_ROOT = _PACKAGE if INSTALLED else _PACKAGE.parent
DATA = _ROOT / "fixtures"
"""Holds `stacks/`, `prompts/` and `drafters/`."""
SUITES = _ROOT / "bench_suites"
PREFIX = f"{_PACKAGE.name}." * INSTALLED
"""Of the names of the modules in both folders."""
EMBEDDED = "embedded:"
"""Begins the name of a model that comes in a Python package."""


def embedded_drafter(reference: str) -> Path | None:
    """The folder of the shipped drafter that `embedded:NAME` means; None where it means something else."""
    folder = DATA / "drafters" / reference.removeprefix(EMBEDDED)
    return folder if reference.startswith(EMBEDDED) and folder in drafters() else None


def drafters() -> list[Path]:
    """The folders of the shipped drafters."""
    return sorted(file.parent for file in (DATA / "drafters").glob("*/config.json"))
