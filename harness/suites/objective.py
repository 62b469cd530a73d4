"""What a trial of a search is worth, whether it keeps its bounds, and whether it can still win."""

from __future__ import annotations

from harness.config.space import Space
from harness.measure.validity import countable, mostly_degenerate, total
from harness.results.records import CellRecord, PromptRecord
from harness.results.stretches import sums_of
from harness.results.timing import in_ms, speed_of
from harness.stats.blocks import LOG_MARGIN, NEW, OLD
from harness.stats.paired import paired_log_ratio, sequential_thresholds
from harness.suites.load import Bound, goodput
from harness.text.numbers import number

UNITS = {"tokens_per_step": "tokens per step", "tok_s": "tok/s", "goodput": "good requests a second"}
MEMORY = "memory_mib"
"""In a trial's provenance."""


def flaw_of(record: CellRecord) -> str:
    """Why a record says nothing; empty where it does."""
    if not record.valid:
        return f"not a measurement: {record.why_invalid}"
    return "most of its answers end in a loop" if mostly_degenerate(record.findings) else ""


def worth(record: CellRecord, space: Space) -> float | None:
    """The objective of a record; None where it was not measured."""
    if space.objective == "tokens_per_step":
        return total(record.prompts).tokens_per_step
    if space.objective == "goodput":
        return goodput(record.prompts, _bound(space))
    speed = speed_of(record.prompts)
    return speed.aggregate if speed else None


def _bound(space: Space) -> Bound:
    asked = {"ttft_s": space.bounds.ttft_ms, "tpot_s": space.bounds.tpot_ms}
    return Bound(**{name: ms / 1000 for name, ms in asked.items() if ms is not None})


def unmet(record: CellRecord, space: Space, default: CellRecord | None = None) -> str:
    """Which bound a record does not keep; empty where it keeps all.

    Args:
        record: of a trial.
        space: with the bounds. Those on times are each request's own, where goodput is wanted.
        default: the same prompts with the default, where other texts are bounded.
    """
    speed, bounds = speed_of(record.prompts), space.bounds
    of_requests = space.objective == "goodput"
    limits = {
        "TTFT in ms": (in_ms(speed.ttft_s) if speed else None, None if of_requests else bounds.ttft_ms),
        "TPOT in ms": (in_ms(speed.tpot_s) if speed else None, None if of_requests else bounds.tpot_ms),
        "memory in MiB": (record.provenance.get(MEMORY), bounds.memory_mib),
        "the share of other texts": (other_text(record, default), bounds.other_text),
    }
    for name, (value, most) in limits.items():
        if most is not None and (value is None or value > most):
            return f"{name} is {number(value)}, and at most {most:g} may be"
    return ""


def other_text(record: CellRecord, default: CellRecord | None) -> float | None:
    """Share of the answers that have another text than those of the default; None without any."""
    texts = {r.prompt: r.text_hash for r in default.prompts} if default else {}
    both = [r for r in record.prompts if r.prompt in texts]
    return sum(r.text_hash != texts[r.prompt] for r in both) / len(both) if both else None


def surely_worse(record: CellRecord, best: CellRecord | None, space: Space, *, look: int) -> bool:
    """Whether a trial loses to the best one by the bounds of repeated looks, on the prompts that both asked.

    Of tok/s it must lose more than two starts may differ by. Goodput has no scatter between prompts.

    Args:
        record: up to the look.
        best: the whole record of the best trial.
        space: with the objective.
        look: one of `paired.LOOKS`.
    """
    if best is None or space.objective == "goodput":
        return False
    steps = space.objective == "tokens_per_step"
    try:
        change = paired_log_ratio(*_columns(best, record, steps=steps))
    except ValueError:  # too few prompts, or times that nobody measured
        return False
    surely = sequential_thresholds(look, change.df)[0] * change.se
    return change.estimate < 0 and change.estimate + surely <= (0.0 if steps else -LOG_MARGIN)


def _columns(old: CellRecord, new: CellRecord, *, steps: bool) -> list[list[float]]:
    """Tokens and steps (or seconds) of the prompts that both sides answered, side by side."""

    def of(r: PromptRecord) -> tuple[float, float]:
        if steps:
            return r.tally.committed, r.tally.decode_steps
        return r.output_tokens, r.total_s or 0.0

    sides = [sums_of(filter(countable, side.prompts), of) for side in (old, new)]
    both = sorted(sides[OLD].keys() & sides[NEW].keys())
    return [[side[name][at] for name in both] for side in sides for at in (0, 1)]
