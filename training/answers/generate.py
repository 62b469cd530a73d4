"""Has the target answer the prompts: speculators sends them; this module watches, resumes and counts."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from harness.config.stack import Sampling
from harness.engine.http import NO_KEY
from harness.engine.server import Server
from harness.engine.watchdog import MOST_STALLS
from harness.errors import ServerFailed
from harness.results.files import as_line, drop_torn_line, writing
from harness.text.console import Say
from training import program
from training.answers.filter import decoder, read_prompts, select
from training.answers.progress import Answers, errors_of, failures
from training.errors import Stalled, TrainingFailed
from training.recipe import Recipe, temperatures_of
from training.sources.dedup import Prompt

Stall = Callable[[], str | None]
"""Why the server makes no progress; None while it does."""
Serve = Callable[[], AbstractContextManager[Sequence[tuple[Server, Stall]]]]
"""Starts the target's servers under the watchdog. Their served name must be what vLLM loads the target from,
because speculators uses one name for requests and tokenizer. They must take requests without a key."""

ROUNDS = 2
"""A request that failed for a reason that may pass is sent again."""
MOST_FAILED = 0.01
"""If a larger share of the prompts fails for such reasons, the server counts as stalled."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """The prompts of one temperature for one server, and where their answers go."""

    temperature: float
    ask_file: Path
    raw_file: Path
    part: int = 0
    """The server's number."""

    def waiting(self) -> int:
        """How many prompts have neither an answer nor a permanent error."""
        return len(Answers(self.ask_file, self.raw_file).waiting())


def run(
    folder: Path, prompts_file: Path, recipe: Recipe, *, target: str, serve: Serve, say: Say
) -> dict[str, int | float | str]:
    """The stage: make responses.jsonl from prompts.jsonl. It goes on where an interrupted run ended.

    Args:
        folder: the stage's own.
        prompts_file: what the stage before it wrote.
        recipe: its `responses` table is used.
        target: the folder or hub id that vLLM loads; its tokenizer decodes the answers.
        serve: starts the servers; called again after a stall, and not at all if everything has an answer.
        say: shows the progress.

    Raises:
        TrainingFailed: the third stall, speculators failed, or no answer was worth keeping.
        BadInput: the prompts or the recipe's temperatures cannot be used.
    """
    prompts = read_prompts(prompts_file)
    asks = write_asks(folder, prompts, recipe)
    stalls = 0
    while todo := [ask for ask in asks if ask.waiting()]:
        try:
            with serve() as servers:
                ask_all(todo, servers, recipe, say=say)
            break
        except Stalled as stall:
            stalls += 1
            say(f"the server stalled ({stalls} of {MOST_STALLS}): {stall}")
            if stalls == MOST_STALLS:
                left = sum(ask.waiting() for ask in asks)
                raise TrainingFailed(
                    f"the target's server stalled {stalls} times, the last time: {stall}; "
                    f"{len(prompts) - left} of {len(prompts)} prompts are done, "
                    f"and running this again goes on with the other {left}",
                    code="training-stalled",
                ) from None
    raws = [(ask.temperature, ask.raw_file) for ask in asks]
    counts = select(folder, prompts, raws, recipe, decode=decoder(target))
    return {**counts, "stalls": stalls}


def split_by_temperature(
    prompts: Mapping[str, Prompt], shares: Mapping[float, float], *, seed: int
) -> dict[float, list[str]]:
    """The ids of the prompts by temperature. Each language has the shares as nearly as possible."""
    groups: dict[str, list[str]] = defaultdict(list)
    for prompt in prompts.values():
        groups[prompt.language].append(prompt.id)
    found: dict[float, list[str]] = {temperature: [] for temperature in shares}
    for ids in groups.values():
        ids.sort(key=lambda i: hashlib.sha256(f"{seed}/{i}".encode()).digest())
        start, reached = 0, 0.0
        for temperature, share in shares.items():
            reached += share
            end = round(reached * len(ids))
            found[temperature] += ids[start:end]
            start = end
    return found


def write_asks(folder: Path, prompts: Mapping[str, Prompt], recipe: Recipe) -> list[Ask]:
    """Write `ask-t<T>.jsonl` for each temperature, and for each server; every call writes the same."""
    shares, servers = temperatures_of(recipe.responses.temperatures), recipe.responses.servers
    asks = []
    for temperature, ids in split_by_temperature(prompts, shares, seed=recipe.responses.seed).items():
        for part in range(servers):
            name = f"t{temperature:g}" + (f"-{part}of{servers}" if servers > 1 else "")
            ask = Ask(
                temperature=temperature,
                part=part,
                ask_file=folder / f"ask-{name}.jsonl",
                raw_file=folder / f"raw-{name}.jsonl",
            )
            with writing(ask.ask_file) as file:
                lines = ({"id": i, "prompt": prompts[i].text} for i in ids[part::servers])
                file.writelines(map(as_line, lines))
            asks.append(ask)
    return asks


def ask_all(
    todo: Sequence[Ask], servers: Sequence[tuple[Server, Stall]], recipe: Recipe, *, say: Say
) -> None:
    """Have all of `todo` answered at the same time; a server's asks share the requests that it has in flight.

    One temperature after the other would leave the server idle while the next client starts, and nearly so
    while the last long answers of each end.

    Raises:
        Stalled, ServerFailed, TrainingFailed: of the first that ended badly; the others are ended then.
    """
    waiting = {ask.ask_file: ask.waiting() for ask in todo}
    of_server = [
        sum(waiting[ask.ask_file] for ask in todo if ask.part == part) for part in range(len(servers))
    ]
    errors: list[Exception] = []
    over = threading.Event()

    def one(ask: Ask) -> None:
        server, stalled = servers[ask.part]
        share = waiting[ask.ask_file] / of_server[ask.part]
        try:
            regenerate(
                ask, server, recipe, share=share, say=say,
                stalled=lambda: "the others were ended" if over.is_set() else stalled(),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - the first is raised below
            errors.append(error)
            over.set()

    with ThreadPoolExecutor(len(todo), thread_name_prefix="answers") as pool:
        try:
            list(pool.map(one, todo))
        finally:
            over.set()  # Ctrl-C reaches this thread alone
    if errors:
        raise errors[0]


def regenerate(
    ask: Ask, server: Server, recipe: Recipe, *, say: Say, stalled: Stall, share: float = 1.0
) -> None:
    """Have speculators send the prompts of `ask` that have no answer yet, `share` of the recipe's at once.

    If the server dies, speculators writes an error for each prompt that is left, and exits with 0. So this
    counts the answers.

    Raises:
        Stalled: `stalled` said so, or the server left too many requests without an answer.
        ServerFailed: the server's name or key is not such that speculators can use it.
        TrainingFailed: speculators ended badly.
    """
    model = _usable(server)
    # Every sampling parameter, so that no default of a model's generation_config applies. No seed:
    # speculators would send the same one with every prompt, and prompts that share their random numbers
    # favour the same tokens at the same index of every answer.
    sampling = Sampling(temperature=ask.temperature)
    words = [
        "regenerate-responses",
        *("--endpoint", f"{server.url}/v1/chat/completions"),
        *("--model", model),
        *("--dataset", str(ask.ask_file)),
        *("--max-tokens", str(recipe.responses.max_tokens)),
        *("--concurrency", str(max(1, round(share * recipe.responses.concurrency)))),
        *("--sampling-params", sampling.model_dump_json()),
        *("--outfile", str(ask.raw_file)),
        "--resume",
    ]
    answers = Answers(ask.ask_file, ask.raw_file)

    def progress() -> str:
        return f"answers at temperature {ask.temperature:g}: {answers.progress()}"

    def watch() -> None:
        say(f"\r{progress()}")
        if reason := stalled():
            raise Stalled(reason)

    for _ in range(ROUNDS):
        drop_torn_line(ask.raw_file)
        drop_torn_line(errors_of(ask.raw_file))
        if not answers.waiting():
            return
        answers.restart_clock()
        program.speculators(
            words,
            log=ask.raw_file.parent / "log.txt",
            watch=watch,
            environment={"HF_HUB_OFFLINE": "1"} if model.startswith("/") else {},
        )
        say(progress())
        if answers.waiting() and (reason := stalled()):  # speculators exits with 0 also if the server died
            raise Stalled(reason)
    failed = answers.waiting()
    if len(failed) > MOST_FAILED * len(answers.asked):
        errors = failures(ask.raw_file)
        first = next((errors[i] for i in failed if i in errors), "no reason is known")
        raise Stalled(f"{len(failed)} requests failed, {ROUNDS} times each; the first: {first[:200]}")


def _usable(server: Server) -> str:
    if server.target_path is None or server.model != server.target_path:
        raise ServerFailed(
            f"the server's model is called {server.model}; speculators loads the tokenizer by the same name, "
            f"so the server must be started with target.served_name = {server.target_path or 'its folder'}",
            code="training-server",
        )
    if server.key != NO_KEY:
        raise ServerFailed(
            "the server wants a key, and speculators sends none: start it without one", code="training-server"
        )
    return server.target_path
