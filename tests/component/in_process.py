"""`pytest` with draftgate's plugins, in the folder and in the process of a test."""

from __future__ import annotations

import warnings

import pytest

PLUGINS = ("xdist.plugin", "pytest_benchmark.plugin", "harness.plugin", "fixtures.bench")


def run(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    """Run it; a test that does needs the fixture `own_signals`."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # A fifth of the time goes into a search of everything that is installed for plugins.
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        warnings.simplefilter("ignore", pytest.PytestAssertRewriteWarning)  # they are imported already
        loaded = (word for plugin in PLUGINS for word in ("-p", plugin))
        return pytester.runpytest_inprocess(*loaded, "-p", "no:cacheprovider", *words)
