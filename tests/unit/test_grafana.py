"""docs/grafana.json: Grafana's own model reads it, and each metric in it is the engine's or ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from harness.cli import main
from harness.engine import metrics
from tests.factories.runs import cell, plain, write_run

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "tests/data/engine_metrics"
DASHBOARD = json.loads((ROOT / "docs/grafana.json").read_text(encoding="utf-8"))


def queries() -> list[str]:
    """Of all panels, and of the variables."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return found + [one["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]


def labels_of(text: str) -> dict[str, set[str]]:
    """The labels of each sample of a page, by the sample's name."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_grafana_keeps_every_field() -> None:
    """The model drops what it does not know."""
    plugins.register_default_plugins()
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD))) == superset_of(DASHBOARD)


class superset_of:  # noqa: N801 - reads as a word
    """Equal to a value that holds all of this one, at any depth."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return not list(missing(self.value, other, ""))

    def __repr__(self) -> str:
        return repr(self.value)

    __hash__ = None  # type: ignore[assignment]


def missing(value: Any, other: Any, at: str) -> Iterator[str]:
    if isinstance(value, dict) and isinstance(other, dict):
        for name, part in value.items():
            yield from missing(part, other.get(name), f"{at}.{name}")
    elif isinstance(value, list) and isinstance(other, list) and len(value) == len(other):
        for i, (one, two) in enumerate(zip(value, other, strict=True)):
            yield from missing(one, two, f"{at}.{i}")
    elif value != other:
        yield at


def test_panels_have_a_place_of_their_own() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    taken = [
        (x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_each_metric_and_label_is_the_engines_or_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base, new = (str(write_run(Path(n), plain(), cell(worse=w))) for n, w in (("base", 0), ("new", 3)))
    main(["compare", base, new, "--output", "draftgate.prom"])
    pages = (
        (PAGES / "after.prom").read_text(encoding="utf-8"),
        Path("draftgate.prom").read_text(encoding="utf-8"),
    )
    known = labels_of(pages[0]) | labels_of(pages[1])
    shown = set()
    for query in queries():
        names = re.findall(r"(?:vllm:|draftgate_)\w+", query)
        assert names
        shown |= set(names)
        labels = {*re.findall(r"(\w+)=~", query), *re.findall(r"label_values\(.*, (\w+)\)", query)}
        for grouped in re.findall(r"(?:by|on) \(([^)]*)\)", query):
            labels |= set(grouped.split(", "))
        assert set(names) <= known.keys()
        assert all(labels <= {*known[name], "position"} for name in names)
    assert {name for name in known if name.startswith("draftgate_")} <= shown


def test_the_engine_s_page_has_what_we_read_of_it() -> None:
    before, after = (
        metrics.parse((PAGES / f"{n}.prom").read_text(encoding="utf-8")) for n in ("before", "after")
    )
    moved = after - before
    assert moved.present
    assert moved.finished == 12
    assert moved.draft_tokens == 4 * moved.drafts
    assert sum(moved.per_position) == moved.accepted
    assert sum(moved.histogram) == moved.drafts
