"""The wheel, built and installed: it has all that a user needs, and costs another project's tests nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (
    "harness", "fixtures", "bench_suites", "training", "requirements",
    "pyproject.toml", "README.md", "LICENSE",
)  # fmt: skip
FOREIGN = """
import sys

def pytest_addoption(parser):
    parser.addoption("--stack", default="theirs")
    parser.addoption("--profile")
    parser.addoption("--results")

def pytest_configure(config):
    assert not any("cells" in line for line in config.getini("markers"))
"""
"""Another project's conftest.py, with options of the same names as ours."""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files in a folder of their own, as pip lays them out."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *SOURCES],  # noqa: S607
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in files:  # a build writes into its source
        if (ROOT / name).is_file() and not name.endswith("log.txt"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(source)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    packages = folder / "site-packages"
    zipfile.ZipFile(wheel).extractall(packages)
    return packages


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Runs Python in an empty folder, where the wheel stands before this checkout."""

    def python(*words: str) -> subprocess.CompletedProcess[str]:
        # The finder of the editable install comes after sys.path: the wheel's `harness` is found first.
        environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, "-P", *words], cwd=tmp_path, env=environment, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    return python


def test_one_name_lands_in_site_packages(installed: Path) -> None:
    names = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}

    assert names == {"harness"}
    for what in ("stacks/*.toml", "prompts/*/*.jsonl", "drafters/*/*.safetensors", "bench.py"):
        there = {path.name for path in (installed / "harness/fixtures").glob(what)}
        assert there == {path.name for path in (ROOT / "fixtures").glob(what)}


def test_an_empty_folder_becomes_one_that_measures(run: Run, tmp_path: Path) -> None:
    made = run("-m", "harness.cli", "init")
    assert made.returncode == 0, made.stdout
    bench = run("-m", "harness.cli", "bench", "--collect-only", "-q")
    speed = run("-m", "harness.cli", "bench", "speed", "--collect-only", "-q", "-m", "chat and en")
    plain = run("-m", "pytest", "--collect-only", "-q")

    for done, of in ((bench, "test_acceptance["), (speed, "test_speed_up["), (plain, "test_acceptance[")):
        assert done.returncode == 0, done.stdout
        file = of.split("[")[0].replace("test_speed_up", "test_speed")
        assert f"\nbench_suites/{file}.py::{of}chat-en-instruct-eagle3r1-k4]" in f"\n{done.stdout}"
    seen = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert seen == {"bench_suites", "stack.toml"}
    again = run("-m", "harness.cli", "init")
    assert again.returncode == 2
    assert "[would-overwrite]" in again.stdout


@pytest.mark.nightly
def test_the_stack_of_the_folder_is_the_default_and_its_drafters_come_with_the_wheel(
    run: Run, installed: Path, tmp_path: Path
) -> None:
    run("-m", "harness.cli", "init")
    stack = tmp_path / "stack.toml"
    stack.write_text(stack.read_text().replace("languages", "# languages") + "\n[drafters.mine]\n"
                     'method = "eagle3"\nmodel = "embedded:eagle3r2"\nk = [2]\n')  # fmt: skip
    found = run("-m", "harness.cli", "bench", "--collect-only", "-q", "-m", "mine and chat and en")
    where = run("-c", "from harness.config.stack import *; "
                "print(load_stack(find_stack(default_stack(), Path())).drafters['mine'].model)")  # fmt: skip

    assert "chat-en-instruct-mine-k2" in found.stdout, found.stdout
    assert where.stdout.strip() == str(installed / "harness/fixtures/drafters/eagle3r2")


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside-ours"])
def test_another_projects_session_has_none_of_our_options_markers_or_imports(
    run: Run, tmp_path: Path, *, beside: bool
) -> None:
    if beside:
        run("-m", "harness.cli", "init")
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "conftest.py").write_text(FOREIGN)
    (tests / "test_theirs.py").write_text(
        "import sys\n"
        "def test_theirs(pytestconfig):\n"
        "    assert pytestconfig.getoption('--stack') == 'x'\n"
        "    loaded = {name for name in sys.modules if name.startswith('harness')}\n"
        "    assert loaded <= {'harness', 'harness.entry'}\n"
        "    assert pytestconfig.pluginmanager.has_plugin('draftgate')\n"
    )
    done = run("-m", "pytest", "tests", "--stack", "x", "--strict-markers")

    assert done.returncode == 0, done.stdout
    theirs = tmp_path / "bench_suites"
    if not beside:  # a folder of that name that is theirs
        theirs.mkdir()
        (theirs / "test_theirs.py").write_text((tests / "test_theirs.py").read_text())
        (theirs / "conftest.py").write_text(FOREIGN)
        assert run("-m", "pytest", "bench_suites", "--stack", "x").returncode == 0
