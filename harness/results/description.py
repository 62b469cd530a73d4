"""Holds the sums over many requests that a file without single requests gives. They get no verdict."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.results.records import SCHEMA, Count, Record, Seconds
from harness.text.numbers import DASH, number, share

BENCH: Literal["vllm bench serve"] = "vllm bench serve"
SCRAPES: Literal["/metrics"] = "/metrics"


class Description(Record):
    """What the requests of one run make together. None is not in the file."""

    schema_: Literal[1] = Field(alias="schema", default=SCHEMA)
    described: Literal["vllm bench serve", "/metrics"]
    """What wrote the files."""
    files: tuple[str, ...]
    why_not_paired: str
    target: str | None = None
    requests: Count | None = None
    failed: Count | None = None
    concurrency: Count | None = None
    output_tokens: Count | None = None
    seconds: Seconds | None = None
    ttft_ms: Seconds | None = None
    """Median over requests, as the tool says it; the next too."""
    tpot_ms: Seconds | None = None
    drafts: Count | None = None
    """Verify steps."""
    draft_tokens: Count | None = None
    accepted: Count | None = None
    acceptance: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = None
    """At every position, unconditional."""

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure, derived ones included."""
        tau = 1 + self.accepted / self.drafts if self.drafts and self.accepted is not None else None
        rate = self.output_tokens / self.seconds if self.output_tokens and self.seconds else None
        of_drafts = (
            self.accepted / self.draft_tokens if self.draft_tokens and self.accepted is not None else None
        )
        plain = {"target": self.target, "requests": self.requests, "of these failed": self.failed}
        plain |= {"requests in flight at most": self.concurrency, "output tokens": self.output_tokens}
        counts = {"verify steps": self.drafts, "draft tokens": self.draft_tokens, "accepted": self.accepted}
        made = {
            "tau (1 + accepted / verify steps)": number(tau),
            "accepted / draft tokens %": share(of_drafts),
        }
        made["acceptance at positions %"] = " / ".join(map(share, self.acceptance or ())) or DASH
        timed = {"seconds": self.seconds, "tok/s (output tokens / seconds)": rate}
        timed |= {"TTFT, median, ms": self.ttft_ms, "TPOT, median, ms": self.tpot_ms}
        whole = {name: DASH if value is None else str(value) for name, value in (plain | counts).items()}
        return [*whole.items(), *made.items(), *((name, number(value)) for name, value in timed.items())]
