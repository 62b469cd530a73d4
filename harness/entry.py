"""What pytest loads in every session where draftgate is installed: it brings the plugin where it is wanted.

Nothing of draftgate is imported before that, and no option or marker exists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = "bench_suites"
_OURS = b"harness.suites"
"""Stands in each of our suites, so that another project's folder of that name stays its own."""


def pytest_load_initial_conftests(early_config: Any) -> None:
    """Load the plugin where pytest is asked for suites of ours, before it reads its options."""
    here = early_config.invocation_params.dir
    words = [str(word).split("::")[0] for word in early_config.known_args_namespace.file_or_dir]
    named = [word for word in words if _module(word) or (here / word).exists()]
    for word in named or early_config.getini("testpaths") or ["."]:
        if _module(word) or _is_ours(here / word):
            # Not earlier: it costs milliseconds that another session need not pay.
            from harness.config.shipped import PREFIX  # noqa: PLC0415

            for plugin in ("harness.plugin", f"{PREFIX}fixtures.bench"):
                early_config.pluginmanager.import_plugin(plugin)
            return


def _module(word: str) -> bool:
    """It is one of the suites in the wheel, as `--pyargs` names it."""
    return word.startswith(f"harness.{FOLDER}")


def _is_ours(path: Path) -> bool:
    """It is a folder of suites, lies in one, or holds one."""
    place = path.resolve()
    folder = next((p for p in (place, *place.parents) if p.name == FOLDER), place / FOLDER)
    return any(_OURS in file.read_bytes() for file in folder.glob("test_*.py"))
