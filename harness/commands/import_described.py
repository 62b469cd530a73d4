"""Reads sums over all requests: the JSON of `vllm bench serve`, or two scrapes of /metrics.

Nothing of it can be paired, so it makes no cell and gets no verdict: it is shown as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from harness.commands.import_parts import BadImport, Foreign, parsed
from harness.engine.metrics import parse
from harness.errors import ServerFailed
from harness.results.description import BENCH, SCRAPES, Description
from harness.results.files import read_json, read_text
from harness.results.records import Count, Seconds
from harness.stats.acceptance import Tally

_WHY = {
    BENCH: "it has the sums of all requests, and no acceptance of a request",
    SCRAPES: "the counters are of the whole server, whoever asked it",
}


class _Bench(Foreign):
    """What a result says, by the names of a description's fields."""

    model_id: str
    completed: Count
    failed: Count | None = None
    concurrency: Count | None = Field(default=None, alias="max_concurrency")
    output_tokens: Count = Field(alias="total_output_tokens")
    seconds: Seconds = Field(alias="duration")
    ttft_ms: Seconds | None = Field(default=None, alias="median_ttft_ms")
    tpot_ms: Seconds | None = Field(default=None, alias="median_tpot_ms")
    drafts: Count | None = Field(default=None, alias="spec_decode_num_drafts")
    draft_tokens: Count | None = Field(default=None, alias="spec_decode_draft_tokens")
    accepted: Count | None = Field(default=None, alias="spec_decode_accepted_tokens")
    acceptance: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        default=None, alias="spec_decode_per_position_acceptance_rates"
    )


def of_bench(path: Path) -> Description:
    """What a result of `vllm bench serve` says.

    Raises:
        BadRecord: it cannot be read, or a field of it is missing.
    """
    data: Any = read_json(path)
    b: _Bench = parsed(_Bench, data, where=str(path))
    return Description(
        described=BENCH,
        files=(path.name,),
        why_not_paired=_WHY[BENCH],
        target=b.model_id.rstrip("/").rpartition("/")[2] if b.model_id.startswith("/") else b.model_id,
        requests=b.completed + (b.failed or 0),
        **b.model_dump(exclude={"model_id", "completed"}),
    )


def of_scrapes(before: Path, after: Path) -> Description:
    """What a server counted between two scrapes of /metrics.

    Raises:
        BadInput: a file is not such a page, or the second is not a later one of the same server.
    """
    pages = []
    for path in (before, after):
        try:
            pages.append(parse(read_text(path)))
        except ServerFailed as error:
            raise BadImport(f"{path}: {error}") from None
    try:
        moved = pages[1] - pages[0]
    except ServerFailed as error:
        raise BadImport(f"{before} and {after}: {error}: give the earlier scrape first") from None
    tally = Tally(
        at_least=(moved.drafts, *moved.per_position), undrafted=0, committed=0, output_tokens=0, drafted=None
    )
    rates = [rate for rate in tally.acceptance if rate is not None]
    counted = moved.present
    return Description(
        described=SCRAPES,
        files=(before.name, after.name),
        why_not_paired=_WHY[SCRAPES],
        requests=moved.finished,
        output_tokens=moved.generated,
        drafts=moved.drafts if counted else None,
        draft_tokens=moved.draft_tokens if counted else None,
        accepted=moved.accepted if counted else None,
        acceptance=tuple(rates) or None,
    )
