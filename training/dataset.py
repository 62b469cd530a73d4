"""Makes the trainer's data set of the answers, in an order that tells which rows are its validation."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.results.files import as_line, writing
from harness.text.console import Say
from training import program
from training.answers.rows import Row, arranged, contents_of, digest, index, within
from training.errors import BadData
from training.recipe import Recipe

COLUMNS = frozenset({"input_ids", "loss_mask", "seq_len"})
SHUFFLE_SEED = 0
"""prepare-data shuffles with it, twice."""
ROWS_PER_WORKER = 2000
MOST_WORKERS = 8


@dataclasses.dataclass
class Frequencies:
    """How often each token occurs in the answers."""

    training: Counter[int] = dataclasses.field(default_factory=Counter)
    validation: dict[str, Counter[int]] = dataclasses.field(default_factory=lambda: defaultdict(Counter))
    """By language."""


def run(
    folder: Path, responses_file: Path, recipe: Recipe, *, target: str, say: Say
) -> dict[str, int | float | str]:
    """The stage: make `data/` and held_out.jsonl from responses.jsonl. A second try starts over.

    Args:
        folder: the stage's own.
        responses_file: what the stage before it wrote.
        recipe: its `dataset` table is used.
        target: the folder or hub id of the target, whose processor prepare-data loads.
        say: gets a line before anything slow.

    Raises:
        BadInput: a row of responses.jsonl is damaged, or the disk is full.
        TrainingFailed: too few rows are left, or speculators changed them.
    """
    length = recipe.dataset.seq_length
    rows, unsupervised = index(responses_file, length)
    ratio = train_ratio(recipe.dataset.validation)
    trained = train_rows(len(rows), ratio)
    if not trained or trained == len(rows):
        raise BadData(
            f"{responses_file}: training and validation need at least a row each, and there are {len(rows)} "
            f"(another {unsupervised} have no answer within dataset.seq_length = {length}). Ask for more "
            "prompts, or raise seq_length"
        )
    rows = arranged(rows, trained, seed=recipe.prompts.seed)
    part, data = folder / "data.part", folder / "data"
    for left_over in (part, data):  # prepare-data would keep old rows, and the trainer old counts
        shutil.rmtree(left_over, ignore_errors=True)
    say(f"preparing {len(rows)} rows")
    frequencies = _prepare(folder, responses_file, rows, trained, length=length, target=target)
    verify(part, rows)
    vocabulary = write_vocabulary(part, frequencies.training, recipe.dataset.draft_vocab_size)
    held_out = _write_held_out(folder, responses_file, rows[trained:], recipe.check.held_out)
    part.replace(data)
    by_language = sorted(frequencies.validation.items())
    return {
        "rows": len(rows),
        "tokens": sum(r.tokens for r in rows),
        "supervised_tokens": sum(r.supervised for r in rows),
        "train_rows": trained,
        "train_tokens": sum(r.tokens for r in rows[:trained]),
        "validation_rows": len(rows) - trained,
        "train_ratio": ratio,
        "cut_at_seq_length": sum(r.cut for r in rows),
        "dropped_unsupervised": unsupervised,
        **{f"rows_{language}": n for language, n in sorted(Counter(r.language for r in rows).items())},
        "distinct_tokens": len(frequencies.training),
        "coverage": coverage(sum(frequencies.validation.values(), Counter[int]()), vocabulary),
        **{f"coverage_{language}": coverage(tokens, vocabulary) for language, tokens in by_language},
        **{f"held_out_{language}": n for language, n in sorted(held_out.items())},
    }


def train_ratio(validation: float) -> float:
    """speculators' train_data_ratio for a recipe's share of validation rows."""
    return round(1 - validation, 9)


def train_rows(rows: int, ratio: float) -> int:
    """How many rows speculators trains on; the rows after them are the validation."""
    return int(rows * ratio)


def coverage(tokens: Mapping[int, int], vocabulary: frozenset[int] | None) -> float:
    """The share of the tokens that are in the draft vocabulary; 1 where that is the target's own."""
    if vocabulary is None:
        return 1.0
    total = sum(tokens.values())
    covered = sum(n for token, n in tokens.items() if token in vocabulary)
    return round(covered / total, 5) if total else 0.0


def positions_after_shuffle(count: int) -> list[int]:
    """For each row of prepare-data's input, its number in the output."""
    shuffle = np.random.default_rng(SHUFFLE_SEED).permutation(count)
    numbers = np.empty(count, dtype=np.int64)
    numbers[shuffle[shuffle]] = np.arange(count)  # it shuffles as it reads, and again at the end
    return [int(number) for number in numbers]


def _prepare(
    folder: Path, responses_file: Path, rows: Sequence[Row], trained: int, *, length: int, target: str
) -> Frequencies:
    """Run prepare-data into `data.part`, with its rows in the order of `rows`, and count the tokens."""
    frequencies = Frequencies()
    source, cache = folder / "rows.jsonl", folder / "cache"
    numbers = positions_after_shuffle(len(rows))
    with writing(source) as file:
        contents = contents_of(responses_file, (rows[number] for number in numbers))
        for number, content in zip(numbers, contents, strict=True):
            ids, mask = within(content, length)
            row = rows[number]
            counter = frequencies.training if number < trained else frequencies.validation[row.language]
            counter.update(token for token, m in zip(ids, mask, strict=True) if m)
            file.write(as_line({"input_ids": ids, "loss_mask": mask}))
    environment = {
        "HF_DATASETS_CACHE": str(cache),
        **({"HF_HUB_OFFLINE": "1"} if target.startswith("/") else {}),
    }
    workers = max(1, min(MOST_WORKERS, (os.cpu_count() or 1) // 2, len(rows) // ROWS_PER_WORKER))
    try:
        program.speculators(
            [
                "prepare-data",
                *("--model", target),
                *("--data", str(source)),
                *("--output", str(folder / "data.part")),
                *("--seq-length", str(length)),
                *("--seed", str(SHUFFLE_SEED)),
                *("--num-preprocessing-workers", str(workers)),
                "--skip-token-freq",  # it would count the validation's tokens too
            ],
            log=folder / "log.txt",
            environment=environment,
        )
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        source.unlink(missing_ok=True)
    return frequencies


def verify(data: Path, rows: Sequence[Row]) -> None:
    """Check that speculators wrote these rows, in this order.

    Raises:
        TrainingFailed: it did not.
    """
    from datasets import load_from_disk  # noqa: PLC0415 - only where speculators is installed

    try:
        written = load_from_disk(str(data))
    except (OSError, ValueError) as error:
        raise BadData(f"{data}: not a data set that can be read: {error}; see log.txt there") from None
    missing = sorted(COLUMNS - set(written.column_names))
    if missing:
        there = ", ".join(written.column_names) or "none"
        raise BadData(
            f"{data}: the columns {', '.join(missing)} are missing; there are: {there}. Use the version of "
            "speculators that draftgate's extra `train` names"
        )
    if len(written) != len(rows):
        raise BadData(f"{data}: speculators made {len(written)} rows of {len(rows)}; see log.txt there")
    number = 0
    for batch in written.with_format("numpy").iter(batch_size=500):
        for ids, mask in zip(batch["input_ids"], batch["loss_mask"], strict=True):
            if digest(ids, mask) != rows[number].digest:
                raise BadData(
                    f"{data}: row {number} is not {rows[number].id}: this version of speculators shuffles in "
                    "another way, or changes rows. Use the version that draftgate's extra `train` names"
                )
            number += 1


def write_vocabulary(data: Path, tokens: Mapping[int, int], size: int | None) -> frozenset[int] | None:
    """Write token_freq.pt, from which the trainer chooses the draft vocabulary; return that vocabulary.

    None where the drafter has the target's own vocabulary.
    """
    import torch  # noqa: PLC0415 - seconds
    from speculators.train.vocab_mapping import build_vocab_mappings_from_distribution  # noqa: PLC0415

    torch.save(dict(tokens), data / "token_freq.pt")
    if size is None:
        return None
    _, chosen = build_vocab_mappings_from_distribution(dict(tokens), size, max(size, max(tokens) + 1))
    return frozenset(chosen.nonzero().flatten().tolist())


def _write_held_out(folder: Path, responses_file: Path, rows: Sequence[Row], at_most: int) -> dict[str, int]:
    """Write the first validation prompts of each language that have a greedy answer; return how many."""
    found = {row.language: 0 for row in rows}
    chosen = []
    for row in rows:
        if row.temperature == 0 and found[row.language] < at_most:
            found[row.language] += 1
            chosen.append(row)
    chosen.sort(key=lambda row: row.language)
    with writing(folder / "held_out.jsonl") as file:
        for content in contents_of(responses_file, chosen):
            known = {name: content[name] for name in ("id", "language", "source")}
            known |= {"workload": content.get("workload", "instruct"), "text": content["prompt"]}
            file.write(as_line({**known, "finish_reason": content.get("finish_reason")}))
    return found
