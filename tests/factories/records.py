"""Records and specifications for tests, valid as they come; each test changes what it is about."""

from __future__ import annotations

from typing import Any

from harness.config.cells import ServerSpec
from harness.config.variants import Target
from harness.results.records import CellName, CellRecord, PromptRecord


def prompt_record(prompt: str = "instruct-001", **changes: Any) -> PromptRecord:
    """20 tokens in 8 steps: first token, six verify steps (1, 1, 4, 4, 2, 5 tokens), two undrafted."""
    values: dict[str, Any] = {
        "prompt": prompt,
        "repeat": 0,
        "seed": 7,
        "language": "en",
        "source": "request",
        "accepted": (0, 0, 3, 3, 1, 4),
        "drafted": (4, 4, 4, 4, 4, 4),
        "histogram": (2, 1, 0, 2, 1),
        "draft_tokens": 24,
        "undrafted": 2,
        "prompt_tokens": 11,
        "prompt_hash": "aa00",
        "output_tokens": 20,
        "finish": "length",
        "text_hash": "bb00",
        "text": "The lighthouse keeper found a postcard under the door.",
        "server": "f00d",
        "began_s": 0.0,
        "ttft_s": 0.5,
        "total_s": 2.5,
    }
    return PromptRecord.model_validate(values | changes)


def failed_record(prompt: str = "instruct-001", *, k: int = 4) -> PromptRecord:
    """A request without an answer."""
    return prompt_record(
        prompt,
        source="none",
        accepted=None,
        drafted=None,
        histogram=(0,) * (k + 1),
        draft_tokens=None,
        undrafted=0,
        output_tokens=0,
        finish="error",
        text="",
        ttft_s=None,
        total_s=None,
    )


def cell_name(**changes: Any) -> CellName:
    values = {"endpoint": "chat", "language": "en", "workload": "instruct", "drafter": "ngram", "k": 4}
    return CellName.model_validate(values | changes)


def cell_record(*prompts: PromptRecord, **changes: Any) -> CellRecord:
    values: dict[str, Any] = {
        "stack": "smollm2-cpu",
        "profile": "quick",
        "suite": "acceptance",
        "cell": cell_name(),
        "identity": {
            "target": "smollm2-135m-instruct",
            "dtype": "bfloat16",
            "sampling": {"temperature": 0.0},
            "max_tokens": 64,
            "concurrency": 1,
            "cache": "cold",
        },
        "subject": {"drafter": "ngram", "engine": "0.32.0"},
        "environment": {"cpu": "A CPU", "threads": 2, "gpus": []},
        "provenance": {"host": "here"},
        "warmups": 2,
        "counters": {"drafts": 6},
        "prompts": prompts,
    }
    return CellRecord.model_validate(values | changes)


def server_spec(**changes: Any) -> ServerSpec:
    """A server that drafts with ngram at k = 4."""
    values: dict[str, Any] = {
        "stack": "tiny",
        "target": Target(model="org/tiny"),
        "engine_python": None,
        "port": None,
        "args": {},
        "env": {},
        "drafter": "ngram",
        "k": 4,
        "speculative": {"method": "ngram", "num_speculative_tokens": 4},
        "start_timeout_s": 5.0,
        "request_timeout_s": 5.0,
    }
    return ServerSpec(**(values | changes))
