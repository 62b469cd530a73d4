pytest_plugins = [
    "harness.plugin",
    "fixtures.servers",
    "fixtures.measurement",
    "fixtures.speed",
    "fixtures.contract",
    "pytester",
]
