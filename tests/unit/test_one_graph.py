"""Counted without waiting, counted the same."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("speculators")

from speculators.models.metrics import compute_accuracy_single_step  # noqa: E402

from training import one_graph  # noqa: E402


@pytest.mark.parametrize("kind", [torch.bool, torch.int64])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_the_figures_are_those_of_speculators(
    kind: Any,
    masked: bool,  # noqa: FBT001
    after: bool,  # noqa: FBT001
) -> None:
    torch.manual_seed(0)
    pred, target = torch.randint(0, 3, (2, 1, 200))
    mask = torch.randint(0, 2, (1, 200)).to(kind) if masked else None
    before = torch.randint(0, 2, (1, 200)).to(kind) if after else None
    ours, theirs = (None if before is None else before.clone() for _ in range(2))

    counted = one_graph.accuracy(pred, target, mask, ours)
    expected = compute_accuracy_single_step(pred, target, mask, theirs)

    assert [float(n) for n in counted] == [float(n) for n in expected]
    assert 0 < counted[0] < counted[1]
    if ours is not None:
        assert torch.equal(ours, theirs)
