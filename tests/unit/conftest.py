from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories.runs import cell, plain, write_run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def base(here: None) -> str:
    """A run with a drafter in two languages, and with `none` in one."""
    return str(write_run(Path("base"), plain(seconds=4.0), cell(), cell("zh")))
