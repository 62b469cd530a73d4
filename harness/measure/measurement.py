"""Measures a cell on a server: warms it up, passes over the prompts, and keeps each record as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections import ChainMap, Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from harness.config.cells import WARM_TOKENS, Cell
from harness.config.prompts import Prompt, check_texts, first_rows
from harness.config.stack import Profile
from harness.engine.metrics import SpecCounters, settled
from harness.engine.offers import dynamic_k
from harness.engine.server import Server
from harness.engine.watchdog import MOST_STALLS, STALL_SECONDS, Guard, Stall, guarded, stalls_in
from harness.errors import ServerFailed
from harness.measure import draft_vocab, engine_findings, validity
from harness.measure.client import Client, InFlight, OnTokens, not_reported, seed_of
from harness.measure.turns import lacking, with_history
from harness.provenance.hardware import environment
from harness.provenance.record import folder_of, identity, patches_of, provenance, subject
from harness.results.conditions import UNVERIFIED, Environment
from harness.results.files import write_atomically
from harness.results.journal import Journal, in_order
from harness.results.names import SERVERS
from harness.results.records import UNTIMED, CellRecord, Finding, PromptRecord, dump_cell

Progress = Callable[[Cell, int, int], None]
_Answered = asyncio.Queue[PromptRecord | None]
Renew = Callable[[str], Server]
"""Told why, it gives another server like the one that stalled."""


class Measurement:
    """One cell being measured: `prepare`, then `one_pass` for each repeat, then `finish`."""

    def __init__(
        self,
        *,
        server: Server,
        cell: Cell,
        suite: str,
        prompts: Sequence[Prompt],
        warmups: Sequence[Prompt],
        repeats: int,
        seed: int,
        timed: bool,
        folder: Path,
        progress: Progress,
        renew: Renew | None = None,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        """Opens the cell's journal in `folder`; prompts that are there already are not sent again.

        A server that stalls is ended; without `renew`, the measurement ends with it.

        Raises:
            BadRecord: the journal was written under other conditions, or is damaged.
        """
        self._server, self._cell, self._suite = server, cell, suite
        self._prompts, self._warmups = prompts, warmups[: cell.profile.warmups]
        self._repeats, self._seed, self._timed, self._progress = repeats, seed, timed, progress
        self._path = folder / f"{cell}.json"
        self._identity = identity(cell, server)
        self._subject = subject(cell, server)
        drafter = server.speculative.get("model") if server.speculative else None
        self._vocabulary = draft_vocab.draft_vocabulary(folder_of(drafter, None))
        self._emitted: Counter[int] = Counter()
        head = {
            "cell": str(cell),
            "identity": self._identity.model_dump(),
            "subject": self._subject.model_dump(),
            "seed": seed,
        }
        self._journal = Journal(folder / f"{cell}.jsonl", head)
        check_texts(prompts, self._journal.records, self._journal.path)
        wanted = {(p.id, repeat) for p in prompts for repeat in range(repeats)}
        kept = {(r.prompt, r.repeat): r for r in self._journal.records}
        self._done = {key: kept[key] for key in kept if key in wanted}
        self._resumed = bool(self._done)
        self._by_counters, self._prepared, self._stalls, self._origin = False, False, 0, 0.0
        self._before: SpecCounters | None = None
        self._renew, self._stall_seconds = renew, stall_seconds
        self._evidence = server.log.parent if server.log else folder.parent / SERVERS
        self._note = f"{suite}/{cell}"
        self._restarts = stalls_in(self._evidence, self._note)
        self._in_flight, self._writing = InFlight(), threading.Lock()
        self._guard: Guard
        self.seen: dict[str, Any] = {}
        """What else the record's provenance says, by the caller's names."""

    def prepare(self) -> None:
        """Warm up, find out where acceptance is read from, and read the counters.

        Raises:
            ServerFailed: the server is busy with other work, or reports acceptance in no way that fits.
        """
        if len(self._done) < self._repeats * len(self._prompts):
            self._run(self._prepare)

    def one_pass(self, repeat: int, *, first: int | None = None) -> None:
        """Send every prompt that this repeat still lacks, of the first `first` rows or of all.

        Raises:
            ServerFailed: the server stalled, and either too often or it is not ours to start anew.
        """
        self._send((repeat,), first_rows(self._prompts, first))

    def all_passes(self) -> None:
        """Send what all repeats still lack in one stream: no pass waits for the last answer of another.

        Raises:
            ServerFailed: as `one_pass`.
        """
        self._send(range(self._repeats), self._prompts)

    def _send(self, repeats: Sequence[int], prompts: Sequence[Prompt]) -> None:
        if lacking(repeats, prompts, self._done):
            self._run(lambda: self._passes(repeats, prompts))

    def so_far(self, stopped_at: int) -> CellRecord:
        """The record of a sequential measurement at one of its looks; nothing is written."""
        return self._record(moved=None, stopped_at=stopped_at)

    def finish(self, *, stopped_at: int | None = None) -> CellRecord:
        """Look at what was measured, write the cell file, and return the record."""
        moved: dict[str, int] | None = None
        if self._before is not None:
            moved = (asyncio.run(settled(self._server.counters)) - self._before).kept()
        record = self._record(moved=moved, stopped_at=stopped_at)
        write_atomically(self._path, dump_cell(record))
        return record

    def _record(self, *, moved: dict[str, int] | None, stopped_at: int | None) -> CellRecord:
        spec, records = self._cell.spec, in_order(self._done.values(), [p.id for p in self._prompts])
        here = None if self._server.attached else environment(spec, python=spec.engine_python)
        if not self._timed:
            records = tuple(r.model_copy(update=UNTIMED) for r in records)
        return CellRecord(
            stack=spec.stack,
            profile=self._cell.profile_name,
            suite=self._suite,
            cell=self._cell.name,
            identity=self._identity,
            subject=self._subject,
            environment=here or Environment(cpu=UNVERIFIED),
            provenance={**provenance(self._server), "run": self._evidence.parent.name, **self.seen},
            stopped_at=stopped_at,
            warmups=len(self._warmups),
            counters=moved or {},
            findings=validity.findings(
                self._cell.name,
                records,
                moved=moved if not self._resumed else None,
                cache=self._cell.profile.cache,
                patches=patches_of(self._server),
                restarts=self._restarts,
                max_tokens=self._cell.profile.max_tokens,
                remembers=validity.remembers(self._subject),
                engine_chooses=bool(dynamic_k(self._subject.settings)),
            )
            + self._conditions(records),
            prompts=records,
        )

    def _conditions(self, records: Sequence[PromptRecord]) -> tuple[Finding, ...]:
        """Of the tokens that this process saw: those of an interrupted one before it are not known."""
        known = self._vocabulary
        return engine_findings.findings(
            self._cell.name,
            self._subject,
            identity=self._identity,
            declared=self._cell.subject,
            covered=draft_vocab.coverage(known, self._emitted) if known else None,
            unverified=self._server.unverified,
            records=records,
        )

    def _client(self, profile: Profile, on_tokens: OnTokens | None = None) -> Client:
        return Client(
            url=self._server.url,
            key=self._server.key,
            model=self._server.model,
            endpoint=self._cell.name.endpoint,
            profile=profile,
            k=self._cell.name.k,
            server=self._server.start_id,
            timeout_s=self._cell.spec.request_timeout_s,
            in_flight=self._in_flight,
            on_tokens=on_tokens,
            template=self._cell.template,
        )

    def _run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do `work` under the watchdog; after a stall again, with a server started anew."""
        while True:
            with guarded(
                self._server,
                stall_seconds=self._stall_seconds,
                in_flight=lambda: self._in_flight.count,
                folder=self._evidence,
                note=self._note,
            ) as self._guard:
                try:
                    asyncio.run(self._until_stalled(work()))
                except ServerFailed:
                    if not asyncio.run(self._lost()):
                        raise
            if self._guard.stalled is None:
                return
            self._start_anew(self._guard.stalled)

    async def _until_stalled(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for `work`, and give it up on a stall: an attached server would never break off a request."""
        guard, loop, task = self._guard, asyncio.get_running_loop(), asyncio.create_task(work)

        def give_up(_: Stall) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: the work is done
                loop.call_soon_threadsafe(task.cancel)

        guard.on_stall = give_up
        if guard.stalled:
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if guard.stalled is None or (this and this.cancelling()):  # Ctrl-C
                raise

    async def _lost(self) -> bool:
        """After something failed: the server is no more, or hangs. One that hangs is waited for to stall."""
        while True:
            with contextlib.suppress(TimeoutError):
                return await asyncio.to_thread(self._guard.look) is not None

    def _start_anew(self, stall: Stall) -> None:
        self._stalls += 1
        kept = f"the {len(self._done)} prompts measured before are kept, --resume goes on from there"
        evidence = f" (evidence: {stall.evidence})" if stall.evidence else ""
        seen = f"{self._cell}: the server stalled: {stall.reason}{evidence}"
        if self._renew is None or self._server.attached:
            raise ServerFailed(f"{seen}; it is not started anew here; {kept}", code="server-stalled")
        if self._stalls == MOST_STALLS:
            raise ServerFailed(
                f"{seen}; that was stall {self._stalls} of this cell; {kept}", code="server-stalled"
            )
        try:
            self._server = self._renew(stall.reason)
        except ServerFailed as error:
            raise ServerFailed(
                f"{seen}; it could not be started anew; {kept}: {error}", code="server-stalled"
            ) from None
        self._restarts.append(stall.reason)
        self._prepared = False
        self._journal.segment += 1
        # As after a resume: no server's counters hold all prompts.
        self._resumed = bool(self._done)

    async def _ask(self, client: Client, prompt: Prompt, repeat: int) -> PromptRecord:
        return await client.ask(
            prompt,
            repeat=repeat,
            seed=seed_of(prompt.id, repeat=repeat, base=self._seed),
            salt=secrets.token_hex(8) if self._cell.profile.cache == "cold" else None,
            origin=self._origin,
            segment=self._journal.segment,
            counters=self._server.counters if self._by_counters else None,
        )

    async def _prepare(self) -> None:
        drafts = self._cell.name.k > 0
        self._by_counters = drafts and not self._server.per_request
        profile = self._cell.profile
        concurrency, shorter = profile.concurrency, {"max_tokens": min(profile.max_tokens, WARM_TOKENS)}
        at_once = 1 if self._by_counters else concurrency
        async with self._client(profile.model_copy(update=shorter)) as client:
            for at in range(0, len(self._warmups), at_once):
                asked = [self._ask(client, prompt, 0) for prompt in self._warmups[at : at + at_once]]
                records = await asyncio.gather(*asked)
                if self._server.attached and drafts and any(map(not_reported, records)):
                    self._by_counters = True
        if self._by_counters and (concurrency > 1 or not self._server.counts):
            needs = f"needs concurrency 1 (the profile has {concurrency})"
            raise ServerFailed(
                "this engine reports no acceptance per request, so it is read from /metrics around each "
                f"prompt, which {needs if self._server.counts else 'it does not show'}: "
                "add --concurrency 1, or use vLLM 0.29 or later",
                code="no-acceptance-per-request",
            )
        self._before = await settled(self._server.counters) if self._server.counts else None
        self._prepared = True
        self._origin = time.perf_counter()

    async def _row(self, client: Client, row: list[tuple[Prompt, int]], answered: _Answered) -> bool:
        """Ask the turns of a row, one after the other. False where the server was lost."""
        done = ChainMap[tuple[str, int], PromptRecord]({}, self._done)
        for prompt, repeat in row:
            turn = with_history(prompt, repeat, prompts=self._prompts, done=done)
            done[prompt.id, repeat] = record = await self._ask(client, turn, repeat)
            if record.failed and await self._lost():
                return False  # not the prompt's fault: the next server is asked it again
            await answered.put(record)
        return True

    async def _passes(self, repeats: Sequence[int], prompts: Sequence[Prompt]) -> None:
        if not self._prepared:
            await self._prepare()
        todo = iter(lacking(repeats, prompts, self._done))

        # Written by a task of its own: a slow disk must not make the next prompt wait.
        answered: _Answered = asyncio.Queue()

        async def worker(client: Client) -> None:
            for row in todo:  # one iterator for all workers: each row is taken once
                if not await self._row(client, row, answered):
                    return

        async def workers() -> None:
            profile, emitted = self._cell.profile, self._emitted
            async with self._client(profile, lambda _prompt, _rendered, ids: emitted.update(ids)) as client:
                await asyncio.gather(*(worker(client) for _ in range(profile.concurrency)))
            await answered.put(None)

        async def write() -> None:
            while (record := await answered.get()) is not None:
                await asyncio.to_thread(self._keep, record)
                self._progress(self._cell, len(self._done), self._repeats * len(self._prompts))

        try:
            await asyncio.gather(workers(), write())
        finally:
            while not answered.empty():  # interrupted: what came back is kept all the same
                if (record := answered.get_nowait()) is not None:
                    self._keep(record)

    def _keep(self, record: PromptRecord) -> None:
        with self._writing:  # interrupted, two threads may be here
            self._journal.append(record)
            self._done[record.prompt, record.repeat] = record
