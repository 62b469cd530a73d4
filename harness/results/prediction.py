"""What a drafter's validation says that serving should give: `validation.jsonl`, a line a held-out answer.

The answers were sampled greedily, so their tokens are what the target verifies against: where a drafter's
guesses agree with them, serving accepts. Pure but for reading the two files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from harness.errors import BadRecord
from harness.results.files import json_lines
from harness.results.records import Count, Record, validated
from harness.stats.acceptance import Tally, added, histogram_of, tally_of

VALIDATION = "validation.jsonl"


class Predicted(Record):
    """One held-out answer, and how far the drafter's guesses agree with it.

    The token of the answer that is known last is where a draft starts; tokens are counted from 0.
    """

    schema_: Literal[1] = Field(alias="schema", default=1)
    id: str
    language: str
    tokens: int = Field(gt=1)
    """Of the answer, the first one (which comes from prefill) and its end token included."""
    prompt_hash: str
    """Of the prompt's token ids, as `PromptRecord` has it."""
    text_hash: str | None
    """Of the answer's text, as `PromptRecord` has it; None where it was not decoded."""
    reach: tuple[int, ...]
    """For each start: guesses that agree before the first that does not, within the answer; at most k."""
    outside: tuple[int, ...]
    """Tokens that are not in the draft vocabulary: no guess can be one."""
    full_restricted: tuple[Count, ...] = Field(min_length=1)
    """As the trainer counts `full_acc`: starts whose guesses 0..i are all the target's best token of the
    draft vocabulary. The trainer divides by `tokens`."""
    not_argmax: Count
    """Tokens of the draft vocabulary that are not the best one of it by the hidden states: none, where the
    answer was sampled greedily and numerics agree."""
    positions: int
    """Starts: those of `reach`. From here on for the reader, derived from what is above."""
    full: tuple[int, ...]
    """Starts whose guesses 0..i all agree with the answer."""
    histogram: tuple[int, ...]
    """Of `walk`: verify steps by accepted tokens."""
    vocab_misses: int
    """Starts whose first wrong guess was for a token outside the draft vocabulary."""

    @classmethod
    def of(cls, **known: Any) -> Self:
        """A line with its derived fields filled in."""
        reach, k = known["reach"], len(known["full_restricted"])
        return cls(**known, **_derived(reach, outside=known["outside"], tokens=known["tokens"], k=k))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.reach) != self.tokens - 1:
            raise ValueError(f"{self.tokens} tokens have {self.tokens - 1} starts, not {len(self.reach)}")
        for start, right in enumerate(self.reach):
            if not 0 <= right <= min(self.k, self.tokens - 1 - start):
                raise ValueError(f"{right} right guesses from token {start} of {self.tokens}, k is {self.k}")
        derived = _derived(self.reach, outside=self.outside, tokens=self.tokens, k=self.k)
        for name, value in derived.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} is {getattr(self, name)}, but reach makes it {value}")
        return self

    @property
    def k(self) -> int:
        """Guesses from each start."""
        return len(self.full_restricted)

    def tally(self, *, k: int, max_tokens: int) -> Tally:
        """What serving gives with this k, cut at max_tokens; nothing is committed past the end."""
        tokens = min(self.tokens, max_tokens)
        steps = walk(self.reach, k=k, tokens=tokens)
        return tally_of(
            histogram_of(steps, k), undrafted=0, output_tokens=tokens, stopped=True, drafted=k * len(steps)
        )


def _derived(reach: Sequence[int], *, outside: Sequence[int], tokens: int, k: int) -> dict[str, Any]:
    wrong, unknown = first_wrong(reach, k=k, tokens=tokens), set(outside)
    return {
        "positions": len(reach),
        "full": tuple(sum(right > i for right in reach) for i in range(k)),
        "histogram": histogram_of(walk(reach, k=k, tokens=tokens), k),
        "vocab_misses": sum(token in unknown for token in wrong),
    }


def first_wrong(reach: Sequence[int], *, k: int, tokens: int) -> list[int]:
    """The token that the first wrong guess was for, of each start that has one."""
    return [s + 1 + right for s, right in enumerate(reach) if right < min(k, tokens - 1 - s)]


def walk(reach: Sequence[int], *, k: int, tokens: int) -> list[int]:
    """Accepted tokens per verify step as serving takes them: from token 0, each step to its bonus token.

    Serving does not visit every start: a success skips ahead, so hard places weigh more than in the mean
    over all of them. The last step is cut at the answer's end, since what the target would say after it is
    unknown: sum(accepted + 1) is tokens - 1, or one more where all guesses up to the end were right.
    """
    accepted: list[int] = []
    at = 0
    while at < tokens - 1:
        right = min(reach[at], k, tokens - 1 - at)
        accepted.append(right)
        at += right + 1
    return accepted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Sums over held-out answers, at one k: shares of starts and of verify steps."""

    k: int
    prompts: int
    tokens: int
    trainer: tuple[float, ...]
    """`full_acc` as the trainer counts it: within the draft vocabulary, over all answer tokens."""
    full: tuple[float | None, ...]
    """The same against the target's own tokens, over the starts that have so many tokens after them."""
    walk: tuple[float | None, ...]
    """Acceptance at each position, as serving meets the starts."""
    tokens_per_step: float | None
    vocab_share: float | None
    """Of the starts with a wrong guess, those whose first was for a token outside the draft vocabulary."""
    accepted_first: float | None
    """Right guesses a start, over the first k starts of an answer."""
    accepted_rest: float | None
    """The same over the later ones."""
    not_argmax: float
    """Share of the tokens that are not the best ones by the hidden states."""


def summarise(lines: Sequence[Predicted], *, k: int | None = None, max_tokens: int | None = None) -> Summary:
    """The figures of held-out answers.

    Args:
        lines: one at least.
        k: of the server; by default as many as there were guesses. Fewer only.
        max_tokens: where serving cuts; by default at the answers' own ends.

    Raises:
        ValueError: no lines, or k is more than their guesses.
    """
    if not lines:
        raise ValueError("no held-out answers, so nothing is predicted")
    most = min(line.k for line in lines)
    k = most if k is None else k
    if not 1 <= k <= most:
        raise ValueError(f"k is {k}, but the validation guessed {most} tokens from each start")
    tokens = sum(line.tokens for line in lines)
    limits = [line.tokens if max_tokens is None else min(line.tokens, max_tokens) for line in lines]
    walked = added(line.tally(k=k, max_tokens=limit) for line, limit in zip(lines, limits, strict=True))
    starts = [sum(max(0, line.tokens - 1 - i) for line in lines) for i in range(k)]
    wrong = sum(len(first_wrong(line.reach, k=line.k, tokens=line.tokens)) for line in lines)
    first = [min(right, k) for line in lines for right in line.reach[:k]]
    rest = [min(right, k) for line in lines for right in line.reach[k:]]
    return Summary(
        k=k,
        prompts=len(lines),
        tokens=tokens,
        trainer=tuple(sum(line.full_restricted[i] for line in lines) / tokens for i in range(k)),
        full=tuple(_share(sum(line.full[i] for line in lines), starts[i]) for i in range(k)),
        walk=walked.acceptance,
        tokens_per_step=walked.tokens_per_step,
        vocab_share=_share(sum(line.vocab_misses for line in lines), wrong),
        accepted_first=_share(sum(first), len(first)),
        accepted_rest=_share(sum(rest), len(rest)),
        not_argmax=sum(line.not_argmax for line in lines) / tokens,
    )


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def dump(lines: Iterable[Predicted]) -> str:
    """The text of a validation file, sorted by id."""
    ordered = sorted(lines, key=lambda line: line.id)
    rows = (line.model_dump(mode="json", by_alias=True) for line in ordered)
    return "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)


def load(path: Path) -> tuple[Predicted, ...]:
    """The lines of a validation file.

    Raises:
        BadRecord: a line is not one, with its number, or two are of one prompt.
    """
    lines: dict[str, Predicted] = {}
    for line in json_lines(path):
        predicted = validated(line.data, Predicted, where=line.where)
        if predicted.id in lines:
            raise BadRecord(f"{line.where}: the prompt {predicted.id!r} stands in an earlier line too")
        lines[predicted.id] = predicted
    return tuple(lines.values())
