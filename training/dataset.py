"""Makes the trainer's data set of the answers, in an order that tells which rows are its validation."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.results.files import as_line, writable, writing
from harness.text.console import Say
from training.answers.rows import Row, arranged, contents_of, index, within
from training.errors import BadData
from training.recipe import Recipe
from training.trainer import warm_start

IntegerArray = npt.NDArray[np.integer[Any]]


@dataclasses.dataclass
class Frequencies:
    """How often each token occurs in the answers."""

    training: Counter[int] = dataclasses.field(default_factory=Counter)
    validation: dict[str, Counter[int]] = dataclasses.field(default_factory=lambda: defaultdict(Counter))
    """By language."""


def run(folder: Path, responses_file: Path, recipe: Recipe, *, say: Say) -> dict[str, int | float | str]:
    """The stage: make `data/` and held_out.jsonl from responses.jsonl. A second try starts over.

    Args:
        folder: the stage's own.
        responses_file: what the stage before it wrote.
        recipe: its `dataset` table is used.
        say: gets a line before anything slow.

    Raises:
        BadInput: a row of responses.jsonl is damaged, or the disk is full.
        TrainingFailed: too few rows are left.
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
    for left_over in (part, data):
        shutil.rmtree(left_over, ignore_errors=True)
    say(f"preparing {len(rows)} rows")
    frequencies = _write(part, responses_file, rows, trained, length=length)
    vocabulary = write_vocabulary(part, frequencies.training, recipe.dataset.draft_vocab_size)
    if (start := recipe.train.from_pretrained) and start.startswith("/"):  # that drafter keeps its own
        vocabulary = warm_start.vocabulary(start)
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


def _write(
    part: Path, responses_file: Path, rows: Sequence[Row], trained: int, *, length: int
) -> Frequencies:
    """Write the rows in their order, and count the tokens of the answers."""
    frequencies = Frequencies()
    ids_of, mask_of = list[IntegerArray](), list[IntegerArray]()
    for number, (row, content) in enumerate(zip(rows, contents_of(responses_file, rows), strict=True)):
        ids, mask = within(content, length)
        counter = frequencies.training if number < trained else frequencies.validation[row.language]
        counter.update(itertools.compress(ids, mask))
        ids_of.append(np.asarray(ids, dtype=np.int32))
        mask_of.append(np.asarray(mask, dtype=np.int8))
    save(part, ids_of, mask_of)
    return frequencies


def save(
    folder: Path, ids: Sequence[Sequence[int] | IntegerArray], masks: Sequence[Sequence[int] | IntegerArray]
) -> None:
    """Write a data set as the trainer reads it.

    Args:
        folder: it is made.
        ids: the token ids of each row.
        masks: 1 for each token of an answer, 0 for those of a prompt; shaped as `ids`.

    Raises:
        BadInput: the disk is full.
    """
    import datasets  # noqa: PLC0415 - seconds
    import pyarrow as pa  # noqa: PLC0415

    datasets.disable_progress_bars()
    lists = pa.list_(pa.int64())
    columns = {
        "input_ids": pa.array(ids, lists),
        "loss_mask": pa.array(masks, lists),
        "seq_len": pa.array(map(len, ids), pa.int64()),
    }
    # With a fingerprint given, it need not hash all tokens, which datasets 5.2 cannot.
    table = datasets.table.InMemoryTable(pa.table(columns))
    made = datasets.Dataset(table, fingerprint=folder.parent.name)
    made.set_format("torch")
    with writable(folder):
        made.save_to_disk(str(folder))


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
