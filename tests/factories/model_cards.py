"""What an exported drafter tells of itself, and of a cell that was measured with it."""

from __future__ import annotations

from typing import Any

SERVED: dict[str, Any] = {
    "prompts_of": "benchmark, instruct",
    "endpoint": "chat",
    "language": "en",
    "k": 4,
    "prompts": 120,
    "temperature": 0.0,
    "max_tokens": 96,
    "engine": "0.32.0",
    "device": "A CPU",
    "valid": True,
    "tokens_per_step": 1.6421,
    "tokens_per_step_ci": [1.58, 1.7],
    "acceptance": [0.391, 0.161, 0.052, 0.011],
    "acceptance_ci": [[0.36, 0.42], [0.14, 0.18], [0.04, 0.06], None],
    "traps": ["3 of 120 answers end in a loop"],
    "reference": {"run": "20261129-run/acceptance", "cell": "chat-en-instruct-eagle3r2-k4"},
}
RECORDS: dict[str, Any] = {
    "schema": 1,
    "drafter": "eagle3r2",
    "about": "EAGLE-3, one layer",
    "target": "org/tiny",
    "recipe": {
        "name": "tiny-en-zh",
        "train": {"algorithm": "eagle3", "num_layers": 1, "ttt_steps": 4, "epochs": 4},
        "dataset": {"draft_vocab_size": 8192},
        "responses": {"max_tokens": 400},
    },
    "data": {
        "sources": [
            {
                "source": "template:en",
                "language": "en",
                "prompts": 18000,
                "answers": 17000,
                "tokens": 3000000,
            },
            {"source": "template:zh", "language": "zh", "prompts": 8000, "answers": 410, "tokens": 61000},
        ],
        "temperatures": {"0.0": 12000, "0.7": 5410},
        "dropped": {"degenerate": 1200, "short": 0, "other_language": 7100},
        "train_rows": 16540,
        "validation_rows": 870,
        "coverage": 0.981,
    },
    "training": {
        "mode": "ahead",
        "steps": 1630,
        "epochs": 4,
        "times": {"total_s": 190.0},
        "step_seconds": 101.5,
        "fetch_frac": 0.034,
        "empty_samples": 2,
        "extraction": {"tokens_per_s": 98000},
        "validation": {"epoch": 3},
        "validations": [{"epoch": 3, "loss": 1.2345, "full_acc": [0.571, 0.334]}],
    },
    "validation": {
        "all": {"vocab_share": 0.061},
        "en": {
            "prompts": 60,
            "k": 4,
            "trainer": [0.58, 0.34, 0.21, 0.13],
            "walk": [0.53, 0.3, 0.18, 0.1],
            "tokens_per_step": 2.111,
        },
    },
    "served": [SERVED],
    "device": "A GPU",
    "versions": {"speculators": "0.9.0"},
    "files": {"model.safetensors": {"bytes": 20123456, "sha256": "ab" * 32}},
}
