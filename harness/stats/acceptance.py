"""From the steps of speculative decoding to acceptance, tau and tokens per step.

Pure: it reads no file and asks no engine. One `Tally` holds the sums that every figure is a ratio of.
Tallies add up, so a prompt, a cell and a language all have the same figures.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

METRIC_VERSION = 1
"""It changes with the definitions below. Results of two versions are never compared."""


def histogram_of(accepted: Iterable[int], k: int) -> tuple[int, ...]:
    """How many verify steps accepted exactly j tokens, for j in 0..k.

    Raises:
        ValueError: a step accepted less than 0 or more than k tokens.
    """
    counts = [0] * (k + 1)
    for tokens in accepted:
        if not 0 <= tokens <= k:
            raise ValueError(f"a verify step accepted {tokens} tokens, but k is {k}")
        counts[tokens] += 1
    return tuple(counts)


def histogram_from_positions(drafts: int, per_position: Sequence[int]) -> tuple[int, ...]:
    """The same from vLLM's counters: h[j] = A_j - A_(j+1), with A_0 the number of verify steps.

    Args:
        drafts: verify steps.
        per_position: verify steps that accepted more than i tokens, for i in 0..k-1.

    Raises:
        ValueError: the counts rise with the position.
    """
    at_least = (drafts, *per_position, 0)
    counts = tuple(a - b for a, b in itertools.pairwise(at_least))
    if min(counts) < 0:
        raise ValueError(f"accepted tokens per position rise: {drafts} drafts, then {list(per_position)}")
    return counts


def steps_of_pieces(pieces: Sequence[int], histogram: Sequence[int]) -> tuple[int, ...] | None:
    """Accepted tokens of each verify step, for an engine that reports the histogram alone.

    A streamed answer comes in pieces: first one token, then what each step committed. Only the last piece may
    be cut, at a stop or at max_tokens. The pieces count only if they add up to the histogram.

    Args:
        pieces: tokens of each piece.
        histogram: verify steps by accepted tokens, k + 1 values.

    Returns:
        None where pieces arrived merged, or a step had nothing to verify.
    """
    if not pieces or pieces[0] != 1:
        return None
    steps = [tokens - 1 for tokens in pieces[1:]]
    if steps:
        least = steps[-1]
        steps[-1] = sum(j * count for j, count in enumerate(histogram)) - sum(steps[:-1])
        if steps[-1] < least:
            return None
    try:
        made = histogram_of(steps, len(histogram) - 1)
    except ValueError:
        return None
    return tuple(steps) if made == tuple(histogram) else None


UNDRAFTED = -1
"""Stands for the accepted tokens of a step that had nothing to verify."""


def with_undrafted(steps: Sequence[int], accepted: Sequence[int]) -> tuple[int, ...] | None:
    """Accepted tokens of each decode step, UNDRAFTED for those that had nothing to verify.

    Where neighbouring steps committed one token each, it is not known which of them had drafts. The first
    ones count as verify steps.

    Args:
        steps: tokens that each decode step committed; the last may be cut, at a stop or at max_tokens.
        accepted: of each verify step, in order.

    Returns:
        None where the two contradict each other.
    """
    by_step: list[int] = []
    left = list(reversed(accepted))
    for number, tokens in enumerate(steps, start=1):
        cut = number == len(steps)
        if left and (left[-1] >= tokens - 1 >= 0 if cut else left[-1] == tokens - 1):
            by_step.append(left.pop())
        elif tokens == 1:
            by_step.append(UNDRAFTED)
        else:
            return None
    return None if left else tuple(by_step)


def undrafted_steps(
    *, histogram: Sequence[int], last_accepted: int | None, output_tokens: int, decode_steps_seen: int | None
) -> int:
    """Decode steps that had nothing to verify.

    The tokens give `undrafted - overshoot`: the engine counts acceptance before it trims the last step at a
    stop or at max_tokens. The number of decode steps seen tells the two apart.

    Args:
        histogram: verify steps by accepted tokens.
        last_accepted: tokens that the last verify step accepted, which is the most that it can overshoot
            by; None where the engine does not report it (then k).
        output_tokens: tokens of the answer, the first one included.
        decode_steps_seen: pieces of the stream after the first, or iterations of the engine. Merged pieces
            make it too small. None where unknown.

    Returns:
        The number of undrafted steps. If the steps seen fit no possible overshoot, it is the smallest number
        that the tokens allow, at least 0.
    """
    verify = sum(histogram)
    surplus = output_tokens - 1 - sum((j + 1) * steps for j, steps in enumerate(histogram))
    most = len(histogram) - 1 if last_accepted is None else last_accepted
    smallest = max(0, surplus)
    if decode_steps_seen is None or verify == 0:
        return smallest
    seen = decode_steps_seen - verify
    return seen if smallest <= seen <= max(smallest, surplus + most) else smallest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tally:
    """Sums over decode steps, of one prompt or of many.

    `at_least[j]` is the number of verify steps that accepted at least j tokens, j in 0..k, so
    `at_least[0]` is the number of verify steps.
    """

    at_least: tuple[int, ...]
    undrafted: int
    committed: int
    """Tokens committed after the first: in full where the answer ran into max_tokens, cut at the
    stop token where it stopped (`docs/measuring.md` says why)."""
    output_tokens: int
    drafted: int | None
    """Draft tokens proposed; None where the engine does not report them."""

    @property
    def k(self) -> int:
        """Draft tokens per step at most."""
        return len(self.at_least) - 1

    @property
    def verify_steps(self) -> int:
        """Decode steps that had drafts to check."""
        return self.at_least[0]

    @property
    def decode_steps(self) -> int:
        """Target forward passes after the first token."""
        return self.verify_steps + self.undrafted

    @property
    def accepted(self) -> int:
        """Draft tokens accepted."""
        return sum(self.at_least[1:])

    @property
    def tokens_per_step(self) -> float | None:
        """Tokens committed / decode steps: what the user gains. None without a decode step."""
        return self.committed / self.decode_steps if self.decode_steps else None

    @property
    def tau(self) -> float | None:
        """Mean acceptance length, 1 + accepted / verify steps. None without a verify step."""
        return 1 + self.accepted / self.verify_steps if self.verify_steps else None

    @property
    def accepted_per_draft(self) -> float | None:
        """Accepted tokens / verify steps."""
        return self.accepted / self.verify_steps if self.verify_steps else None

    @property
    def token_acceptance(self) -> float | None:
        """Accepted tokens / draft tokens. None where either is unknown."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def acceptance(self) -> tuple[float | None, ...]:
        """Acceptance at position i (unconditional): at_least[i + 1] / verify steps, k values."""
        n = self.verify_steps
        return tuple(a / n if n else None for a in self.at_least[1:])

    @property
    def conditional(self) -> tuple[float | None, ...]:
        """Acceptance at position i given that all before it were accepted, k values."""
        pairs = zip(self.at_least[1:], self.at_least, strict=False)
        return tuple(a / before if before else None for a, before in pairs)


EMPTY = Tally(at_least=(0,), undrafted=0, committed=0, output_tokens=0, drafted=0)


def added(tallies: Iterable[Tally]) -> Tally:
    """The sum of many tallies; a smaller k counts as positions never reached."""
    ts = list(tallies)
    if len(ts) <= 1:
        return ts[0] if ts else EMPTY
    drafted = [t.drafted for t in ts if t.drafted is not None]
    return Tally(
        at_least=tuple(map(sum, itertools.zip_longest(*[t.at_least for t in ts], fillvalue=0))),
        undrafted=sum([t.undrafted for t in ts]),
        committed=sum([t.committed for t in ts]),
        output_tokens=sum([t.output_tokens for t in ts]),
        drafted=sum(drafted) if len(drafted) == len(ts) else None,
    )


def overshoot_of(histogram: Sequence[int], *, undrafted: int, output_tokens: int) -> int:
    """Tokens that the last step committed and the engine trimmed. Outside 0..k the counts are wrong."""
    return 1 + sum((j + 1) * steps for j, steps in enumerate(histogram)) + undrafted - output_tokens


def tally_of(
    histogram: Sequence[int], *, undrafted: int, output_tokens: int, stopped: bool, drafted: int | None
) -> Tally:
    """The tally of one answer.

    Args:
        histogram: verify steps by accepted tokens, k + 1 values (`[0]` without a drafter).
        undrafted: decode steps without drafts.
        output_tokens: tokens of the answer, the first one included; 1 means no decode step.
        stopped: it ended by itself, not at max_tokens.
        drafted: draft tokens proposed, if known.
    """
    at_least = tuple(itertools.accumulate(reversed(histogram)))[::-1]
    # `overshoot_of`, since sum (j+1) h[j] = sum A[j]
    overshoot = 1 + sum(at_least) + undrafted - output_tokens
    return Tally(
        at_least=at_least,
        undrafted=undrafted,
        committed=output_tokens - 1 + (0 if stopped else max(0, overshoot)),
        output_tokens=output_tokens,
        drafted=drafted,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tallies:
    """The tallies of m answers as arrays of shape (m,), fast enough for thousands of cells.

    They are floats, which `paired.py` needs. Counts below 2**53 are exact.
    """

    at_least: FloatArray
    """Shape (k + 1, m). A smaller k counts as positions never reached."""
    undrafted: FloatArray
    committed: FloatArray
    output_tokens: FloatArray
    drafted: int | None
    """Of all answers together."""

    @property
    def decode_steps(self) -> FloatArray:
        """Of each answer."""
        steps: FloatArray = self.at_least[0] + self.undrafted
        return steps

    def grouped(self, sizes: Sequence[int]) -> Tallies:
        """Neighbours added up, the seeds of a prompt; `sizes` says how many each time, at least one."""
        if len(sizes) == len(self.undrafted):
            return self
        starts = [0, *itertools.accumulate(sizes[:-1])]
        return dataclasses.replace(
            self,
            at_least=np.add.reduceat(self.at_least, starts, axis=1),
            undrafted=np.add.reduceat(self.undrafted, starts),
            committed=np.add.reduceat(self.committed, starts),
            output_tokens=np.add.reduceat(self.output_tokens, starts),
        )

    def total(self) -> Tally:
        """All of them added up."""
        return Tally(
            at_least=tuple(map(int, self.at_least.sum(axis=1))),
            undrafted=int(self.undrafted.sum()),
            committed=int(self.committed.sum()),
            output_tokens=int(self.output_tokens.sum()),
            drafted=self.drafted,
        )


def tallies_of(
    histograms: Sequence[Sequence[int]],
    *,
    undrafted: Sequence[int],
    output_tokens: Sequence[int],
    stopped: Sequence[bool],
    drafted: Sequence[int | None],
) -> Tallies:
    """`tally_of` of many answers at once."""
    depths = set(map(len, histograms))
    depth = max(depths, default=1)
    if len(depths) > 1:
        histograms = [(*histogram, *[0] * (depth - len(histogram))) for histogram in histograms]
    counts = np.fromiter(itertools.chain.from_iterable(histograms), np.float64, depth * len(histograms))
    steps = counts.reshape(-1, depth).T
    at_least = steps[::-1].cumsum(axis=0)[::-1]
    alone, tokens = np.array(undrafted, dtype=np.float64), np.array(output_tokens, dtype=np.float64)
    overshoot = 1 + at_least.sum(axis=0) + alone - tokens
    known = [n for n in drafted if n is not None]
    return Tallies(
        at_least=at_least,
        undrafted=alone,
        committed=tokens - 1 + np.where(stopped, 0, np.maximum(0, overshoot)),
        output_tokens=tokens,
        drafted=sum(known) if len(known) == len(drafted) else None,
    )
