"""The servers of a training: one may start early, and where it may."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from harness.errors import ServerFailed
from tests.factories.records import server_spec
from tests.unit.test_slot import NGRAM, NONE, Engines
from training.recipe import Recipe
from training.servers import EarlySlot, fit_together

SIZED = {"gpu_memory_utilization": 0.15, "kv_cache_memory_bytes": 6_000_000_000}


def test_a_server_that_began_early_is_the_one_that_is_asked_for() -> None:
    engines, may = Engines(), threading.Event()

    def start(spec: Any) -> Any:
        may.wait(10)
        return engines.start(spec)

    with EarlySlot(start, engines.said.append) as slot:
        slot.begin(NONE)
        assert (slot.begun, engines.attempts) == (True, 0)
        may.set()
        assert slot.get(NONE).spec == NONE
        assert slot.get(NGRAM).spec == NGRAM
        assert engines.attempts == 2
    assert engines.running == []


def test_an_early_start_that_failed_is_tried_again() -> None:
    engines = Engines()
    engines.refuse = True
    with EarlySlot(engines.start, engines.said.append) as slot:
        slot.begin(NONE)
        with pytest.raises(ServerFailed):
            slot.get(NONE)
        engines.refuse = False
        slot.close()
        assert slot.get(NONE).spec == NONE
    assert engines.attempts == 3


def test_closing_waits_for_an_early_start_and_ends_it() -> None:
    engines = Engines()
    slot = EarlySlot(engines.start, engines.said.append)
    slot.begin(server_spec())
    slot.close()
    assert (engines.attempts, engines.running) == (1, [])


@pytest.mark.parametrize(
    ("servers", "args", "fit"),
    [
        (4, SIZED, True),
        (5, SIZED, False),
        (4, {name.replace("_", "-"): value for name, value in SIZED.items()}, True),
        (1, {"gpu_memory_utilization": 0.5}, False),
        (1, {"kv_cache_memory_bytes": 1}, False),
        (1, {}, False),
    ],
)
def test_the_hidden_states_server_starts_early_where_all_have_room(
    servers: int, args: dict[str, Any], *, fit: bool
) -> None:
    recipe = Recipe.model_validate(
        {
            "schema": 1,
            "name": "tiny",
            "drafter": "tiny1",
            "target": {"model": "/models/tiny"},
            "engine": {"args": args},
            "prompts": {"count": 10, "sources": [{"kind": "self", "weight": 1}]},
            "responses": {"servers": servers},
        }
    )
    assert fit_together(recipe) is fit
