"""The values that a parameter of a search may have."""

from __future__ import annotations

import json
import math
import random
from typing import Any

from pydantic import Field, model_validator

from harness.config.toml import Table

_ROUNDING = 1e-9


class Parameter(Table):
    """The values that a key of the stack may have: numbers from `low` to `high`, or `choices`."""

    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = Field(default=None, gt=0)
    """Between two values; of whole numbers 1 when not given."""
    choices: tuple[Any, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Parameter:
        if self.choices:
            if (self.low, self.high, self.step) != (None, None, None):
                raise ValueError("it has choices, and so neither low nor high nor step")
            if len({json.dumps(value, default=str) for value in self.choices}) < len(self.choices):
                raise ValueError("a choice stands there twice")
        elif self.low is None or self.high is None:
            raise ValueError("it needs low and high, or choices = [...]")
        elif self.low > self.high:
            raise ValueError(f"low is {self.low:g}, which is more than high, {self.high:g}")
        return self

    @property
    def whole(self) -> bool:
        """Its values are whole numbers."""
        return not any(isinstance(value, float) for value in (self.low, self.high, self.step))

    @property
    def size(self) -> float:
        """How many values it has; infinite where any number between two ends is one."""
        if self.low is None or self.high is None:
            return len(self.choices)
        if not self.whole and self.step is None:
            return math.inf if self.low < self.high else 1
        return math.floor((self.high - self.low) / (self.step or 1) + _ROUNDING) + 1

    @property
    def top(self) -> int | float:
        """The highest value that steps from `low` reach."""
        assert self.low is not None and self.high is not None  # noqa: S101, PT018 - it has no choices
        step = self.step or (1 if self.whole else None)
        return self.high if step is None else self.low + (int(self.size) - 1) * step

    def has(self, value: Any) -> bool:
        """Whether a value is one of them."""
        if self.low is None or self.high is None:
            return any(json.dumps(choice) == json.dumps(value) for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return self.low <= value <= self.high and abs(steps - round(steps)) < _ROUNDING

    def drawn(self, chance: random.Random) -> Any:
        """One of them, each as likely."""
        if self.low is None or self.high is None:
            return chance.choice(self.choices)
        if math.isinf(self.size):
            return chance.uniform(self.low, self.high)
        return self.low + chance.randrange(int(self.size)) * (self.step or 1)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Its choices, or its lowest and highest value."""
        return self.choices or (self.low, self.high)
