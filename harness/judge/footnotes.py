"""The conditions of a comparison, and the notes below it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from harness.judge.pairing import Pairs, brief, drafting, varied, without
from harness.judge.verdict import Verdict, judge
from harness.measure.engine_findings import LOSSY
from harness.results.conditions import UNVERIFIED
from harness.results.names import BASE
from harness.results.records import CellRecord
from harness.stats import paired
from harness.stats.depth import mechanism
from harness.text.numbers import percent, signed_interval

_SHOWN_ABOVE = frozenset({"drafter", "k", "engine", "mends", "execution", "settings"})
"""Fields of the subject that the table, or the notes of the pairs, show elsewhere."""
_IN_TARGET = frozenset({"model", "revision", "served_name", "tokenizer", "dtype", "quantization"})
"""Keys of a variant that the condition `target` shows."""
_FEW = 3
_LONG = 80


def conditions_of(record: CellRecord, across: Collection[str] = ()) -> dict[str, str]:
    """The conditions that a table prints above its rows; `unverified` where a record lacks one."""
    identity, environment = record.identity, record.environment
    names = [gpu.name or "GPU" for gpu in environment.gpus]
    target = [identity.target or UNVERIFIED, identity.dtype, identity.quantization]
    values: dict[str, Any] = {
        "stack": record.stack,
        "profile": record.profile,
        "target": " ".join(part for part in target if part is not None),
        "drafter": drafting(record.cell),
        "vLLM": record.subject.engine or UNVERIFIED,
        "T": _known(temperature(record)),
        "max_tokens": _known(identity.max_tokens),
        "concurrency": _known(identity.concurrency),
        "prefix cache": _known(identity.cache),
        "device": ", ".join(names) or _known(environment.cpu),
        "threads": None if names else environment.threads,
    }
    given = identity.as_given()
    given |= {"variant": record.cell.variant}
    values |= {field: given.get(field) for field in across}
    if "variant" in across and record.cell.variant != BASE:
        own = {key: value for key, value in record.subject.variant.items() if key not in _IN_TARGET}
        values = own | values
    return {name: brief(value) for name, value in values.items() if value is not None or name in across}


def as_subject(record: CellRecord, across: Collection[str]) -> CellRecord:
    """A record in a comparison across how drafts are verified: that the way is lossy is then a footnote."""
    if "verification" not in across:
        return record
    said = tuple(f.model_copy(update={"hard": f.hard and f.code != LOSSY}) for f in record.findings)
    return record.model_copy(update={"findings": said})


def noise_of(record: CellRecord) -> list[str]:
    """How much two passes of the baseline differ. Nothing where it has one pass."""
    if not any(r.repeat for r in record.prompts):
        return []
    first, second = (
        record.model_copy(update={"prompts": tuple(r for r in record.prompts if r.repeat == repeat)})
        for repeat in (0, 1)
    )
    verdict = judge(first, second) if second.prompts else None
    if verdict is None or verdict.change is None:
        return []
    if verdict.interval is None:
        return [f"noise: two passes of the baseline are identical in all {verdict.prompts} {verdict.unit}"]
    change, interval = percent(verdict.change), signed_interval(verdict.interval)
    return [f"noise: two passes of the baseline differ by {change} (95 % CI {interval})"]


def drafter_notes(old: CellRecord, new: CellRecord) -> list[str]:
    """That positions of two drafters are not the same positions."""
    if drafting(old.cell) == drafting(new.cell) or not (old.cell.k and new.cell.k):
        return []
    return ["different drafters draft at different steps: positions compare what each one reached"]


def weights_notes(old: CellRecord, new: CellRecord) -> list[str]:
    """That two names stand for one drafter."""
    names = [record.subject.drafter for record in (old, new)]
    weights = [record.subject.weights for record in (old, new)]
    if names[0] == names[1] or weights[0] != weights[1] or weights[0] in (None, UNVERIFIED):
        return []
    return [f"{names[0]} and {names[1]} are the same drafter: their weights hash alike ({weights[0]})"]


def subject_notes(old: CellRecord, new: CellRecord, across: Collection[str] = ()) -> Iterator[str]:
    """What differs in the settings of the engine or the drafter, and is not what two variants change."""
    meant = varied(old, new, across)
    on_both = old.subject.as_given().keys() & new.subject.as_given().keys()
    for field, (before, after) in old.subject.differences(new.subject).items():
        if field not in on_both - _SHOWN_ABOVE:
            continue
        texts = [brief(one) for one in apart(without(before, meant), without(after, meant))]
        if field == "resolved_config":  # thousands of characters: only the parts that differ
            parts = [[p for p in text.split(", ") if p.partition("=")[0] not in meant] for text in texts]
            own = [[p for p in parts[i] if p not in set(parts[1 - i])] for i in (0, 1)]
            texts = [", ".join(ps[:_FEW]) + (", ..." if len(ps) > _FEW else "") for ps in own]
        if texts[0] == texts[1]:
            continue
        was, now = (t if len(t) <= _LONG else t[: _LONG - 3] + "..." for t in texts)
        yield f"{field.replace('_', ' ')}: {was} -> {now}"


def apart(old: Any, new: Any) -> tuple[Any, Any]:
    """Two values; of two mappings what only one has, or has otherwise, also of those in them."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return old, new
    both = {key: apart(old[key], new[key]) for key in old if key in new and old[key] != new[key]}
    own = (
        {key: value for key, value in one.items() if key not in other}
        for one, other in ((old, new), (new, old))
    )
    before, after = ({key: pair[i] for key, pair in both.items()} | one for i, one in enumerate(own))
    return before, after


def holm_notes(verdicts: Sequence[tuple[str, Verdict]]) -> list[str]:
    """Which regressed cells stay significant when all cells of a table count as one family of tests.

    No verdict depends on it, since it changes with the cells that were selected.
    """
    family = [(name, v, v.p) for name, v in verdicts if v.p is not None]
    adjusted = paired.holm([p for *_, p in family])
    regressed = [(n, p) for (n, v, _), p in zip(family, adjusted, strict=True) if v.kind == "regressed"]
    if len(family) == 1 or not regressed:
        return []
    gone = [f"{name} (p {p:.2g})" for name, p in regressed if p > paired.ALPHA_CELL]
    together = f"significant at {paired.ALPHA_CELL:g} over all {len(family)} cells together (Holm)"
    text = f"{together}: {len(regressed) - len(gone)} of {len(regressed)} regressed"
    more = [f"and {len(gone) - _FEW} more"] if len(gone) > _FEW else []
    return [f"{text}; not {', '.join([*gone[:_FEW], *more])}" if gone else text]


def temperature(record: CellRecord) -> float | None:
    """None where the record does not say."""
    return record.identity.sampling.get("temperature")


def _known(value: Any) -> Any:
    return UNVERIFIED if value is None else value


def text_notes(old: CellRecord, verdict: Verdict) -> list[str]:
    """That texts differ although nothing is sampled: then the target alone decides the text."""
    if verdict.same_text in (None, verdict.prompts) or temperature(old):
        return []
    what = f"{verdict.prompts} {'answers' if verdict.unit == 'prompts' else verdict.unit}"
    other = verdict.prompts - verdict.same_text
    return [f"{other} of {what} have another text, though nothing is sampled (T=0)"]


def depth_notes(new: CellRecord, pairs: Pairs, across: Collection[str]) -> list[str]:
    """Of two variants under one drafter: did acceptance fall faster at depth than at position 0?"""
    if not ({"variant", "weights"} & {*across} and pairs.same_drafter and new.cell.k > 1):
        return []
    found = mechanism(*(side.at_least for side in pairs.tallies))
    if found is None:
        return ["too few prompts or steps to say whether acceptance fell faster at depth than at position 0"]
    low, high = found.together.ci
    word = "faster" if high < 0 else "less" if low > 0 else "neither faster nor less, as far as can be seen,"
    shown = [f"{percent(one.change)} ({signed_interval(one.ci)})" for one in (found.first, found.together)]
    depths = [f"{one.position}: {percent(one.change)} ({signed_interval(one.ci)})" for one in found.depths]
    text = (
        f"conditional acceptance at position 0 changed by {shown[0]}; at depth it fell {word} than that "
        f"explains: beyond it {shown[1]}; at position {', '.join(depths)} (95 % CIs)"
    )
    return [text]
