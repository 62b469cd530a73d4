"""Loader workers by the fork server: they give what there is, and do not outlive their trainer."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402

from training.trainer import loader_workers  # noqa: E402


class Samples(torch.utils.data.Dataset):  # type: ignore[misc]
    """Row numbers; odd ones come after a wait."""

    def __init__(self, count: int, wait_s: float) -> None:
        self._count, self._wait_s = count, wait_s

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> int:
        time.sleep(self._wait_s if row % 2 else 0)
        return row


def loader(count: int = 8, wait_s: float = 0.0) -> Any:
    loader_workers.prepare("torch.utils.data")
    return DataLoader(
        Samples(count, wait_s),
        batch_size=2,
        num_workers=2,
        collate_fn=list,
        persistent_workers=True,
        multiprocessing_context="spawn",
    )


def trainer() -> None:
    """Starts two workers, of which one waits for row 1 and one has nothing to do after row 2, and waits."""
    made = loader(3, 3600.0)  # they end with it, too
    loader_workers.start(made)
    print("started", flush=True)
    sys.stdin.read()


def test_they_read_everything_in_order_in_every_epoch() -> None:
    made = loader()
    loader_workers.start(made)
    expected = [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [list(made), list(made)] == [expected] * 2
    assert made.multiprocessing_context.get_start_method() == "forkserver"


def test_a_loader_without_workers_needs_none() -> None:
    alone = DataLoader(Samples(8, 0.0), batch_size=8, collate_fn=list)
    loader_workers.start(alone)
    assert next(iter(alone)) == [*range(8)]


@pytest.mark.parametrize("alive", [True, False])
def test_what_breaks_off_with_the_trainer_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, alive: bool
) -> None:
    """On a fake trainer: how far a real one's end has come when a connection breaks off is chance."""
    ends: list[int] = []
    fake = SimpleNamespace(join=lambda timeout=None: time.sleep(timeout or 1e6), is_alive=lambda: alive)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: fake)
    monkeypatch.setattr(loader_workers, "os", SimpleNamespace(_exit=ends.append))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    loader_workers.end_with_trainer(0)

    sys.excepthook(EOFError, EOFError("broken off"), None)
    assert ends == ([] if alive else [1])
    assert ("broken off" in capsys.readouterr().err) or not alive


def test_they_end_with_a_trainer_that_was_killed() -> None:
    """Torch's own watch is on their parent, the fork server, which waits for them."""
    code = "from tests.component.test_training_workers import trainer; trainer()"
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
