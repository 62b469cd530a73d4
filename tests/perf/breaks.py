"""Does the parity suite fail where serving really breaks? A drafter as it is, and with one thing wrong in it.

    python -m tests.perf.breaks fixtures/drafters/NAME [--break norm-output draft-map ...] [--prompts 60]

Each copy is served and held against the drafter's own validation by `pytest bench_suites/test_parity.py`;
its sentence and exit code are printed. 0 is right for the drafter as it is, 1 for every break that surely
leaves it more than 3 % short of what its validation foretells.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tabulate import tabulate

from harness.errors import BadInput
from harness.results.files import write_atomically
from tests import perf
from tests.perf.noised import stack_with

_SAID = re.compile(r"^(kept|better|broken|inconclusive|invalid): .*", re.MULTILINE)


def _config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    write_atomically(path, json.dumps(config, indent=1, sort_keys=True) + "\n")


def norm_output(folder: Path) -> None:
    """What a guess leaves for the next is not normalised any more."""

    def flip(config: dict[str, Any]) -> None:
        for place in (config, config["transformer_layer_config"]):
            place["norm_output"] = not place["norm_output"]

    _config(folder, flip)


def norm_before_fc(folder: Path) -> None:
    """The target's hidden states are not normalised before the drafter takes them in."""
    _config(folder, lambda config: config.update(norm_before_fc=False))


def layer_id(folder: Path) -> None:
    """The second of the target's hidden states comes from the layer before the one it was trained on."""

    def shift(config: dict[str, Any]) -> None:
        config["eagle_aux_hidden_state_layer_ids"][1] -= 1

    _config(folder, shift)


def other_layers(folder: Path) -> None:
    """The target's hidden states come from the layers that belong to a target half as deep."""

    def halve(config: dict[str, Any]) -> None:
        ids = config["eagle_aux_hidden_state_layer_ids"]
        config["eagle_aux_hidden_state_layer_ids"] = [ids[0], *(layer // 2 for layer in ids[1:])]

    _config(folder, halve)


def draft_map(folder: Path) -> None:
    """Each draft token stands for the one after it in the target's vocabulary."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415 - seconds

    weights = load_file(folder / "model.safetensors")
    weights["d2t"] = weights["d2t"] + 1
    weights["t2d"] = weights["t2d"].roll(1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


BREAKS: dict[str, Callable[[Path], None]] = {
    "norm-output": norm_output,
    "norm-before-fc": norm_before_fc,
    "layer-id": layer_id,
    "other-layers": other_layers,
    "draft-map": draft_map,
}


def main() -> int:
    """The command line."""
    parser = perf.options("breaks", __doc__)
    parser.add_argument("folder", type=Path, help="the drafter's")
    parser.add_argument("--break", dest="breaks", nargs="+", choices=list(BREAKS), default=list(BREAKS))
    parser.add_argument("--k", type=perf.positive, default=4)
    parser.add_argument("--prompts", type=perf.positive, default=60, help="held-out ones (%(default)s)")
    options = parser.parse_args()

    def job() -> dict[str, Any]:
        from harness.config.stack import find_stack  # noqa: PLC0415

        folder = perf.new_folder(options.results, "breaks")
        text = find_stack(options.stack, perf.DATA / "stacks").read_text(encoding="utf-8")
        rows = []
        for name in ["as it is", *options.breaks]:
            drafter = folder / name.replace(" ", "-")
            try:
                shutil.copytree(options.folder, drafter)
                if name in BREAKS:
                    BREAKS[name](drafter)
            except (OSError, KeyError, ValueError) as error:
                raise BadInput(
                    f"{options.folder}: no EAGLE-3 drafter that could be broken: {error}"
                ) from None
            stack = drafter.with_suffix(".toml")
            stack_with(stack, text, drafter, options.k)
            words = ["bench_suites/test_parity.py", "--stack", str(stack), "-m", f"head and k{options.k}"]
            words += ["--prompts", str(options.prompts), "--results", str(folder / "results")]
            perf.say(f"serving: {name}")
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words],
                cwd=perf.ROOT, capture_output=True, text=True, check=False,
            )  # fmt: skip
            said = _SAID.search(done.stdout)
            if said is None:
                raise BadInput(f"serving {drafter} ended with {done.returncode}: {done.stdout[-800:]}")
            rows.append([name, done.returncode, said[0]])
        print(tabulate(rows, headers=["drafter", "exit code", "parity"], tablefmt="github"))
        return {"folder": str(folder), "rows": rows}

    return perf.carry_out(job)


if __name__ == "__main__":
    sys.exit(main())
