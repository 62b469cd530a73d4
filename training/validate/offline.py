"""Predicts from the validation what serving should give, answer by answer, in `validation.jsonl`.

The trainer's own `full_acc` is another figure: it counts within the draft vocabulary, over all tokens of all
answers, sampled ones included. Here the drafter's model runs over greedy answers with the target's hidden
states, and its guesses are compared with the tokens that serving verifies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.config.prompts import HELD_OUT, hash_of, load_held_out
from harness.results import prediction
from harness.results.files import json_lines, write_atomically
from harness.results.prediction import Predicted
from harness.text.console import Say
from training.answers import rows
from training.errors import BadDrafter
from training.recipe import Recipe
from training.validate.eagle3 import Drafter, Eagle3, Guesses, Sample, Tokens


def answer_of(loss_mask: Sequence[int]) -> int:
    """The index at which the answer begins: the mask is zeros, then ones to its end.

    Raises:
        BadInput: there is no answer, no prompt before it, or more than one answer.
    """
    mask = [bool(value) for value in loss_mask]
    start = mask.index(True) if True in mask else len(mask)
    if not 0 < start < len(mask) or not all(mask[start:]):
        raise BadDrafter("a held-out sample is one prompt and one answer: its loss mask is zeros, then ones")
    return start


def read_sample(path: Path, *, id: str, language: str, loss_mask: Sequence[int], text: str | None) -> Sample:  # noqa: A002
    """A sample with its hidden states, from `hs_<row>.safetensors`.

    Raises:
        BadInput: the file is not there or damaged, or is of other tokens than the mask.
    """
    from safetensors import SafetensorError  # noqa: PLC0415 - only where there are real files
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        tensors = load_file(path)
        states, ids = tensors["hidden_states"], tensors["token_ids"]
    except OSError as error:
        raise BadDrafter(f"{path}: {error.strerror or error}") from None
    except (KeyError, SafetensorError) as error:
        raise BadDrafter(f"{path}: no hidden states of ours: {error}") from None
    if not len(loss_mask) == len(ids) == len(states):
        raise BadDrafter(
            f"{path}: {len(states)} states and {len(ids)} tokens, but a mask of {len(loss_mask)}"
        )
    return Sample(
        id=id,
        language=language,
        token_ids=ids.numpy().astype(np.int64),
        answer=answer_of(loss_mask),
        text=text,
        hidden_states=states,
    )


def held_out(
    dataset: Path, responses_file: Path, hidden: Path, *, first: int, length: int
) -> Iterator[Sample]:
    """The samples of the held-out prompts, with the hidden states that the trainer validated on.

    Args:
        dataset: the folder of that stage: `data/` and `held_out.jsonl`.
        responses_file: the answers that it was made of.
        hidden: where the hidden states are, a file a row of `data/`.
        first: row of `data/` where the validation begins.
        length: tokens of a row at most.

    Raises:
        BadInput: a file is damaged, or these are not the answers that the data were made of.
    """
    from datasets import load_from_disk  # noqa: PLC0415 - takes seconds

    wanted = {prompt.id for prompt in load_held_out(dataset / HELD_OUT)}
    data = load_from_disk(str(dataset / "data")).with_format("numpy")
    rows_by_digest = {
        rows.digest(data[row]["input_ids"], data[row]["loss_mask"]): row for row in range(first, len(data))
    }
    for line in json_lines(responses_file):
        if line.data.get("id") not in wanted:
            continue
        ids, mask = rows.within(line.data, length)
        row = rows_by_digest.get(rows.digest(ids, mask))
        if row is None:
            raise BadDrafter(f"{line.where}: its answer is not in the validation rows")
        states = hidden / f"hs_{row}.safetensors"
        if states.exists():  # extraction may have lost a few, and training goes on without them
            whole = len(ids) == len(line.data["input_ids"])
            yield read_sample(
                states,
                id=line.data["id"],
                language=line.data["language"],
                loss_mask=mask,
                text=line.data.get("answer") if whole else None,
            )


def run(
    folder: Path,
    recipe: Recipe,
    *,
    checkpoint: Path,
    target: Path,
    samples: Iterable[Sample],
    device: str,
    say: Say,
) -> dict[str, dict[str, Any]] | None:
    """Write `validation.jsonl` into `folder`, and return its summary; None if nothing can be predicted.

    Args:
        folder: where it goes.
        recipe: only EAGLE-3 drafters can be run here.
        checkpoint: the one to export.
        target: its folder.
        samples: see `held_out`.
        device: `cpu` or `cuda`.
        say: gets a line before anything slow.

    Raises:
        BadInput: checkpoint or samples cannot be used.
    """
    if not recipe.train.predictable:
        say(f"no prediction of what serving gives: {recipe.train.algorithm} drafters are not run here")
        return None
    say("predicting what serving gives on the held-out prompts")
    predicted = list(predict(samples, Eagle3(checkpoint, target, device=device)))
    if not predicted:
        say("no prediction of what serving gives: no hidden states of held-out prompts were kept")
        return None
    write_atomically(folder / prediction.VALIDATION, prediction.dump(predicted))
    return summaries(predicted)


def predict(samples: Iterable[Sample], drafter: Drafter) -> Iterator[Predicted]:
    """A prediction for each sample whose answer has a decode step."""
    for sample in samples:
        if len(sample.token_ids) - sample.answer > 1:
            yield compared(sample, drafter(sample))


def compared(sample: Sample, guesses: Guesses) -> Predicted:
    """Compare the guesses over one sample with its own tokens."""
    ids, first, k = sample.token_ids, sample.answer, len(guesses.drafted)
    known = np.ones(len(ids), dtype=bool) if guesses.vocabulary is None else guesses.vocabulary[ids]
    right = _agreement(guesses.drafted, ids[1:])
    restricted = _agreement(guesses.drafted, guesses.best)
    not_greedy = known[first:] & (guesses.best[first - 1 : -1] != ids[first:])
    return Predicted.of(
        id=sample.id,
        language=sample.language,
        tokens=len(ids) - first,
        prompt_hash=hash_of(ids[:first].tolist()),
        text_hash=None if sample.text is None else hash_of(sample.text),
        reach=tuple(int(n) for n in right[:, first:-1].sum(axis=0)),
        outside=tuple(int(i) for i in np.flatnonzero(~known[first:])),
        full_restricted=tuple(int(restricted[s, first:].sum()) for s in range(k)),
        # After a prompt of one token there was nothing to guess the first token from.
        not_argmax=int(not_greedy[1 if first == 1 else 0 :].sum()),
    )


def _agreement(drafted: Tokens, wanted: Tokens) -> NDArray[np.bool_]:
    """[k, tokens]: whether guesses 0..s from start t are all as wanted; `wanted[t]` comes after token t.

    Where `wanted` ends, nothing agrees.
    """
    agrees = np.zeros(drafted.shape, dtype=bool)
    for step, guesses in enumerate(drafted):
        there = max(0, len(wanted) - step)
        agrees[step, :there] = guesses[:there] == wanted[step:]
    return np.logical_and.accumulate(agrees, axis=0)


def summaries(lines: Sequence[Predicted]) -> dict[str, dict[str, Any]]:
    """The figures by language, `all` first; plain values, as they go into the drafter's records."""
    languages = sorted({line.language for line in lines})
    groups = {"all": list(lines)} | {name: [ln for ln in lines if ln.language == name] for name in languages}
    return {name: dataclasses.asdict(prediction.summarise(group)) for name, group in groups.items()}
