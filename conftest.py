# draftgate's own plugin comes by its entry point, `harness/entry.py`, where our suites are asked for.
pytest_plugins = ["pytester"]
