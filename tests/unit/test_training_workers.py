"""Loader workers by the fork server: they give what others give, and do not outlive their trainer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("speculators")

from torch.utils.data import DataLoader  # noqa: E402

from training.trainer import _start_workers  # noqa: E402
from training.transfer import ENDED, AheadTransfer  # noqa: E402


class Samples(torch.utils.data.Dataset):  # type: ignore[misc]
    """Row numbers that came, None for those that never will; even ones are there from the start."""

    def __init__(self, folder: Path, count: int, patience_s: float) -> None:
        self._transfer = AheadTransfer(folder, patience_s)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> int | None:
        return row if row % 2 == 0 or self._transfer.get_cached(row) is not None else None


def loader(folder: Path, count: int = 8, patience_s: float = 0.0) -> Any:
    return DataLoader(
        Samples(folder, count, patience_s),
        batch_size=2,
        num_workers=2,
        collate_fn=list,
        persistent_workers=True,
        multiprocessing_context="spawn",
    )


def trainer(folder: str) -> None:
    """Starts two workers, of which one waits for row 1 and one has nothing to do after row 2, and waits."""
    _start_workers(loader(Path(folder), 3, 3600.0))
    print("started", flush=True)
    sys.stdin.read()


def test_they_read_what_spawned_workers_read(tmp_path: Path) -> None:
    (tmp_path / ENDED).touch()
    ours, theirs = loader(tmp_path), loader(tmp_path)
    _start_workers(ours)
    expected = [[0, None], [2, None], [4, None], [6, None]]
    assert [list(ours), list(ours), list(theirs)] == [expected] * 3


def test_a_loader_without_workers_needs_none(tmp_path: Path) -> None:
    (tmp_path / ENDED).touch()
    alone = DataLoader(Samples(tmp_path, 8, 0.0), batch_size=8, collate_fn=list)
    _start_workers(alone)
    assert next(iter(alone))[:2] == [0, None]


def test_they_end_with_a_trainer_that_was_killed(tmp_path: Path) -> None:
    """Torch's own watch is on their parent, the fork server, which waits for them."""
    code = f"from tests.unit.test_training_workers import trainer; trainer({str(tmp_path)!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 3  # the fork server and its two, with torch's tracker of resources
        process.kill()
        process.wait()
        _, left = psutil.wait_procs(started, timeout=30)
        for one in left:
            one.kill()
        assert not left
