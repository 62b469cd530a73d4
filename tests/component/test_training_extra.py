"""`python -m training` on an installation without the extra `train`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from training.__main__ import EXTRA

WITHOUT = """
import sys
for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None  # Python takes it for one that is not installed
from training.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("missing", [EXTRA, EXTRA[2:3]])
@pytest.mark.parametrize("words", [["--dry-run"], []])
def test_a_missing_package_is_named_with_the_extra_that_installs_it(
    tmp_path: Path, missing: tuple[str, ...], words: list[str]
) -> None:
    work = tmp_path / "work"
    command = [sys.executable, "-c", WITHOUT, ",".join(missing), "run", "smoke-cpu", "--work", str(work)]
    ended = subprocess.run([*command, *words], capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert all(name in ended.stderr for name in missing)
    assert "draftgate[cpu,train]" in ended.stderr
    assert ended.stdout == ""
    assert not work.exists()


def test_torch_is_not_imported_before_it_is_needed() -> None:
    """It takes seconds, which a plan or a refusal would wait for."""
    code = "import sys; sys.modules['torch'] = None; import training.pipeline, training.targets.make"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )

    assert ended.returncode == 0, ended.stderr
