"""What acceptance must be where it is known beforehand: when the target drafts for itself. Pure.

Its draft is its own likeliest token. At T=0 it accepts every draft, except where two tokens are as likely.
At a temperature it accepts a draft with the probability that it gives that token (Leviathan et al. 2023,
algorithm 1, for a drafter that proposes one token for sure). That probability depends only on the text before
the token. So accepted minus expected, summed over draft tokens, is a martingale with the variance
sum of p * (1 - p), and how far it strays by chance is known without repeating anything.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from scipy import special

from harness.measure.probe import are_logprobs

ALPHA = 0.001
"""How often a sound instrument is called broken at a temperature, over all positions together."""
TIE = 0.5
"""Natural-log odds of the two likeliest tokens below which rounding may decide between them: a bfloat16
logit of 16 to 32 is known to 0.06, and the draft and its check are computed in different batches."""
MOST_TIES = 0.1
"""Share of draft tokens that ties may explain. More refusals than this are no ties."""
MOST_GUESSED = 0.2
"""Share of a random drafter's first guesses that may be right by chance."""
_NUMERICS = 0.01
"""Least variance of a draft token: a probability near 1 is itself known only to bfloat16."""

Result = Literal["ok", "broken", "not checked"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DraftToken:
    """One draft token that the target checked."""

    position: int
    accepted: bool
    chance: float
    """Probability of the target's likeliest token here, at the request's temperature."""
    gap: float
    """Natural-log odds of the two likeliest tokens at temperature 1; infinite where there is one only."""


def verified(accepted: Sequence[int], drafted: Sequence[int], tokens: int) -> Iterator[tuple[int, int, bool]]:
    """Which draft tokens were checked: (index in the answer, position in the draft, accepted).

    Args:
        accepted: draft tokens accepted, for each verify step; there is no other decode step.
        drafted: draft tokens proposed, for each verify step.
        tokens: of the answer. What the last step checked beyond its end is left out.
    """
    at = 1  # the first token comes from the prompt
    for right, proposed in zip(accepted, drafted, strict=True):
        for position in range(min(right + 1, proposed)):
            if at + position < tokens:
                yield at + position, position, position < right
        at += right + 1


def chance(logprobs: Sequence[float], temperature: float) -> float:
    """Probability of the likeliest token at a temperature, from the largest log probabilities at 1.

    The other tokens hold the rest of the mass, each no more than the last one given. We assume that they
    fall with the square of their rank. Then at power a = 1/T they add 1 / (2a - 1) of the most that they can.
    At T=1 this is exact.

    Args:
        logprobs: natural logarithms, the largest first, one at least.
        temperature: above 0.
    """
    power = 1 / temperature
    given = math.fsum(math.exp(value * power) for value in logprobs)
    rest = max(0.0, 1 - math.fsum(math.exp(value) for value in logprobs))
    most = rest * math.exp(logprobs[-1] * (power - 1))
    return math.exp(logprobs[0] * power) / (given + most / max(1.0, 2 * power - 1))


def draft_token_of(
    position: int, logprobs: Mapping[int, float], temperature: float, *, accepted: bool
) -> DraftToken:
    """A checked draft token, from the log probabilities of the likeliest tokens there, by token id.

    What are none makes a token without a chance or a gap (NaN), which every judge calls broken.
    """
    if not are_logprobs(logprobs):
        return DraftToken(position=position, accepted=accepted, chance=math.nan, gap=math.nan)
    sorted_ = sorted(logprobs.values(), reverse=True)
    return DraftToken(
        position=position,
        accepted=accepted,
        chance=chance(sorted_, temperature) if temperature else 1.0,
        gap=sorted_[0] - sorted_[1] if len(sorted_) > 1 else math.inf,
    )


def judge_greedy(draft_tokens: Sequence[DraftToken], k: int) -> tuple[Result, str]:
    """At T=0 every draft is accepted, except for a few at ties."""
    if flaw := _flaw(draft_tokens, k):
        return "broken", flaw
    refused = [token for token in draft_tokens if not token.accepted]
    clear = [token for token in refused if not token.gap <= TIE]
    rates = " / ".join(_share(hits, of) for hits, of, _ in _by_position(draft_tokens, k))
    said = f"{rates} accepted of the drafts checked at positions 0..{k - 1}, all must be"
    if clear:
        return "broken", f"{said}: {len(clear)} of {len(refused)} refusals are at no tie of two tokens"
    if len(refused) > MOST_TIES * len(draft_tokens):
        return "broken", f"{said}: {len(refused)} of {len(draft_tokens)} refused, too many for ties"
    ties = f" ({len(refused)} of {len(draft_tokens)} refused, at ties of two tokens)" if refused else ""
    return "ok", said + ties


def judge_sampled(draft_tokens: Sequence[DraftToken], k: int) -> tuple[Result, str]:
    """At a temperature the target accepts, at each position, as many as its own probabilities say."""
    if flaw := _flaw(draft_tokens, k):
        return "broken", flaw
    bound = float(special.ndtri(1 - ALPHA / (2 * k)))
    parts, wrong = [], []
    for position, (hits, of, here) in enumerate(_by_position(draft_tokens, k)):
        if not of:
            parts.append(f"{position}: —")
            continue
        expected = math.fsum(token.chance for token in here)
        spread = bound * math.sqrt(
            math.fsum(max(token.chance * (1 - token.chance), _NUMERICS) for token in here)
        )
        low, high = (min(max(end / of, 0.0), 1.0) for end in (expected - spread, expected + spread))
        parts.append(
            f"{position}: {_share(hits, of)} of {of}, expected {_share(expected, of)} "
            f"({100 * low:.0f}..{100 * high:.0f})"
        )
        if abs(hits - expected) > spread:
            wrong.append(position)
    said = "accepted of the drafts checked at position " + "; ".join(parts)
    if wrong:
        return "broken", f"{said}: position {', '.join(map(str, wrong))} is not what the target's own say"
    return "ok", said


def judge_guessing(accepted: int, drafts: int, draft_tokens: int, k: int) -> tuple[Result, str]:
    """A drafter with random weights: right now and then, and never often.

    Args:
        accepted: first draft tokens accepted.
        drafts: verify steps.
        draft_tokens: proposed, in all.
        k: draft tokens a step.
    """
    said = f"{accepted} of {drafts} first guesses accepted, {draft_tokens} tokens drafted"
    if not drafts or not drafts <= draft_tokens <= k * drafts:
        return "broken", f"{said}: no drafter of {k} tokens a step counts so"
    if not 0 < accepted <= MOST_GUESSED * drafts:
        return "broken", f"{said}: random guesses are right now and then, at most {MOST_GUESSED:.0%} of them"
    return "ok", said


def _flaw(draft_tokens: Sequence[DraftToken], k: int) -> str:
    """Why nothing can be judged by these; empty where something can."""
    if not draft_tokens:
        return "no draft was checked"
    if not all(0 <= token.position < k for token in draft_tokens):
        return f"a draft of {k} tokens has positions 0..{k - 1} and no other"
    if not all(0 <= token.chance <= 1 and token.gap >= 0 for token in draft_tokens):
        return "the target's own probabilities are none"
    return ""


def _by_position(draft_tokens: Sequence[DraftToken], k: int) -> list[tuple[int, int, list[DraftToken]]]:
    """For each position: accepted, checked, and the draft tokens."""
    grouped = [[token for token in draft_tokens if token.position == i] for i in range(k)]
    return [(sum(token.accepted for token in here), len(here), here) for here in grouped]


def _share(hits: float, of: int) -> str:
    return f"{100 * hits / of:.1f} %" if of else "—"
