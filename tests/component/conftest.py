from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import fixtures.bench  # noqa: F401 - else each pytest in this process would import it, and forget it again
import harness.plugin  # noqa: F401
from tests.component.fake_engine import Fake
from tests.component.vllm_like import VllmLike, vllm_like


@pytest.fixture
def vllm() -> Iterator[VllmLike]:
    """A server that speaks vLLM's protocol; a test changes what it says."""
    with vllm_like() as server:
        yield server


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Fake engines, and a stack with the drafter ngram for them."""
    folder = tmp_path / "fake"
    folder.mkdir()
    made = Fake(folder)
    made.stack += '[drafters.ngram]\nmethod = "ngram"\nk = [2]\n'
    return made


@pytest.fixture
def own_signals() -> Iterator[None]:
    """The plugin sets handlers; this process keeps its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def light() -> Iterator[None]:
    """A pytest that a test starts is no worker, and leaves out what takes half of its start for nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_XDIST_WORKER", raising=False)  # pytest-benchmark would switch itself off
        patch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest --assert=plain")
        yield
