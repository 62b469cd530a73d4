"""What a vLLM offers is read from its sources; of several versions as they say it, shortened."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness.engine.facts import engine_facts
from harness.engine.offers import EXACT, Offers, lossy_verification, offers_of
from tests.perf.engines import BEGIN, DATA, END, PAGE, row_of, table

SOURCES = {
    "config/speculative.py": """
MTPModelTypes = Literal["qwen3_5_mtp", "mtp"]
SpeculativeMethod = Literal["ngram", "eagle3", MTPModelTypes]
RejectionSampleMethod = Literal["standard", "synthetic", "block", "fly"]
class SpeculativeConfig:
    method: SpeculativeMethod | None = None
    num_speculative_tokens_per_batch_size: list[tuple[int, int, int]] | None = None
    how = "not_a_method"
""",
    "config/observability.py": "per_request_spec_decode_metrics: str",
    "engine/arg_utils.py": 'class EngineArgs:\n    max_model_len: int\n\nadd("--port")\n',
}


def package(folder: Path, sources: dict[str, str]) -> Path:
    for name, text in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_methods_fields_and_arguments_are_those_of_the_source(tmp_path: Path) -> None:
    offers = offers_of(package(tmp_path, SOURCES))

    assert offers.per_request
    assert offers.methods == {"ngram", "eagle3", "qwen3_5_mtp", "mtp"}
    assert offers.verification - EXACT == {"fly", "synthetic"}
    assert offers.dynamic_k == {"num_speculative_tokens_per_batch_size"}
    assert offers.drafter_fields == {"method", "num_speculative_tokens_per_batch_size"}
    assert offers.arguments == {"max_model_len", "port"}


@pytest.mark.parametrize("source", ["", "class (", "\0"])
def test_of_sources_that_lie_elsewhere_nothing_is_claimed(tmp_path: Path, source: str) -> None:
    offers = offers_of(package(tmp_path, dict.fromkeys(SOURCES, source)))

    assert offers == Offers()


def test_what_the_engine_resolved_counts_before_what_it_was_given() -> None:
    asked, resolved = {"rejection_sample_method": "standard"}, {"rejection_sample_method": "fly"}

    assert lossy_verification(resolved, asked) == "fly"
    assert lossy_verification(asked, resolved) is None
    assert lossy_verification("unverified", resolved) == "fly"
    assert lossy_verification(None, {}) is None


def test_the_table_of_engines_is_made_of_what_was_read() -> None:
    rows = json.loads(DATA.read_text(encoding="utf-8"))

    assert f"{BEGIN}{table(rows)}{END}" in PAGE.read_text(encoding="utf-8")


def test_the_pinned_engine_offers_what_the_table_says() -> None:
    facts = engine_facts(sys.executable)
    row = json.loads(DATA.read_text(encoding="utf-8"))[facts.version.partition("+")[0]]

    assert {name: row[name] for name in row if name != "ran"} == row_of(facts)
