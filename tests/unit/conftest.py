from __future__ import annotations

from hypothesis import settings

# The same examples in every run: a unit test that fails fails again.
settings.register_profile("draftgate", derandomize=True, database=None, deadline=None, max_examples=100)
settings.load_profile("draftgate")
