"""What one training step costs, by attention, loss and compilation: the same packed batch for each.

    python -m tests.perf.steps fixtures/drafters/eagle3r1 [--tokens 4096] [--document 300] [--steps 30]

The drafter's own shape and draft vocabulary, made-up hidden states, forward, backward and AdamW as in
speculators' trainer. Each kind runs in a process of its own; one that fails is shown with its error.
`first s` holds what is compiled. --profile adds the operations that took longest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

KINDS = {
    "sdpa, eager loss": ("sdpa", "eager", ""),
    "sdpa, eager loss, compiled": ("sdpa", "eager", "compiled"),
    "sdpa, eager loss, compiled as one graph": ("sdpa", "eager", "compiled one graph"),
    "flex, eager loss, compiled": ("simple_flex_attention", "eager", "compiled"),
    "sdpa, fused loss": ("sdpa", "fused", ""),
    "flex, fused loss, compiled": ("simple_flex_attention", "fused", "compiled"),
}
"""Attention, loss, how; the last one is speculators' default, `one graph` is `compile_as_one_graph`."""


def model(drafter: Path, attention: str, device: str) -> Any:
    """The drafter's model with new weights, and its vocabulary."""
    import torch  # noqa: PLC0415 - the kinds run in processes of their own
    from safetensors.torch import load_file  # noqa: PLC0415
    from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig  # noqa: PLC0415

    from harness.engine.models import resolve  # noqa: PLC0415

    config = Eagle3SpeculatorConfig.from_pretrained(drafter)
    config.transformer_layer_config._attn_implementation = attention
    config.speculators_config.verifier.name_or_path = str(
        resolve("embedded:smollm2-135m-instruct", say=lambda _: None)
    )
    torch.manual_seed(0)
    made = Eagle3DraftModel(config)
    weights = load_file(drafter / "model.safetensors")
    made.load_vocab_mappings(weights["t2d"], weights["d2t"])
    made.load_verifier_weights()
    return made.to(device).train()


def batch(made: Any, tokens: int, document: int, device: str) -> dict[str, Any]:
    """Documents of one length, packed as the trainer's loader packs them."""
    import torch  # noqa: PLC0415

    config, width = made.config, made.hidden_size
    layers = len(config.eagle_aux_hidden_state_layer_ids)
    place = torch.arange(tokens, device=device)
    shape = {"device": device, "dtype": torch.bfloat16}
    return {
        "hidden_states": torch.randn(1, tokens, layers * width, **shape),
        "verifier_last_hidden_states": torch.randn(1, tokens, width, **shape),
        "input_ids": torch.randint(0, 40_000, (1, tokens), device=device),
        "document_ids": (place // document)[None],
        "position_ids": (1 + place % document)[None],
        "loss_mask": (place % document > document // 4)[None],
    }


def one(options: argparse.Namespace) -> dict[str, Any]:
    """Time one kind: seconds of the first step, milliseconds of the later ones."""
    import torch  # noqa: PLC0415
    from speculators.losses import resolve_loss_config  # noqa: PLC0415

    attention, loss_kind, how = KINDS[options.kind]
    if "one graph" in how:
        from training.trainer import speculators_patches  # noqa: PLC0415

        speculators_patches.compile_as_one_graph(replayed=False)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made = model(options.drafter, attention, device)
    data = batch(made, options.tokens, options.document, device)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-4)
    losses = resolve_loss_config("kl_div", loss_kind)

    def wait() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step() -> Any:
        with torch.autocast(device, dtype=torch.bfloat16):
            _, loss, _ = made(**data, ttt_steps=options.ttt, loss_config=losses)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
        return loss

    began = wait()
    first_loss = float(step().detach())
    first = wait() - began
    for _ in range(3):
        step()
    began = wait()
    for _ in range(options.steps):
        last = step()
    each = (wait() - began) / options.steps
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    if options.profile:
        with torch.profiler.profile() as seen:
            step()
            wait()
        key = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
        print(seen.key_averages().table(sort_by=key, row_limit=15, max_name_column_width=60), file=sys.stderr)
    return {"first_s": first, "step_ms": 1000 * each, "loss": [first_loss, float(last.detach())], "gib": peak}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("drafter", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--document", type=int, default=300)
    parser.add_argument("--ttt", type=int, default=4)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args(argv)
    if options.kind:
        print(json.dumps(one(options)))
        return 0
    rows = []
    for kind, (_, _, how) in KINDS.items():
        environment = {**os.environ, **({} if "compiled" in how else {"TORCH_COMPILE_DISABLE": "1"})}
        words = [sys.executable, "-m", "tests.perf.steps", *(argv or sys.argv[1:]), "--kind", kind]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if options.profile:
            print(f"{kind}\n{done.stderr[-6000:]}")
        if done.returncode:
            rows.append([kind, done.stderr.strip().splitlines()[-1][:100]])
            continue
        told = json.loads(done.stdout.splitlines()[-1])
        rows.append([kind, told["first_s"], told["step_ms"], told["gib"], *told["loss"]])
        print(tabulate(rows[-1:], floatfmt=".2f", tablefmt="plain"), flush=True)
    head = ["", "first s", "step ms", "peak GiB", "first loss", "last loss"]
    print(tabulate(rows, headers=head, floatfmt=".2f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
