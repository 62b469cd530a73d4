"""Runs on disk for tests of `draftgate compare`: small, made by hand, the same every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.judge import baselines
from harness.results.records import CellRecord, Finding, PromptRecord, RunRecord, dump_cell
from harness.suites.load import Level
from tests.factories.records import cell_name, cell_record, prompt_record

PROMPTS = 24
HARD = Finding(code="loops", hard=True, text="nothing but loops")


def histogram(i: int, k: int, *, worse: int = 0) -> tuple[int, ...]:
    """Steps of prompt i: most accept everything; `worse` of them, a prompt, accept nothing instead."""
    if not k:
        return (0,)
    most = 8 + i % 5
    return (3 + i % 3 + worse, *[1 + i % 2] * (k - 1), most - worse)


def answer(i: int, *, k: int = 4, worse: int = 0, seconds: float = 2.0, **changes: Any) -> PromptRecord:
    """One prompt whose tokens and steps reconcile."""
    steps = histogram(i, k, worse=worse)
    undrafted = 1 if k else 30
    values: dict[str, Any] = {
        "accepted": None,
        "drafted": None,
        "histogram": steps,
        "draft_tokens": k * sum(steps),
        "undrafted": undrafted,
        "output_tokens": 1 + undrafted + sum((j + 1) * n for j, n in enumerate(steps) if k),
        "prompt_hash": f"p{i:03d}",
        "text_hash": f"t{i:03d}",
        "began_s": i * seconds,
        "total_s": seconds,
    }
    return prompt_record(f"instruct-{i:03d}", **(values | changes))


def cell(
    language: str = "en",
    drafter: str = "ngram",
    k: int = 4,
    *,
    endpoint: str = "chat",
    prompts: tuple[PromptRecord, ...] | None = None,
    worse: int = 0,
    seconds: float = 2.0,
    temperature: float = 0.0,
    identity: dict[str, Any] | None = None,
    **changes: Any,
) -> CellRecord:
    """A cell of 24 prompts; with `worse`, every third of them lost that many deep steps."""
    name = cell_name(endpoint=endpoint, language=language, drafter=drafter, k=k)
    if prompts is None:
        prompts = tuple(
            answer(i, k=k, worse=worse if i % 3 else 0, seconds=seconds, language=language)
            for i in range(PROMPTS)
        )
    values: dict[str, Any] = {
        "cell": name,
        "identity": {
            "endpoint": endpoint,
            "language": language,
            "workload": "instruct",
            "target": "tiny",
            "dtype": "bfloat16",
            "quantization": None,
            "sampling": {"temperature": temperature},
            "max_tokens": 64,
            "concurrency": 1,
            "cache": "cold",
            **(identity or {}),
        },
        "subject": {"drafter": drafter, "k": k, "engine": "0.32.0", "settings": {}},
    }
    return cell_record(*prompts, **(values | changes))


def plain(language: str = "en", **changes: Any) -> CellRecord:
    """A cell of `none`."""
    return cell(language, "none", 0, **changes)


def write_cell(folder: Path, record: CellRecord) -> Path:
    """Write one cell file; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.cell}.json"
    path.write_text(dump_cell(record), encoding="utf-8")
    return path


def write_run(
    folder: Path,
    *cells: CellRecord,
    finished: bool = True,
    subject: tuple[str, ...] = (),
    began: str | None = None,
) -> Path:
    """Write a run folder; its path."""
    for record in cells:
        write_cell(folder / record.suite, record)
    run = RunRecord(
        run=folder.name, stack="tiny", profile="gate", options={},
        provenance={"time": began} if began else {}, environment={},
        finished=finished, subject=subject,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(run.model_dump_json(by_alias=True), encoding="utf-8")
    return folder


def level(in_flight: int, record: CellRecord, *, asked: int | None = None) -> Level:
    """A level of a load whose every request is in `record`, or of which `asked` were sent."""
    return Level(in_flight=in_flight, asked=len(record.prompts) if asked is None else asked, record=record)


def anchor(folder: Path, record: CellRecord) -> CellRecord | None:
    """The anchor of a cell among the baselines in `folder`; None where there is none."""
    path = baselines.path_of(folder, record).with_suffix(baselines.ANCHOR)
    return baselines.of_cell(path, record.cell) if path.exists() else None
