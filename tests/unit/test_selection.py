"""Which worker gets which server next."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from harness.selection import by_server, group_of
from harness.suites import curve, prefix, throughput
from harness.suites.runner import Suite
from tests.factories.benches import bench, cell_of


@pytest.mark.parametrize(
    ("suite", "whole"), [(curve.SUITE, True), (prefix.SUITE, True), (throughput.SUITE, False)]
)
def test_one_process_measures_what_is_compared_with_one_none(
    tmp_path: Path, suite: Suite, *, whole: bool
) -> None:
    cell = cell_of(bench(tmp_path))

    assert group_of(suite, cell) == (suite.name if whole else cell.spec.key)


def test_the_longest_server_is_handed_out_first_whatever_its_number_of_cells() -> None:
    config = SimpleNamespace(getvalue=lambda _: ["popen"], option=SimpleNamespace(loadscopereorder=True))
    cases = {"a1": "short", "a2": "short", "b": "long", "c": "unknown"}
    sent: list[str] = []
    log: Any = SimpleNamespace(loadscopesched=lambda *_: None)
    scheduler = by_server(cases, {"short": 5.0, "long": 50.0, "unknown": float("inf")}, config, log)  # type: ignore[arg-type]
    node: Any = Mock(shutting_down=False)
    node.send_runtest_some = lambda indexes: sent.extend(list(cases)[i] for i in indexes)
    scheduler.add_node(node)
    scheduler.add_node_collection(node, list(cases))
    scheduler.schedule()

    assert sent[:2] == ["c", "b"]
