"""What training raises for its user, beside the harness's own errors."""

from __future__ import annotations

from harness.errors import DraftgateError


class TrainingFailed(DraftgateError):  # noqa: N818 - reads as what it is
    """A stage cannot go on. What it did until then stays."""


class Stalled(TrainingFailed):
    """The server makes no progress. Start it again, and the work goes on."""

    code = "training-stalled"
