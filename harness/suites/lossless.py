"""The lossless suite: does a drafter change what the target says? Output with it against output without.

At T=0 both must be the same text, except where two tokens are as likely and rounding decides. At a
temperature the texts may differ, but their distribution must not.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from harness.config.cells import Cell, without_drafts
from harness.config.prompts import Prompt
from harness.config.stack import Profile, Sampling, Stack
from harness.engine.server import Server
from harness.measure import probe
from harness.measure.probe import Answer, are_logprobs
from harness.stats.same_text import common_tokens
from harness.suites.known_answers import TIE, Result
from harness.suites.runner import Bench, Kind, Outcome, Suite
from harness.suites.self_drafting import with_logprobs

ALPHA = 0.001
"""How often an engine that changes nothing is said to change something."""
PERMUTATIONS = 9_999
TEMPERATURE, SEEDS, PROMPTS, TOKENS, CONCURRENCY = 0.7, 64, 4, 8, 16
"""Of the test of the distribution: seeds of each side, prompts, first tokens, requests in flight."""
_MOST = 1_000_000
"""Prompts: the exact test takes minutes with many more, and nobody sends them."""
_LEAST = 5
"""A beginning is compared if at least this many answers of both sides together have it."""

Ids = tuple[int, ...]


def _one_endpoint(cell: Cell, stack: Stack, words: str) -> bool:
    """One endpoint is enough, unless another is named: losslessness does not depend on it."""
    return cell.name.endpoint == "chat" or "raw" in words or "chat" not in stack.endpoints


SUITE = Suite(name="lossless", by_path=True, own_servers=True, drafting=True, takes=_one_endpoint)


class NotAMeasurement(Exception):  # noqa: N818 - an outcome, not a failure of ours
    """What was asked cannot be used; the text says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """What `none` says to the prompts of a cell."""

    greedy: list[Answer]
    noise: int
    """Prompts to which it says something else the second time."""
    sampled: dict[str, list[Ids]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Divergence:
    """Where two answers to one prompt become different."""

    prompt: str
    at: int
    """Index of the first token that differs."""
    gap: float
    """Natural-log odds that the target gives the undrafted token over the drafted one there."""


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Index of the first token that differs, None where the answers are the same."""
    at = common_tokens(one, other)
    return at if at < max(len(one), len(other)) else None  # one that has ended differs from one that goes on


def gap_at(logprobs: Mapping[int, float], plain: int | None, drafted: int | None) -> float:
    """The odds of `Divergence.gap`; NaN where these are no log probabilities.

    Args:
        logprobs: of the likeliest tokens there. Another token is at most as likely as the last of them: so
            much a drafted one gets. If the undrafted one is not among them, the likeliest stands for it.
        plain: the token of the answer without a drafter; None where that answer has ended.
        drafted: the same with one.
    """
    if plain is None or drafted is None:
        return 0.0  # max_tokens cut one answer, or it ended with a token that the server leaves out
    if not are_logprobs(logprobs):
        return math.nan
    best, least = max(logprobs.values()), min(logprobs.values())
    return logprobs.get(plain, best) - logprobs.get(drafted, least)


def divergence(
    server: Server, prompt: str, prompt_ids: Sequence[int], plain: Sequence[int], drafted: Sequence[int]
) -> Divergence | None:
    """Where two answers to a prompt part, with the odds of the target there; None where they are the same.

    Args:
        server: of the same target.
        prompt: its name.
        prompt_ids: the tokens that both answers followed.
        plain: the tokens of the answer without a drafter.
        drafted: the same with one.

    Raises:
        ServerFailed: the server gives no log probabilities.
    """
    at = first_difference(plain, drafted)
    if at is None:
        return None
    logprobs = probe.prompt_logprobs(server, [*prompt_ids, *plain[: at + 1]])
    here = plain[at] if at < len(plain) else None
    there = drafted[at] if at < len(drafted) else None
    return Divergence(prompt=prompt, at=at, gap=gap_at(logprobs[-1], here, there))


def judge_greedy(parted: Sequence[Divergence], noise: int, prompts: int) -> tuple[Result, str]:
    """At T=0 no answer may leave the undrafted one where the target is sure of its token.

    Args:
        parted: where answers with the drafter leave those without it.
        noise: prompts to which two runs without a drafter give different answers.
        prompts: how many were sent.
    """
    said = (
        f"{len(parted)} of {prompts} answers differ from `none`, {noise} of {prompts} of `none` from itself"
    )
    if parted:
        first = min(parted, key=lambda one: one.at)
        said += f"; the first at token {first.at} of {first.prompt}"
    if not 0 < prompts <= _MOST or not max(len(parted), noise) <= prompts:
        return "broken", f"{said}: these numbers are of no measurement"
    sure = [one for one in parted if not abs(one.gap) <= TIE]  # also where the gap is no number
    if sure:
        worst = max(sure, key=lambda one: abs(one.gap))
        odds = f"e^{worst.gap:.1f} to 1"
        return "broken", (
            f"{said}; {len(sure)} of them where the target is sure, as at token {worst.at} of {worst.prompt} "
            f"({odds} for what `none` says)"
        )
    p = _more_than(len(parted), noise, prompts)
    if not p > ALPHA:  # also where p is no number
        return "broken", f"{said}: more than that noise (p = {p:.2g})"
    return "ok", said + ("; all at ties of two tokens" if parted else "")


def _more_than(differing: int, noise: int, prompts: int) -> float:
    """One-sided p that both differ alike often: Fisher's exact test."""
    from scipy.stats import hypergeom  # noqa: PLC0415 - half a second that no other suite needs

    return float(hypergeom.sf(differing - 1, 2 * prompts, differing + noise, prompts))


def judge_sampled(
    plain: Mapping[str, Sequence[Ids]], drafted: Mapping[str, Sequence[Ids]], *, checked: int, rng: Generator
) -> tuple[Result, str]:
    """At a temperature answers must begin with the same distribution with and without a drafter.

    The statistic adds (a - b)^2 / (a + b) over all beginnings of answers, where a and b are how many answers
    of each side begin so: a chi-square over every depth of the tree of answers. Its p comes from exchanging
    answers between the sides within each prompt, so it is exact however few there are.

    Args:
        plain: the first tokens of answers by prompt, without a drafter, each of another seed.
        drafted: the same with one, as many, of seeds that are not among those.
        checked: draft tokens that were checked within these answers.
        rng: makes the permutations.
    """
    if not checked:
        return "not checked", "— (nothing was drafted in the first tokens of these answers)"
    sizes = {prompt: len(answers) for prompt, answers in drafted.items()}
    if sizes != {prompt: len(answers) for prompt, answers in plain.items()}:
        return "broken", "with and without the drafter there are not as many answers to each prompt"
    if math.prod(math.comb(2 * size, size) for size in sizes.values()) * ALPHA < 1:
        return "not checked", f"— ({sum(sizes.values())} answers are too few to tell)"
    observed, permuted = 0.0, np.zeros(PERMUTATIONS)
    answers = compared = 0
    for prompt, ours in drafted.items():
        tree = _beginnings([*plain[prompt], *ours])
        compared += tree.size
        sides = np.array([-1.0] * len(plain[prompt]) + [1.0] * len(ours))
        answers += len(sides)
        weights = 1 / tree.sum(axis=0)
        observed += float(((sides @ tree) ** 2 * weights).sum())
        mixed = rng.permuted(np.tile(sides, (PERMUTATIONS, 1)), axis=1)
        permuted += ((mixed @ tree) ** 2 * weights).sum(axis=1)
    if not compared:
        return "not checked", f"— (fewer than {_LEAST} of these answers begin alike)"
    p = (1 + int(np.count_nonzero(permuted >= observed - 1e-9))) / (1 + PERMUTATIONS)
    said = (
        f"first tokens of {answers} answers to {len(drafted)} prompts, {checked} drafts checked in them: "
        f"statistic {observed:.0f}, {permuted.mean():.0f} by chance, p = {p:.2g}"
    )
    if not p > ALPHA:  # also where p is no number
        return "broken", f"{said}: with the drafter the target says other things"
    return "ok", said


def _beginnings(answers: Sequence[Ids]) -> NDArray[np.float64]:
    """Whether answer i begins as beginning j does, for those that several do: shape (answers, beginnings)."""
    begun = Counter(answer[:length] for answer in answers for length in range(1, len(answer) + 1))
    columns = [start for start, count in begun.items() if count >= _LEAST]
    rows = [[answer[: len(start)] == start for start in columns] for answer in answers]
    return np.array(rows, dtype=float).reshape(len(answers), len(columns))


def lossless(bench: Bench, cell: Cell) -> Outcome:
    """Compare a drafter's output with that of `none`, each on a server of its own.

    Raises:
        BadInput, ServerFailed: a server could not be started, stalled, or gives no log probabilities.
    """
    fine = Outcome(suite=SUITE.name, cell=str(cell))
    try:
        found = _found(bench, cell)
    except NotAMeasurement as why:
        return fine.model_copy(update={"kind": "invalid", "sentence": f"not a measurement: {why}"})
    lines = [f"{name}: {outcome}: {text}" for name, outcome, text in found]
    broken = [f"{name}: {text}" for name, outcome, text in found if outcome == "broken"]
    open_ = any(outcome == "not checked" for _, outcome, _ in found)
    kind: Kind = "failed" if broken else "noteworthy" if open_ else "fine"
    sentence = f"not lossless: {'; '.join(broken)}" if broken else "; ".join(lines)
    table = "\n".join([str(cell), *lines])
    return fine.model_copy(update={"kind": kind, "sentence": sentence, "table": table})


def _found(bench: Bench, cell: Cell) -> list[tuple[str, Result, str]]:
    references: dict[tuple[str, ...], Reference] = bench.shared.setdefault(SUITE.name, {})
    for other in (*bench.cells, cell):  # all at once: `none` is started only once then
        if other.name.place not in references:
            references[other.name.place] = _reference(bench, other)
    reference = references[cell.name.place]
    engine = bench.slot.get(with_logprobs(cell.spec))
    bench.say(
        f"draftgate: {cell}: lossless? {len(reference.greedy)} prompts at T=0, {PROMPTS} x {SEEDS} seeds"
    )
    return [
        ("T=0", *_greedy(bench, cell, engine, reference)),
        (f"T={TEMPERATURE:g}", *_sampled(bench, cell, engine, reference)),
    ]


def _reference(bench: Bench, cell: Cell) -> Reference:
    server = bench.slot.get(with_logprobs(without_drafts(cell).spec))
    bench.say(f"draftgate: {'-'.join(cell.name.place)}: `none`, twice at T=0, then by seeds")
    prompts = _first_turns(bench, cell)
    once, again = (_asked(bench, server, cell, prompts, profile=_greedily(cell)) for _ in range(2))
    return Reference(
        greedy=once,
        noise=sum(a.ids != b.ids for a, b in zip(once, again, strict=True)),
        sampled=_by_seed(bench, server, cell, prompts[:PROMPTS], first=0)[0],
    )


def _first_turns(bench: Bench, cell: Cell) -> list[Prompt]:
    """The prompts that follow no answer: a later turn is another prompt where the answer before it parts."""
    return [prompt for prompt in bench.run.prompts(cell) if prompt.after is None]


def _greedily(cell: Cell) -> Profile:
    return cell.profile.model_copy(update={"sampling": Sampling()})


def _asked(
    bench: Bench,
    server: Server,
    cell: Cell,
    prompts: Sequence[Prompt],
    *,
    profile: Profile,
    repeats: Sequence[int] = (0,),
) -> list[Answer]:
    answers, flaw = probe.ask(
        server,
        prompts,
        profile,
        endpoint=cell.name.endpoint,
        template=cell.template,
        repeats=repeats,
        stall_seconds=bench.run.options.stall_seconds,
    )
    if flaw:
        raise NotAMeasurement(flaw)
    return answers


def _greedy(bench: Bench, cell: Cell, server: Server, reference: Reference) -> tuple[Result, str]:
    drafted = _asked(bench, server, cell, _first_turns(bench, cell), profile=_greedily(cell))
    parted = []
    for plain, ours in zip(reference.greedy, drafted, strict=True):
        if not plain.prompt_ids or plain.prompt_ids != ours.prompt_ids:
            raise NotAMeasurement(
                f"{plain.record.prompt} was rendered to other tokens with the drafter than without, or the "
                "server does not return them"
            )
        if found := divergence(server, plain.record.prompt, plain.prompt_ids, plain.ids, ours.ids):
            parted.append(found)
    return judge_greedy(parted, reference.noise, len(drafted))


def _sampled(bench: Bench, cell: Cell, server: Server, reference: Reference) -> tuple[Result, str]:
    drafted, checked = _by_seed(bench, server, cell, _first_turns(bench, cell)[:PROMPTS], first=SEEDS)
    return judge_sampled(reference.sampled, drafted, checked=checked, rng=np.random.default_rng(0))


def _by_seed(
    bench: Bench, server: Server, cell: Cell, prompts: Sequence[Prompt], *, first: int
) -> tuple[dict[str, list[Ids]], int]:
    """The first tokens by prompt, of seeds from `first` on; and how many draft tokens were proposed."""
    update = {"max_tokens": TOKENS, "concurrency": CONCURRENCY}
    profile = cell.profile.model_copy(update={"sampling": Sampling(temperature=TEMPERATURE), **update})
    answers = _asked(bench, server, cell, prompts, profile=profile, repeats=range(first, first + SEEDS))
    found: dict[str, list[Ids]] = {prompt.id: [] for prompt in prompts}
    for answer in answers:
        found[answer.record.prompt].append(answer.ids[:TOKENS])
    return found, sum(answer.record.draft_tokens or 0 for answer in answers)
