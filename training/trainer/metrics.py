"""Makes a progress line, a report and curves from the metrics that the trainer writes."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from harness.results.files import complete_lines
from training.hidden.extract import Progress

_MOST = 2**53
COUNTED = ("samples", "empty_samples", "empty_steps")


def lines(path: Path, *, last_bytes: int | None = None) -> list[dict[str, Any]]:
    """The complete lines of a metrics file, or of its end; none where there is no file."""
    return [line for line in complete_lines(path, last_bytes=last_bytes) if _whole(line)]


def _whole(line: dict[str, Any]) -> bool:
    """Whether a line is the trainer's: numbers, and tables of numbers."""
    if not all(type(line.get(name)) is int for name in ("epoch", "step")):
        return False
    tables = [line[name] for name in ("train", "val") if name in line]
    if not all(isinstance(table, dict) for table in tables):
        return False
    numbers = [line.get(name, 0) for name in ("epoch", "step", "at", "began", "waited_s", *COUNTED)]
    numbers += [value for table in tables for value in table.values()]
    return all(isinstance(n, float) or (type(n) is int and abs(n) <= _MOST) for n in numbers)


def last_line(path: Path) -> str:
    """How far the training is, in a few words."""
    last = next((line for line in reversed(lines(path, last_bytes=8192)) if "train" in line), None)
    if last is None:
        return "training has not begun"
    loss = last["train"].get("loss", math.nan)
    accepted = [last["train"].get(f"full_acc_{i}") for i in range(8)]
    shown = "/".join(f"{100 * value:.0f}" for value in accepted if value is not None)
    return f"epoch {last['epoch'] + 1}, step {last['step'] + 1}, loss {loss:.3f}, full acc {shown or '—'} %"


def validations(path: Path) -> list[dict[str, Any]]:
    """Validation metrics, an entry an epoch: loss, `full_acc`, `cond_acc` by position (shares)."""
    return [
        {
            "epoch": line["epoch"],
            "step": line["step"],
            "loss": line["val"].get("loss_epoch"),
            "full_acc": _row(line["val"], "full_acc_{}_epoch"),
            "cond_acc": _row(line["val"], "cond_acc_{}_epoch"),
            "position_acc": _row(line["val"], "position_{}_acc_epoch"),
        }
        for line in lines(path)
        if "val" in line
    ]


def _row(values: dict[str, float], name: str) -> list[float]:
    return [values[name.format(i)] for i in range(64) if name.format(i) in values]


def report(path: Path, *, times: dict[str, float], extraction: Progress, mode: str) -> dict[str, Any]:
    """What a training took and reached, in seconds, samples and shares.

    `fetch_frac` is the share of the time between the first and the last logged step in which the trainer
    waited for data; `times` has the wait before the first step. Of a resumed training, each of its trainers
    counts from its own first step to its last.
    """
    told = lines(path)
    steps = [line for line in told if "train" in line]
    last = steps[-1] if steps else {}
    # Not every step is logged; a validation counts those before it.
    ends = {line.get("began", 0.0): line for line in told}
    trainers: dict[float, list[dict[str, Any]]] = defaultdict(list)
    for line in steps:
        trainers[line.get("began", 0.0)].append(line)
    spans = [(run[0], run[-1]) for run in trainers.values()]
    seconds = sum(end["at"] - start["at"] for start, end in spans)
    waited = sum(end["waited_s"] - start["waited_s"] for start, end in spans)
    done = validations(path)
    best = min(done, key=lambda v: v["loss"]) if done else None
    extracted = times.get("extraction_s") if extraction.written else None
    return {
        "mode": mode,
        "times": {name: round(value, 1) for name, value in times.items()},
        "steps": max((line["step"] + ("train" in line) for line in told), default=0),
        "epochs": last.get("epoch", -1) + 1,
        "step_seconds": round(seconds, 1),
        "fetch_frac": round(waited / seconds, 4) if seconds > 0 else None,
        "trainers": len(spans),
        **{name: sum(end.get(name, 0) for end in ends.values()) for name in COUNTED},
        "extraction": {
            **dataclasses.asdict(extraction),
            "samples_per_s": round(extraction.written / extracted, 1) if extracted else None,
            "tokens_per_s": round(extraction.tokens / extracted) if extracted else None,
        },
        "train_loss": last.get("train", {}).get("loss"),
        "validation": best,
        "validations": done,
    }


def curves(path: Path, picture: Path, *, title: str) -> None:
    """Draw loss and acceptance by step into a PNG; write nothing if nothing was logged."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    trained = [line for line in lines(path) if "train" in line]
    if not trained:
        return
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    steps = [line["step"] for line in trained]
    axes[0].plot(steps, [line["train"].get("loss", math.nan) for line in trained], label="training")
    done = validations(path)
    axes[0].plot([v["step"] for v in done], [v["loss"] for v in done], "o-", label="validation")
    axes[0].set(xlabel="step", ylabel="loss", yscale="log")
    axes[0].legend()
    for axis, name in ((axes[1], "full_acc"), (axes[2], "cond_acc")):
        for i in range(8):
            if f"{name}_{i}" in trained[-1]["train"]:
                values = [line["train"].get(f"{name}_{i}", math.nan) for line in trained]
                (drawn,) = axis.plot(steps, values, alpha=0.6, label=f"position {i}")
                points = [(v["step"], v[name][i]) for v in done if len(v[name]) > i]
                axis.plot(*zip(*points, strict=True), "o", color=drawn.get_color()) if points else None
        axis.set(xlabel="step", ylabel=name, ylim=(0, 1))
        if axis.lines:  # other algorithms count otherwise
            axis.legend()
    figure.suptitle(f"{title}: lines training, dots validation")
    figure.savefig(picture, dpi=100)
    plt.close(figure)
