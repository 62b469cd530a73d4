"""Runs the extraction ahead of the trainer, and starts the server again when it stalls."""

from __future__ import annotations

import dataclasses
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.config.cells import ServerSpec
from harness.engine.server import Server
from harness.engine.slot import Slot
from harness.engine.watchdog import MOST_STALLS, Guard, guarded
from harness.text.console import Say
from training.errors import Stalled, TrainingFailed
from training.hidden.extract import Extractor, Progress, ServerGone
from training.trainer import metrics


@dataclasses.dataclass(kw_only=True)
class Prefetcher:
    """Extracts all rows' hidden states in the trainer's order, while the trainer follows."""

    rows: Callable[[int], Sequence[int]]
    order: Callable[[], list[int]]
    """Called once, while the first server starts: it takes seconds."""
    folder: Path
    spec: ServerSpec
    slot: Slot
    trainer: subprocess.Popen[bytes]
    metrics_file: Path
    progress: Progress
    concurrency: int
    max_missing: float
    stall_seconds: float
    say: Say
    server_s: float = 0.0
    """Seconds until the first server was ready."""
    seconds: float = 0.0
    """Seconds spent extracting."""
    stalls: int = 0

    def run(self) -> None:
        """Extract until all rows have a file or the trainer has ended; both may be so at the start.

        Raises:
            TrainingFailed: more samples than allowed got no hidden states, or the third stall.
        """
        began = time.monotonic()
        if self._all_there():
            self.progress.done = self.progress.wanted
            return
        with ThreadPoolExecutor(1, thread_name_prefix="order") as thread:
            ordering = thread.submit(self.order)
            server = self.slot.get(self.spec)
        self.server_s = time.monotonic() - began
        while True:
            why = self._once(server, ordering.result())
            if self._too_many_missing():
                raise TrainingFailed(
                    f"{self.progress.missing} of {self.progress.wanted} samples got no hidden states; the "
                    f"recipe allows {self.max_missing:.1%} (hidden_states.max_missing); read the server's "
                    f"log, {server.log}",
                    code="no-hidden-states",
                )
            if self.trainer.poll() is not None or self.progress.done >= self.progress.wanted:
                return
            self.stalls += 1
            self.slot.close()
            if self.stalls == MOST_STALLS:
                raise Stalled(
                    f"the server stalled {MOST_STALLS} times while it extracted hidden states: {why}; its "
                    f"log is {server.log}; run the same command to go on with the {self._left()} rows that "
                    "are left"
                )
            self.say(
                f"the server stalled ({self.stalls} of {MOST_STALLS}): {why}; evidence beside {server.log}"
            )
            server = self.slot.get(self.spec)

    def _all_there(self) -> bool:
        """Whether an earlier run extracted all rows, so that no server is needed."""
        return all((self.folder / f"hs_{row}.safetensors").exists() for row in range(self.progress.wanted))

    def _left(self) -> int:
        return self.progress.wanted - self.progress.done

    def _too_many_missing(self) -> bool:
        return self.progress.missing > self.max_missing * self.progress.wanted

    def _once(self, server: Server, order: list[int]) -> str:
        """Extract with one server until it stalls or all is done; return why it stopped."""
        progress, halt, gone = self.progress, threading.Event(), []
        progress.done = progress.missing = 0
        before = progress.written
        start = time.monotonic()
        with guarded(server, stall_seconds=self.stall_seconds, in_flight=lambda: progress.in_flight) as guard:

            def work() -> None:
                try:
                    self._extractor(server, halt, guard).run(order)
                except ServerGone as error:
                    gone.append(str(error))

            thread = threading.Thread(target=work, name="extraction")
            thread.start()
            try:
                while thread.is_alive():
                    thread.join(0.5)
                    self._show(progress.written - before, time.monotonic() - start)
                    if self._too_many_missing() or self.trainer.poll() is not None:
                        halt.set()
            finally:
                halt.set()
                thread.join()
        self.seconds += time.monotonic() - start
        return guard.stalled.reason if guard.stalled else gone[0] if gone else "it ended"

    def _extractor(self, server: Server, halt: threading.Event, guard: Guard) -> Extractor:
        return Extractor(
            rows=self.rows,
            server=server,
            folder=self.folder,
            concurrency=self.concurrency,
            progress=self.progress,
            stop=lambda: halt.is_set() or guard.stalled is not None,
        )

    def _show(self, written: int, seconds: float) -> None:
        progress = self.progress
        rate = written / seconds if seconds else 0.0
        left = f", {self._left() / rate:.0f} s left" if rate else ""
        self.say(
            f"\rhidden states {progress.done}/{progress.wanted}, {rate:.0f}/s{left}; "
            f"{metrics.last_line(self.metrics_file)}"
        )
