"""Loader workers by the fork server: they give what there is, and do not outlive their trainer."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("speculators")

from torch.utils.data import DataLoader  # noqa: E402

from training import interruption  # noqa: E402
from training.interruption import end_with_trainer  # noqa: E402
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
    forkserver.set_forkserver_preload(["training.trainer"])
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
    made = loader(Path(folder), 3, 3600.0)  # they end with it, too
    _start_workers(made)
    print("started", flush=True)
    sys.stdin.read()


def test_they_read_everything_in_order_in_every_epoch(tmp_path: Path) -> None:
    (tmp_path / ENDED).touch()
    made = loader(tmp_path)
    _start_workers(made)
    expected = [[0, None], [2, None], [4, None], [6, None]]
    assert [list(made), list(made)] == [expected] * 2


def test_a_loader_without_workers_needs_none(tmp_path: Path) -> None:
    (tmp_path / ENDED).touch()
    alone = DataLoader(Samples(tmp_path, 8, 0.0), batch_size=8, collate_fn=list)
    _start_workers(alone)
    assert next(iter(alone))[:2] == [0, None]


@pytest.mark.parametrize("alive", [True, False])
def test_what_breaks_off_with_the_trainer_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, alive: bool
) -> None:
    """On a fake trainer: how far a real one's end has come when a connection breaks off is chance."""
    ends: list[int] = []
    fake = SimpleNamespace(join=lambda timeout=None: time.sleep(timeout or 1e6), is_alive=lambda: alive)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: fake)
    monkeypatch.setattr(interruption, "os", SimpleNamespace(_exit=ends.append))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    end_with_trainer(0)

    sys.excepthook(EOFError, EOFError("broken off"), None)
    assert ends == ([] if alive else [1])
    assert ("broken off" in capsys.readouterr().err) or not alive


def test_they_end_with_a_trainer_that_was_killed(tmp_path: Path) -> None:
    """Torch's own watch is on their parent, the fork server, which waits for them."""
    code = f"from tests.unit.test_training_workers import trainer; trainer({str(tmp_path)!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) == 4  # Python's tracker of resources, the fork server and its two
        process.kill()
        process.wait()
        _, left = psutil.wait_procs(started, timeout=30)
        for one in left:
            one.kill()
        assert not left
