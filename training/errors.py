"""What training raises for its user, beside the harness's own errors."""

from __future__ import annotations

from harness.errors import BadInput, DraftgateError


class BadRecipe(BadInput):
    """A recipe, or an option beside it, says what cannot be."""

    code = "training-option"


class BadDrafter(BadInput):
    """A drafter, or a file that it was made from, is damaged."""

    code = "damaged-drafter"


class TrainingFailed(DraftgateError):  # noqa: N818 - reads as what it is
    """A stage cannot go on. What it did until then stays."""


class TrainingStopped(TrainingFailed):
    """The trainer, or another program, ended badly."""

    code = "training-stopped"


class BadData(TrainingFailed):
    """There are too few rows."""

    code = "training-data"


class Stalled(TrainingFailed):
    """The server makes no progress. Start it again, and the work goes on."""

    code = "training-stalled"
