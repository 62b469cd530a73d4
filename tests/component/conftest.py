from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.component.vllm_like import VllmLike, vllm_like


@pytest.fixture
def vllm() -> Iterator[VllmLike]:
    """A server that speaks vLLM's protocol; a test changes what it says."""
    with vllm_like() as server:
        yield server


@pytest.fixture
def own_signals() -> Iterator[None]:
    """The plugin sets a handler for SIGTERM; this process keeps its own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
