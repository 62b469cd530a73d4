"""Makes the served figures for a drafter's records and card from the harness's cell records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.judge.footnotes import temperature
from harness.measure.validity import countable
from harness.results.records import CellRecord
from harness.stats.acceptance import Tally, added
from harness.stats.paired import paired_difference

HELD_OUT = "held out in training"


def of(record: CellRecord) -> dict[str, Any]:
    """The figures of one measured cell, with 95 % intervals over prompts; None where there is none.

    `prompts_of` says whose prompts: those that training held out, or the benchmark's of one workload.
    """
    tallies = [r.tally for r in record.prompts if countable(r)]
    total = added(tallies)
    gpus = [str(gpu.name) for gpu in record.environment.gpus]
    held_out = record.suite in ("parity", "contract")  # its name in older runs
    return {
        "prompts_of": HELD_OUT if held_out else f"benchmark, {record.cell.workload}",
        "endpoint": record.cell.endpoint,
        "language": record.cell.language,
        "k": record.cell.k,
        "prompts": len(tallies),
        "temperature": temperature(record),
        "max_tokens": record.identity.max_tokens,
        "engine": record.subject.engine,
        "device": ", ".join(gpus) or record.environment.cpu,
        "weights": record.subject.weights,
        "valid": record.valid,
        "tokens_per_step": total.tokens_per_step,
        "tokens_per_step_ci": _interval([t.committed for t in tallies], [t.decode_steps for t in tallies]),
        "tau": total.tau,
        "acceptance": list(total.acceptance),
        "acceptance_ci": [_position(tallies, i) for i in range(record.cell.k)],
    }


def _position(tallies: Sequence[Tally], index: int) -> list[float] | None:
    return _interval([t.at_least[index + 1] for t in tallies], [t.verify_steps for t in tallies])


def _interval(parts: Sequence[int], wholes: Sequence[int]) -> list[float] | None:
    """The interval of sum(parts) / sum(wholes) over prompts, as the difference from zero."""
    try:
        ends = paired_difference([0] * len(parts), wholes, parts, wholes).interval()
    except ValueError:  # one prompt, or no step
        return None
    return [round(end, 4) for end in ends] if ends else None
