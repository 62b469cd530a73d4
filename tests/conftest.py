from __future__ import annotations

import gc
import os

import pytest
from hypothesis import settings

from harness.text import redaction

pytest.register_assert_rewrite("tests.factories")

EXAMPLES = 100 if os.environ.get("DRAFTGATE_FUZZ") == "long" else 40
# The same examples in every run: a unit test that fails fails again.
settings.register_profile("draftgate", derandomize=True, database=None, deadline=None, max_examples=EXAMPLES)
# Other ones every night, in the tests that read what others wrote.
settings.register_profile("long", database=None, deadline=None, print_blob=True)
settings.load_profile("draftgate")

gc.disable()  # what is imported and collected stays: looking for garbage in it takes a quarter of the time


def pytest_configure(config: pytest.Config) -> None:
    config.getini("filterwarnings").insert(0, "error")  # those that follow it stay what they are


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else libraries that count what is left at the end say that it leaked


@pytest.fixture(autouse=True)
def no_known_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys that one test gives away are no secrets in the next."""
    monkeypatch.setattr(redaction, "_KEYS", set())
