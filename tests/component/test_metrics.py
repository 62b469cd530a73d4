from __future__ import annotations

import pytest

from harness.engine.http import Http
from harness.engine.metrics import fetch
from harness.errors import ServerFailed
from tests.component.vllm_like import Reply, vllm_like
from tests.factories.metrics_page import PAGE, READ

# Over HTTP


def test_the_page_is_fetched() -> None:
    with vllm_like(metrics=Reply(PAGE.encode(), kind="text/plain; version=0.0.4")) as fake:
        assert fetch(Http(fake.url)) == READ


def test_a_server_that_does_not_answer_is_named() -> None:
    with vllm_like() as gone:
        url = gone.url

    with pytest.raises(ServerFailed, match=f"no usable answer from {url}/metrics: .*refused"):
        fetch(Http(url))
