"""A verdict is kept by the process that judged, and shown by the one that ends the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.suites.runner import kept
from tests.component import forked
from tests.component.fake_engine import Fake, bench


@pytest.fixture(scope="module")
def baselines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fake, tuple[str, ...]]:
    """An engine, and the words of a run that has baselines."""
    folder = tmp_path_factory.mktemp("baselines")
    (folder / "fake").mkdir()
    fake = Fake(folder / "fake")
    words = ("--prompts", "8", "--baselines", str(folder / "baselines"))
    code, output = bench(fake, folder, *words, "--update-baselines")
    assert code == 0, output
    return fake, words


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_the_table_at_the_end_has_the_verdicts_of_all_processes(
    baselines: tuple[Fake, tuple[str, ...]], tmp_path: Path, workers: tuple[str, ...]
) -> None:
    fake, words = baselines
    code, output = bench(fake, tmp_path, *words, "--gate", "on", *workers)

    assert code == 0, output
    (folder,) = (tmp_path / "results").iterdir()
    (outcome,) = kept(folder).values()
    assert outcome.verdict
    assert outcome.verdict.kind == "identical"
    assert "tokens per step against the baseline" in output
    assert any(line.split()[-2:] == ["=", "8/8"] for line in output.splitlines()), output


def test_the_table_of_pytest_benchmark_is_printed_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """Whatever loads the plugin: another folder has no conftest.py of ours."""
    (tmp_path / "fake").mkdir()
    fake = Fake(tmp_path / "fake")
    stack = tmp_path / "tiny.toml"
    stack.write_text(fake.stack.format(model=fake.folder / "tiny", python=fake.python, freeze=fake.freeze))
    words = ["acceptance", "--stack", str(stack), "--gate", "off", "--prompts", "1", "--self-check", "off"]

    def legend(*more: str) -> bool:
        code, output = forked.run(
            "harness.cli", "bench", *words, *more, output=tmp_path / "output", folder=tmp_path
        )
        assert code == 0, output
        return "Operations Per Second" in output

    assert not legend()
    assert legend("--benchmark-verbose")
