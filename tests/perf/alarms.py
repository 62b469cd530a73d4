"""Does the watchdog cry wolf? Mixed load on a real engine, and two watchdogs that must stay silent.

    python -m tests.perf.alarms [--minutes 60] [--stall-seconds 20]

Short answers, long answers, prompts that take long to read (few tokens a step), bursts that queue, and
pauses, drawn at random (the seed is printed). One watchdog knows the requests in flight, as in the suites
and the training; the other one only the server's own gauges, as `draftgate watch` does. Printed: alarms of
each, and the longest time that the engine had work and nothing moved, which says how near an alarm was.
Exit code 1 where there was an alarm.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness.config.cells import ServerSpec, server_spec
from harness.engine.server import Server, running
from harness.engine.watchdog import STALL_SECONDS, Guard
from harness.measure.client import InFlight
from tests import perf

SEATS, CHUNK, LONGEST = 4, 64, 1900
"""Requests at a time, tokens read a step, tokens of a long prompt."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of work: so many requests at once, their tokens in and out."""

    requests: tuple[int, int]
    prompt: tuple[int, int]
    answer: tuple[int, int]


KINDS = {
    "short": Kind(requests=(1, 2), prompt=(5, 60), answer=(1, 24)),
    "long answers": Kind(requests=(1, 4), prompt=(5, 60), answer=(150, 300)),
    "long prefills": Kind(requests=(1, 4), prompt=(LONGEST - 300, LONGEST), answer=(1, 2)),
    "a queue": Kind(requests=(8, 16), prompt=(200, LONGEST), answer=(1, 60)),
}
PAUSE = 0.15
"""Share of pauses, of up to ten seconds."""


@dataclasses.dataclass(kw_only=True)
class Seen:
    """What one watchdog made of it."""

    alarms: list[str] = dataclasses.field(default_factory=list)
    longest_still_s: float = 0.0
    longest_silent_s: float = 0.0


def tight(spec: ServerSpec) -> ServerSpec:
    """The same server with few seats, reading few tokens a step: prefills are long, and requests queue."""
    few = {"max_num_seqs": SEATS, "max_num_batched_tokens": CHUNK}
    return dataclasses.replace(spec, args={**spec.args, **few})


class Load:
    """Requests of random token ids to one server."""

    def __init__(self, server: Server, seed: int) -> None:
        """Nothing is sent yet."""
        self.in_flight, self.sent, self.errors = InFlight(), Counter[str](), Counter[str]()
        self._server, self._random, self._lock = server, random.Random(seed), threading.Lock()  # noqa: S311 - a load

    def work(self, pool: ThreadPoolExecutor) -> None:
        """One piece of work of a random kind; back when all of it was answered."""
        draw = self._random
        name = draw.choice(sorted(KINDS))
        kind = KINDS[name]
        several = [
            ([draw.randrange(1000, 40_000) for _ in range(draw.randint(*kind.prompt))],
             draw.randint(*kind.answer))
            for _ in range(draw.randint(*kind.requests))
        ]  # fmt: skip
        list(pool.map(lambda one: self._ask(*one), several))
        self.sent[name] += len(several)

    def _ask(self, prompt: list[int], tokens: int) -> None:
        body = {"model": self._server.model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
        request = urllib.request.Request(
            f"{self._server.url}/v1/completions",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {self._server.key}", "Content-Type": "application/json"},
        )
        with self._lock:
            self.in_flight.__enter__()
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                answer.read()
        except OSError as error:
            self.errors[str(error)] += 1
        finally:
            with self._lock:
                self.in_flight.__exit__()


def watched(
    server: Server,
    *,
    seconds: float,
    stall_seconds: float,
    folder: Path,
    seed: int,
    say: Callable[[str], None],
) -> tuple[dict[str, Seen], Load]:
    """Mixed load for so long under both watchdogs, which stop nothing."""
    load = Load(server, seed)
    sources: dict[str, Callable[[], int] | None] = {
        "requests in flight": lambda: load.in_flight.count,
        "the server's gauges": None,
    }
    seen = {name: Seen() for name in sources}
    over = threading.Event()

    def watch(name: str) -> None:
        while not over.is_set():
            guard = Guard(
                server.http,
                stall_seconds=stall_seconds,
                evidence=folder / f"{name.replace(' ', '-')}-{len(seen[name].alarms)}.stall.json",
                in_flight=sources[name],
                interval=min(1.0, stall_seconds / 8),
            )
            while not over.wait(guard.interval):
                stall = guard.read()
                one = seen[name]
                one.longest_still_s = max(one.longest_still_s, guard.watch.still_s)
                one.longest_silent_s = max(one.longest_silent_s, guard.watch.silent_s)
                if stall:
                    one.alarms.append(stall.reason)
                    say(f"ALARM ({name}): {stall.reason}")
                    break

    watchers = [threading.Thread(target=watch, args=(name,)) for name in sources]
    for watcher in watchers:
        watcher.start()
    try:
        _keep_busy(load, seen, seconds=seconds, seed=seed, say=say)
    except KeyboardInterrupt:  # what was seen up to here counts
        say("interrupted")
    finally:
        over.set()
        for watcher in watchers:
            watcher.join()
    return seen, load


def _keep_busy(
    load: Load, seen: dict[str, Seen], *, seconds: float, seed: int, say: Callable[[str], None]
) -> None:
    """Work after work for so long, with pauses."""
    draw, began = random.Random(seed + 1), time.monotonic()  # noqa: S311 - a load
    told = began
    with ThreadPoolExecutor(max(kind.requests[1] for kind in KINDS.values())) as pool:
        while (spent := time.monotonic() - began) < seconds:
            load.work(pool)
            if time.monotonic() - told > 60:
                told = time.monotonic()
                alarms = sum(len(one.alarms) for one in seen.values())
                say(f"{spent / 60:.0f} min, {load.sent.total()} requests, {alarms} alarms")
            if draw.random() < PAUSE:
                time.sleep(min(draw.uniform(0, 10), max(0.0, seconds - (time.monotonic() - began))))


def figures(
    seen: dict[str, Seen], load: Load, *, minutes: float, stall_seconds: float, seed: int
) -> dict[str, Any]:
    """What goes into the last line."""
    return {
        "minutes": round(minutes, 1),
        "seed": seed,
        "stall_seconds": stall_seconds,
        "requests": dict(load.sent),
        "errors": dict(load.errors),
        "alarms": {name: one.alarms for name, one in seen.items()},
        "longest_still_s": {name: round(one.longest_still_s, 1) for name, one in seen.items()},
        "longest_silent_s": {name: round(one.longest_silent_s, 1) for name, one in seen.items()},
    }


def main(words: list[str] | None = None) -> int:
    """The command line."""
    parser = perf.options("alarms", __doc__)
    parser.set_defaults(drafter="ngram-k4")
    parser.add_argument("--minutes", type=float, default=60.0, help="(%(default)s)")
    parser.add_argument(
        "--stall-seconds",
        type=float,
        default=20.0,
        help=f"how long a standstill is an alarm here (%(default)s; draftgate's own: {STALL_SECONDS})",
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args(words)

    def job() -> dict[str, Any]:
        stack = perf.load(options.stack)
        folder = perf.new_folder(options.results, "alarms")
        spec = tight(server_spec(stack, *perf.drafter_of(stack, options.drafter)))
        with running(spec, folder=folder, say=perf.say) as server:
            perf.say(f"ready; seed {options.seed}")
            began = time.monotonic()
            seen, load = watched(
                server,
                seconds=options.minutes * 60,
                stall_seconds=options.stall_seconds,
                folder=folder,
                seed=options.seed,
                say=perf.say,
            )
            minutes = (time.monotonic() - began) / 60
        return figures(seen, load, minutes=minutes, stall_seconds=options.stall_seconds, seed=options.seed)

    told: list[dict[str, Any]] = []

    def kept() -> dict[str, Any]:
        told.append(job())
        return told[0]

    code = perf.carry_out(kept)
    return 1 if not code and any(told[0]["alarms"].values()) else code


if __name__ == "__main__":
    sys.exit(main())
