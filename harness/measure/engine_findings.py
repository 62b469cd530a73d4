"""Findings about the conditions of a measurement: engine, the model's defaults, the drafter's vocabulary."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from harness.config.engine_arguments import underscored
from harness.engine.offers import dynamic_k
from harness.measure.draft_vocab import Coverage
from harness.results.conditions import Identity, Subject
from harness.results.records import CellName, Finding, PromptRecord

LOSSY = "lossy-verification"
"""The finding that drafts are not verified exactly."""
ENOUGH_COVERAGE = 0.99
"""Share of the output tokens below which a draft vocabulary gets a footnote."""
_LOOKED_UP = re.compile("ngram|suffix")
"""Methods that look drafts up in what was written before."""
_OF_A_MODEL = re.compile("eagle.*|.*mtp|medusa|draft_model|mlp_speculator|dflash")
_RESOLVED_LATER = frozenset({"auto", "half", "float", -1})
"""What stands for another value."""
_ENOUGH_STEPS = 50
_FEW_MISSING = 0.02
"""Share of the drafts that a model may lack: the last step before max_model_len has none."""
_FEW = 3


def findings(
    cell: CellName,
    subject: Subject,
    *,
    identity: Identity,
    declared: Collection[str] = (),
    covered: Coverage | None,
    unverified: Sequence[str] = (),
    records: Sequence[PromptRecord] = (),
) -> tuple[Finding, ...]:
    """What a reader must know.

    Args:
        cell: its name.
        subject: what the comparison is about.
        identity: what was asked, and how drafts are verified.
        declared: fields of the identity that the stack declares its subject.
        covered: how much of the output the drafter's vocabulary holds; None if it has all of the target's.
        unverified: what nobody could find out of a server that is not ours.
        records: the answers.
    """
    result = [
        *(Finding.note("unverified", text) for text in unverified),
        *_drafts_as_said(cell, subject, records),
        *_verification(identity.verification, declared="verification" in declared),
        *_dynamic_k(cell, subject),
        *_resolved({**subject.engine_args, "dtype": identity.dtype}, subject.execution),
        *_engine(cell, subject, sampled=bool(identity.sampling.get("temperature"))),
        *_defaults(subject.sampling_defaults, identity.sampling),
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


def _drafts_as_said(cell: CellName, subject: Subject, records: Sequence[PromptRecord]) -> list[Finding]:
    """Whether the answers look like the method that the stack names, where nobody else tells it.

    A model drafts k tokens in every step. What looks drafts up in a text finds none in many.
    """
    if not cell.k or "method" not in subject.unverified or dynamic_k(subject.settings):
        return []
    known = [r for r in records if not r.failed and r.draft_tokens is not None]
    steps = sum(sum(r.histogram) + r.undrafted for r in known)
    missing = steps - sum(r.draft_tokens or 0 for r in known) / cell.k
    share, method = missing / max(steps, 1), subject.method or ""
    looked_up = _LOOKED_UP.fullmatch(method) and share == 0
    of_a_model = _OF_A_MODEL.fullmatch(method) and share > _FEW_MISSING
    if steps < _ENOUGH_STEPS or not (looked_up or of_a_model):
        return []
    does = f"drafts {cell.k} tokens in every step" if of_a_model else "finds no draft in many steps"
    text = (
        f"the stack says that the method is {method}, which {does}; of these {steps} steps {share:.0%} lack "
        "drafts: it may be another drafter"
    )
    return [Finding.note("not-as-said", text, steps=steps, missing=missing)]


def _verification(way: str | None, *, declared: bool) -> list[Finding]:
    """Drafts that are accepted though the target would have written something else."""
    if way is None:
        return []
    what = "which is not exact: it accepts tokens that the target rejects"
    text = f"the engine verifies drafts by {way!r}, {what}"
    if declared:
        return [Finding.note(LOSSY, text, way=way)]
    cure = 'take another rejection_sample_method, or declare subject = ["verification"] in the stack'
    return [Finding.fatal(LOSSY, f"{text}; {cure}", way=way)]


def _dynamic_k(cell: CellName, subject: Subject) -> list[Finding]:
    """An engine that chooses k: some steps then had fewer drafts than the cell's name says."""
    fields = dynamic_k(subject.settings) if cell.k else []
    what = "lets the engine choose k: acceptance at a position counts the steps that drafted less, too"
    return [Finding.note("dynamic-k", f"{field} {what}") for field in fields]


def _resolved(asked: Mapping[str, Any], execution: Any) -> list[Finding]:
    """Values that the engine replaced by its own: a drafter may lower the longest context, say."""
    made = execution if isinstance(execution, Mapping) else {}
    plain = {name.removeprefix("enable_"): value for name, value in underscored(asked).items()}
    other = [
        f"{name} {made[name]}, not {value}"
        for name, value in sorted(plain.items())
        # "auto", "4k" and the like are no values that an engine could keep.
        if type(value) is type(made.get(name)) and value != made.get(name) and value not in _RESOLVED_LATER
    ]
    return [Finding.note("not-as-asked", f"the engine runs with {', '.join(other)}")] if other else []


def _engine(cell: CellName, subject: Subject, *, sampled: bool) -> Iterator[Finding]:
    """Faults of the engine that run without their patch, and changes of its files."""
    for patch in subject.patches:
        if patch.probe != "fault" or patch.patched or not cell.k:
            continue
        text = f"the engine has the fault {patch.fault}, and no patch: "
        text += "acceptance at T > 0 is wrong" if sampled else "at T=0 that changes nothing"
        kind = Finding.fatal if sampled else Finding.note
        yield kind("engine-faulty", text, fault=str(patch.fault))
    changed = subject.engine_files
    if changed and not isinstance(changed, str):
        names = [f"{name} ({digest})" for name, digest in changed]
        more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
        text = f"files of the engine differ from those of its package: {', '.join(names[:_FEW])}{more}"
        yield Finding.note("engine-patched", text)
    if subject.loads_code:
        text = f"the engine's environment loads other code before its own: {', '.join(subject.loads_code)}"
        yield Finding.note("engine-patched", text)


def _defaults(defaults: Any, sampling: Mapping[str, Any]) -> Iterator[Finding]:
    """Sampling parameters that the server takes from the model where a request does not give them."""
    given = dict(sorted(defaults.items())) if isinstance(defaults, Mapping) else {}
    known = {**sampling, "max_tokens": None}
    taken = {name: value for name, value in given.items() if name not in known}
    other = {n: value for n, value in given.items() if n in sampling and value != sampling[n]}
    if other:
        sent = ", ".join(f"{name} {sampling[name]:g}" for name in other)
        text = (
            f"the server takes defaults from the model ({_listed(other)}), and our requests set others "
            f"({sent}): a request that sets none has other figures"
        )
        yield Finding.note("sampling-defaults", text)
    if taken:
        text = f"in force, from the model's generation_config.json: {_listed(taken)}"
        yield Finding.note("sampling-defaults", text)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
