from __future__ import annotations

import pytest
from hypothesis import settings

from harness.text import redaction

pytest.register_assert_rewrite("tests.factories")

# The same examples in every run: a unit test that fails fails again.
settings.register_profile("draftgate", derandomize=True, database=None, deadline=None, max_examples=100)
# Other ones every night, in the tests that read what others wrote.
settings.register_profile("long", database=None, deadline=None, print_blob=True)
settings.load_profile("draftgate")


@pytest.fixture(autouse=True)
def no_known_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys that one test gives away are no secrets in the next."""
    monkeypatch.setattr(redaction, "_KEYS", set())
