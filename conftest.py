import pytest

# draftgate's own plugin comes by its entry point, `harness/entry.py`, where our suites are asked for. Tests
# that start pytest in their own process find these modules imported, and it warns if they are not rewritten.
pytest.register_assert_rewrite("fixtures.bench", "harness.plugin")
pytest_plugins = ["pytester"]
