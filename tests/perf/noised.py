"""Is a drafter that got a little worse found? Noise on its weights, then both through the gate's own path.

    python -m tests.perf.noised fixtures/drafters/NAME [--noise 0.15] [--cell "chat and en"]

Writes a copy of the drafter with Gaussian noise on the weight matrices of its layer (the standard deviation
of each matrix times --noise, seeded), measures both with `pytest bench_suites` under one cell name, and hands
the two runs to `draftgate compare`. Tables and exit codes are printed: 1 is what a loss of 3 % or more
must give with 120 prompts at T=0. --only-copy measures nothing.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.results.files import write_atomically
from tests import perf

_LAYER = re.compile(r"(?:^|\.)(?:midlayer|layers\.\d+)\..*weight$")
"""Names of a drafter's layer: EAGLE-3 has one, whatever it is called."""


def noised(source: Path, to: Path, *, noise: float, seed: int) -> list[str]:
    """Copy the drafter at `source`; the names of the matrices that were changed.

    Args:
        source: config.json and model.safetensors.
        to: the new folder.
        noise: standard deviations of each matrix.
        seed: of the noise.

    Raises:
        BadInput: no drafter is there, or it has no such matrix.
    """
    import torch  # noqa: PLC0415 - seconds
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    try:
        shutil.copytree(source, to)
        weights = load_file(to / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{source}: no drafter to put noise on: {error}") from None
    chance = torch.Generator().manual_seed(seed)
    changed = [name for name, w in sorted(weights.items()) if w.ndim == 2 and _LAYER.search(name)]
    if not changed:
        raise BadInput(f"{source}: no matrix of a layer among {', '.join(sorted(weights)[:8])}")
    for name in changed:
        weight = weights[name].float()
        drawn = torch.randn(weight.shape, generator=chance)
        weights[name] = (weight + noise * weight.std() * drawn).to(weights[name].dtype).contiguous()
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return changed


def stack_with(path: Path, text: str, model: Path, k: int) -> None:
    """The stack of `text` with one more drafter, `head`: the same name for both, so that cells pair."""
    table = f'\n[drafters.head]\nmethod = "eagle3"\nmodel = {json.dumps(str(model))}\nk = [{k}]\n'
    head, mark, rest = text.partition("\n[profiles.")
    write_atomically(path, head + "\n" + table + mark + rest)


def measure(stack: Path, results: Path, cell: str, words: list[str]) -> Path:
    """The folder of a run.

    Raises:
        BadInput: it did not end well.
    """
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "bench_suites/test_acceptance.py"]
    command += ["--stack", str(stack), "--profile", "gate", "--gate", "off", "--results", str(results)]
    command += ["-m", f"{cell} and head", *words]
    done = subprocess.run(command, cwd=perf.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadInput(f"measuring with {stack} ended with {done.returncode}: {done.stdout[-800:]}")
    (run,) = (path for path in results.iterdir() if (path / "run.json").is_file())
    return run


def main() -> int:
    """The command line."""
    parser = perf.options("noised", __doc__)
    parser.add_argument("folder", type=Path, help="the drafter's")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.15], help="in standard deviations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--k", type=perf.positive, default=4)
    parser.add_argument("--cell", default="chat and en", help="as -m of pytest (%(default)s)")
    parser.add_argument("--prompts", type=perf.positive, default=120)
    parser.add_argument("--only-copy", action="store_true", help="measure nothing")
    options = parser.parse_args()

    def job() -> dict[str, Any]:
        from harness.config.stack import find_stack  # noqa: PLC0415

        folder = perf.new_folder(options.results, "noised")
        text = find_stack(options.stack, perf.DATA / "stacks").read_text(encoding="utf-8")
        sides = [("base", options.folder.resolve())]
        for noise in options.noise:
            name = f"noise-{noise:g}"
            changed = noised(options.folder, folder / name, noise=noise, seed=options.seed)
            perf.say(f"{name}: {len(changed)} matrices: {', '.join(changed)}")
            sides.append((name, folder / name))
        rows: list[dict[str, Any]] = []
        if options.only_copy:
            return {"folder": str(folder), "rows": rows}
        runs = []
        for name, model in sides:
            stack = folder / f"{name}.toml"
            stack_with(stack, text, model, options.k)
            perf.say(f"measuring {name}")
            runs.append(
                measure(stack, folder / f"run-{name}", options.cell, ["--prompts", str(options.prompts)])
            )
        for (name, _), run in zip(sides[1:], runs[1:], strict=True):
            words = [sys.executable, "-m", "harness.cli", "compare", str(runs[0]), str(run)]
            done = subprocess.run(words, cwd=perf.ROOT, capture_output=True, text=True, check=False)
            print(f"{name}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
            rows.append({"noise": name, "exit_code": done.returncode})
        return {"folder": str(folder), "rows": rows}

    return perf.carry_out(job)


if __name__ == "__main__":
    sys.exit(main())
