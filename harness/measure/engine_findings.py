"""Findings about the conditions of a measurement: engine, the model's defaults, the drafter's vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.measure.draft_vocab import Coverage
from harness.results.conditions import Subject
from harness.results.records import CellName, Finding

ENOUGH_COVERAGE = 0.99
"""Share of the output tokens below which a draft vocabulary gets a footnote."""
_FEW = 3


def findings(
    cell: CellName, subject: Subject, *, sampling: Mapping[str, Any], covered: Coverage | None
) -> tuple[Finding, ...]:
    """What a reader must know.

    Args:
        cell: its name.
        subject: what the comparison is about.
        sampling: the parameters of every request.
        covered: how much of the output the drafter's vocabulary holds; None if it has all of the target's.
    """
    result = [
        *_engine(cell, subject, sampled=bool(sampling.get("temperature"))),
        *_defaults(subject.sampling_defaults, sampling),
    ]
    if covered is not None and covered.tokens and covered.share < ENOUGH_COVERAGE:
        result.append(
            Finding.note(
                "draft-vocabulary",
                f"the draft vocabulary ({covered.known} tokens) holds {covered.share:.1%} of the "
                f"{covered.tokens} output tokens ({cell.language}): acceptance at position 0 can reach about "
                f"{covered.share:.1%}, tokens per step {covered.most_per_step(cell.k):.1f}",
                known=covered.known,
                inside=covered.inside,
                tokens=covered.tokens,
            )
        )
    return tuple(result)


def _engine(cell: CellName, subject: Subject, *, sampled: bool) -> list[Finding]:
    """Faults of the engine that run without their patch, and changes of its files."""
    result = []
    for patch in subject.patches:
        if patch.probe != "fault" or patch.patched or not cell.k:
            continue
        name = patch.fault
        if sampled:
            text = f"the engine has the fault {name}, and no patch: acceptance at T > 0 is wrong"
            result.append(Finding.fatal("engine-faulty", text, fault=str(name)))
        else:
            text = f"the engine has the fault {name}, and no patch: at T=0 that changes nothing"
            result.append(Finding.note("engine-faulty", text, fault=str(name)))
    changed = subject.engine_files
    if changed and not isinstance(changed, str):
        names = [f"{name} ({digest})" for name, digest in changed]
        more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
        text = f"files of the engine differ from those of its package: {', '.join(names[:_FEW])}{more}"
        result.append(Finding.note("engine-patched", text))
    if subject.loads_code:
        text = f"the engine's environment loads other code before its own: {', '.join(subject.loads_code)}"
        result.append(Finding.note("engine-patched", text))
    return result


def _defaults(defaults: Any, sampling: Mapping[str, Any]) -> list[Finding]:
    """Sampling parameters that the server takes from the model where a request does not give them."""
    if not isinstance(defaults, Mapping):
        return []
    known = {**sampling, "max_tokens": None}
    taken = {name: value for name, value in sorted(defaults.items()) if name not in known}
    other = {
        name: value
        for name, value in sorted(defaults.items())
        if name in sampling and value != sampling[name]
    }
    result = []
    if other:
        sent = ", ".join(f"{name} {sampling[name]:g}" for name in other)
        text = (
            f"the server takes defaults from the model ({_listed(other)}), and our requests set others "
            f"({sent}): a request that sets none has other figures"
        )
        result.append(Finding.note("sampling-defaults", text))
    if taken:
        text = f"in force, from the model's generation_config.json: {_listed(taken)}"
        result.append(Finding.note("sampling-defaults", text))
    return result


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
