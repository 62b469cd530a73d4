pytest_plugins = ["harness.plugin", "fixtures.bench", "pytester"]
