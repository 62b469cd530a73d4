pytest_plugins = [
    "harness.plugin",
    "fixtures.servers",
    "fixtures.calibration",
    "fixtures.measurement",
    "fixtures.speed",
    "fixtures.contract",
    "fixtures.load",
    "fixtures.lossless",
    "fixtures.endpoints",
    "pytester",
]
