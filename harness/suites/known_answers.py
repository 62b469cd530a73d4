"""What acceptance must be where it is known beforehand: the target drafting for itself. Pure.

Its draft at a place is its own likeliest token there. At T=0 all are accepted but where two tokens are as
likely. At a temperature a draft is accepted with the probability that the target gives it at that place
(Leviathan et al. 2023, algorithm 1, for a drafter that proposes one token surely), which depends on the text
before that place alone. So accepted minus expected, summed over places, is a martingale with the variance
sum of p * (1 - p): how far it strays by chance is known without repeating anything.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from scipy import special

ALPHA = 0.001
"""How often a sound instrument is called broken at a temperature, over all positions."""
TIE = 0.5
"""Natural-log odds of the two likeliest tokens below which numerics may decide between them: a bfloat16
logit of 16 to 32 is known to 0.06, and draft and check come by it along different batches."""
MOST_TIES = 0.1
"""Share of verified places that may be refused at ties before they explain nothing any more."""
MOST_GUESSED = 0.2
"""Share of a random drafter's first guesses that may be right."""
_NUMERICS = 0.01
"""Least variance of a place: a probability of nearly 1 is itself known to bfloat16 only."""

Found = Literal["ok", "broken", "not checked"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """One draft token that the target checked."""

    position: int
    accepted: bool
    chance: float
    """Probability of the target's likeliest token here, at the request's temperature."""
    gap: float
    """Natural-log odds of the two likeliest tokens at temperature 1; infinite where there is one only."""


def verified(accepted: Sequence[int], drafted: Sequence[int], tokens: int) -> Iterator[tuple[int, int, bool]]:
    """Which tokens of an answer were checked: (index in the answer, position in the draft, accepted).

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

    The tokens that are not given hold the rest of the mass, each no more than the last one given. They are
    taken to fall with the square of their rank, so that at power a = 1/T they add 1 / (2a - 1) of the most
    that they can; exact at T=1.

    Args:
        logprobs: natural logarithms, the largest first, one at least.
        temperature: above 0.
    """
    power = 1 / temperature
    given = math.fsum(math.exp(value * power) for value in logprobs)
    rest = max(0.0, 1 - math.fsum(math.exp(value) for value in logprobs))
    most = rest * math.exp(logprobs[-1] * (power - 1))
    return math.exp(logprobs[0] * power) / (given + most / max(1.0, 2 * power - 1))


def place_of(position: int, logprobs: Mapping[int, float], temperature: float, *, accepted: bool) -> Place:
    """A place, from the log probabilities of its likeliest tokens by token id."""
    sorted_ = sorted(logprobs.values(), reverse=True)
    return Place(
        position=position,
        accepted=accepted,
        chance=chance(sorted_, temperature) if temperature else 1.0,
        gap=sorted_[0] - sorted_[1] if len(sorted_) > 1 else math.inf,
    )


def judge_greedy(places: Sequence[Place], k: int) -> tuple[Found, str]:
    """At T=0: every draft accepted, but for a few at ties."""
    if not places:
        return "broken", "no draft was checked"
    refused = [place for place in places if not place.accepted]
    clear = [place for place in refused if place.gap > TIE]
    rates = " / ".join(_share(hits, of) for hits, of, _ in _by_position(places, k))
    said = f"{rates} accepted of the drafts checked at positions 0..{k - 1}, all must be"
    if clear:
        return "broken", f"{said}: {len(clear)} of {len(refused)} refusals are at no tie of two tokens"
    if len(refused) > MOST_TIES * len(places):
        return "broken", f"{said}: {len(refused)} of {len(places)} refused, too many for ties"
    ties = f" ({len(refused)} of {len(places)} refused, at ties of two tokens)" if refused else ""
    return "ok", said + ties


def judge_sampled(places: Sequence[Place], k: int) -> tuple[Found, str]:
    """At a temperature: at each position as many accepted as the target's own probabilities say."""
    if not places:
        return "broken", "no draft was checked"
    bound = float(special.ndtri(1 - ALPHA / (2 * k)))
    parts, wrong = [], []
    for position, (hits, of, here) in enumerate(_by_position(places, k)):
        if not of:
            parts.append(f"{position}: —")
            continue
        expected = math.fsum(place.chance for place in here)
        spread = bound * math.sqrt(
            math.fsum(max(place.chance * (1 - place.chance), _NUMERICS) for place in here)
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


def judge_guessing(accepted: int, drafts: int, draft_tokens: int, k: int) -> tuple[Found, str]:
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


def _by_position(places: Sequence[Place], k: int) -> list[tuple[int, int, list[Place]]]:
    """Accepted, checked, and the places, for each position."""
    grouped = [[place for place in places if place.position == i] for i in range(k)]
    return [(sum(place.accepted for place in here), len(here), here) for here in grouped]


def _share(hits: float, of: int) -> str:
    return f"{100 * hits / of:.1f} %" if of else "—"
