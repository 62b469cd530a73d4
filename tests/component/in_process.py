"""`pytest` with draftgate's plugins, in the folder and in the process of a test."""

from __future__ import annotations

import warnings

import pytest


def run(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    """Run it; a test that does needs the fixture `own_signals`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pytest.PytestAssertRewriteWarning)  # they are imported already
        return pytester.runpytest_inprocess(
            "-p", "harness.plugin", "-p", "fixtures.bench", "-p", "no:cacheprovider", *words
        )
