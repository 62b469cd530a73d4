"""Chooses the answers that the drafter learns from, by rules in a fixed order. It counts what each drops."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from harness.errors import BadInput
from harness.results.files import as_line, complete_lines, json_lines, write_atomically, writing
from harness.results.records import ENDS
from harness.stats.text_quality import degenerate, in_language
from training.answers.progress import failures, well_formed
from training.errors import TrainingFailed
from training.recipe import Recipe, Responses
from training.sources.dedup import Prompt
from training.tokenizer import tokenizer_of

Decode = Callable[[list[int]], str]
Row = dict[str, Any]

RULES = ("error", "damaged", "unknown", "duplicate", "short", "degenerate", "cut_off", "other_language")
"""In the order of the checks: an answer counts under the first rule that drops it.

error: the request failed, or the answer was broken off; damaged: the row has no tokens; unknown: no prompt of
ours has its id; duplicate: the prompt has an answer already; short: it is empty, or has fewer tokens than
min_tokens; degenerate: it ends in a loop; cut_off: it ended at max_tokens; other_language: the prompt is
Chinese and the answer is not."""
NOWHERE = "?"
"""Language and source of an answer whose prompt is unknown."""


@dataclasses.dataclass
class Tally:
    """Rows by rule, language and source."""

    dropped: Counter[tuple[str, str, str]] = dataclasses.field(default_factory=Counter)
    kept: Counter[tuple[str, str, str]] = dataclasses.field(default_factory=Counter)
    """Under `all` every kept answer; under a rule, the kept answers that would fall under it."""
    errors: Counter[str] = dataclasses.field(default_factory=Counter)
    tokens: int = 0
    supervised: int = 0

    def drop(self, rule: str, prompt: Prompt | None) -> None:
        """Count an answer that this rule drops."""
        origin = (prompt.language, prompt.source) if prompt else (NOWHERE, NOWHERE)
        self.dropped[(rule, *origin)] += 1


def _total(counter: Counter[tuple[str, str, str]], rule: str) -> int:
    return sum(n for (name, _, _), n in counter.items() if name == rule)


def read_prompts(path: Path) -> dict[str, Prompt]:
    """Read prompts.jsonl, by id.

    Raises:
        BadInput: with file and line.
    """
    found: dict[str, Prompt] = {}
    for line in json_lines(path):
        prompt = line.model(Prompt)
        if prompt.id in found:
            raise BadInput(
                f"{line.where}: the id {prompt.id!r} stands in an earlier line too", code="damaged-file"
            )
        found[prompt.id] = prompt
    return found


def decoder(target: str) -> Decode:
    """A function from token ids to text without special tokens, by the target's tokenizer.

    Raises:
        BadInput: it has none.
    """
    tokenizer = tokenizer_of(target)
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))


def select(
    folder: Path,
    prompts: Mapping[str, Prompt],
    raws: Sequence[tuple[float, Path]],
    recipe: Recipe,
    *,
    decode: Decode,
) -> dict[str, int | float | str]:
    """Write responses.jsonl and dropped.json, and return the counts.

    Raises:
        TrainingFailed: no answer is left.
    """
    tally = Tally()
    with writing(folder / "responses.jsonl") as file:
        _write_kept(file, prompts, raws, settings=recipe.responses, decode=decode, tally=tally)
    write_atomically(folder / "dropped.json", json.dumps(_report(tally), ensure_ascii=False, indent=1) + "\n")
    kept = _total(tally.kept, "all")
    by_language: Counter[str] = Counter()
    for (name, language, _), n in tally.kept.items():
        by_language[language] += n if name == "all" else 0
    dropped = {rule: _total(tally.dropped, rule) for rule in RULES}
    if not kept:
        counts = ", ".join(f"{rule} {n}" for rule, n in dropped.items() if n) or "no answers at all"
        why = f"; the most frequent error: {tally.errors.most_common(1)[0][0][:200]}" if tally.errors else ""
        raise TrainingFailed(
            f"none of the {len(prompts)} prompts has an answer that the recipe keeps: {counts}{why}. "
            f"Look into {folder}, then change the recipe's responses table or its prompts",
            code="no-answers-kept",
        )
    return {
        "prompts": len(prompts),
        "kept": kept,
        "tokens": tally.tokens,
        "supervised_tokens": tally.supervised,
        "cut_off_kept": _total(tally.kept, "cut_off"),
        **{f"kept_{name}": n for name, n in sorted(by_language.items())},
        **{f"dropped_{rule}": n for rule, n in dropped.items()},
    }


def _write_kept(
    file: IO[str],
    prompts: Mapping[str, Prompt],
    raws: Sequence[tuple[float, Path]],
    *,
    settings: Responses,
    decode: Decode,
    tally: Tally,
) -> None:
    seen: set[str] = set()
    for temperature, raw in raws:
        for row in complete_lines(raw):
            prompt = prompts.get(str(row.get("primary_id")))
            rule, met, answer = _judged(row, prompt, seen, settings, decode)
            if prompt is None or rule:
                tally.drop(rule or "unknown", prompt)
                continue
            tally.kept.update((name, prompt.language, prompt.source) for name in ("all", *met))
            tally.tokens += len(row["input_ids"])
            tally.supervised += sum(row["loss_mask"])
            file.write(as_line(_kept(row, prompt, temperature, answer)))
    for _, raw in raws:
        for i, error in failures(raw).items():
            if i not in seen:  # those have an answer by now
                tally.drop("error", prompts.get(i))
                tally.errors[error] += 1


def _judged(
    row: Row, prompt: Prompt | None, seen: set[str], settings: Responses, decode: Decode
) -> tuple[str | None, tuple[str, ...], str]:
    """The rule that drops a row, or None; every rule that the answer meets; the answer's text."""
    if not well_formed(row):
        return "damaged", (), ""
    if prompt is None:
        return "unknown", (), ""
    if prompt.id in seen:
        return "duplicate", (), ""
    seen.add(prompt.id)
    if row["metadata"].get("finish_reason", "stop") not in ENDS:
        return "error", (), ""
    answer = decode([i for i, m in zip(row["input_ids"], row["loss_mask"], strict=True) if m])
    if not answer.strip() or sum(row["loss_mask"]) < settings.min_tokens:
        return "short", (), answer
    chinese = prompt.language == "zh" and prompt.workload != "code"  # code has a language of its own
    rules = (
        ("degenerate", settings.drop_degenerate, degenerate(answer)),
        ("cut_off", settings.drop_cut_off, row["metadata"].get("finish_reason") == "length"),
        ("other_language", settings.keep_language, chinese and in_language(answer, "zh") is not True),
    )
    met = tuple(rule for rule, _, applies in rules if applies)
    return next((rule for rule, drops, applies in rules if drops and applies), None), met, answer


def _kept(row: Row, prompt: Prompt, temperature: float, answer: str) -> Row:
    return {
        "id": prompt.id,
        "language": prompt.language,
        "source": prompt.source,
        "workload": prompt.workload,
        "temperature": temperature,
        "finish_reason": row["metadata"].get("finish_reason"),
        "prompt": prompt.text,
        "answer": answer,
        "input_ids": row["input_ids"],
        "loss_mask": row["loss_mask"],
    }


def _report(tally: Tally) -> dict[str, Any]:
    def nested(counter: Counter[tuple[str, str, str]]) -> dict[str, dict[str, dict[str, int]]]:
        found: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
        for (name, language, source), n in sorted(counter.items()):
            found[name][language][source] = n
        return found

    return {
        "schema": 1,
        "dropped": nested(tally.dropped),
        "kept": nested(tally.kept),
        "errors": dict(tally.errors.most_common(20)),
    }
