"""`engine.python` as it was written: an interpreter of a virtual environment is a link, and stays one."""

from __future__ import annotations

import os
import sys
import venv
from pathlib import Path

import pytest

from harness.config.stack import load_stack
from harness.engine.facts import engine_facts
from harness.errors import BadInput, ServerFailed
from harness.provenance.hardware import packages_of
from harness.provenance.record import _interpreter

STACK = """\
schema = 1
name = "tiny"
[target]
model = "org/tiny"
[engine]
python = "{python}"
[drafters.none]
"""


def python_of(folder: Path, written: str) -> str:
    path = folder / "tiny.toml"
    path.write_text(STACK.format(python=written), encoding="utf-8")
    python = load_stack(path).engine.python
    assert python is not None
    return python


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment whose packages hold a vLLM."""
    return environment_in(tmp_path / "venv")


def environment_in(folder: Path) -> Path:
    venv.create(folder, symlinks=True)
    packages = folder / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    for name, text in (
        ("vllm/__init__.py", ""),
        ("vllm-9.9.dist-info/METADATA", "Metadata-Version: 2.1\nName: vllm\nVersion: 9.9\n"),
        ("vllm-9.9.dist-info/top_level.txt", "vllm\n"),
    ):
        (packages / name).parent.mkdir(exist_ok=True)
        (packages / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("written", ["{}", "./venv/bin/python", "venv/bin/python", "~/venv/bin/python"])
def test_the_engine_is_that_of_the_virtual_environment(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    python = python_of(tmp_path, written.format(environment / "bin" / "python"))

    assert engine_facts(python).version == "9.9"
    assert python == str(environment / "bin" / "python")
    # What it resolves to is another one, which has no such vLLM.
    assert _interpreter(python) == ["~/venv/bin/python", os.path.realpath(python)]


def test_a_link_to_a_folder_of_environments_is_kept(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(environment)

    assert python_of(tmp_path, "./current/bin/python") == str(tmp_path / "current/bin/python")


def test_a_name_is_looked_up_by_the_system(tmp_path: Path) -> None:
    assert python_of(tmp_path, "python3.11") == "python3.11"


@pytest.mark.parametrize(
    "kind",
    [
        "a folder",
        "not executable",
        "not there",
        "no such name",
        "nothing runs it",
        "a link to nothing",
        "a ring",
    ],
)
def test_what_is_no_interpreter_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "python"
    match kind:
        case "a folder":
            path.mkdir()
        case "a link to nothing" | "a ring":
            path.symlink_to("python" if kind == "a ring" else "python3.7")
        case "not executable":
            path.write_text("#!/bin/sh\n")
        case "nothing runs it":
            path.write_text("nothing")
            path.chmod(0o755)
    python = python_of(tmp_path, "no-such-python" if kind == "no such name" else str(path))

    with pytest.raises(ServerFailed) as caught:
        engine_facts(python)

    assert caught.value.code == "engine-missing"
    assert "\n" not in str(caught.value)
    assert python in str(caught.value)


@pytest.mark.parametrize("written", ["", "  "])
def test_an_empty_name_is_no_interpreter(tmp_path: Path, written: str) -> None:
    with pytest.raises(BadInput) as caught:
        python_of(tmp_path, written)
    assert caught.value.code == "wrong-field"


def test_an_interpreter_that_says_something_first_is_one(environment: Path, tmp_path: Path) -> None:
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\necho loading modules\nexec {environment}/bin/python "$@"\n')
    path.chmod(0o755)

    assert engine_facts(str(path)).version == "9.9"
    assert packages_of(str(path))["vllm"] == "9.9"


@pytest.mark.parametrize(
    "written", ["./c/bin/python", "../stacks/venv/bin/python", "./with space/bin/python"]
)
def test_a_path_of_links_and_steps_is_that_of_the_environment(tmp_path: Path, written: str) -> None:
    here = tmp_path / "stacks"
    for name in ("venv", "with space"):
        environment_in(here / name)
    (here / "a").symlink_to(here / "venv")
    (here / "b").symlink_to("a")
    (here / "c").symlink_to("b")

    assert engine_facts(python_of(here, written)).version == "9.9"
