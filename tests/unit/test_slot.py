"""The slot holds one server at a time, and another like it where that one has ended."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import pytest

from harness.config.cells import ServerSpec
from harness.engine.server import Server
from harness.engine.slot import Slot
from harness.errors import ServerFailed
from tests.factories.records import server_spec

NONE, NGRAM = server_spec(drafter="none", k=0, speculative=None), server_spec()


@dataclasses.dataclass(frozen=True)
class Fake(Server):
    """A server without a process: it runs until `broken` has its start id."""

    broken: set[str] = dataclasses.field(default_factory=set)

    def ended(self) -> str | None:
        return "its process ended (exit code 1)" if self.start_id in self.broken else None


class Engines:
    """Starts fakes, and knows which of them run."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.broken: set[str] = set()
        self.attempts = 0
        self.refuse = False
        self.said: list[str] = []

    @contextlib.contextmanager
    def start(self, spec: ServerSpec) -> Iterator[Server]:
        self.attempts += 1
        assert not self.running, "two servers would run at once"
        if self.refuse:
            raise ServerFailed("it died while loading")
        name = f"{spec.label}/{self.attempts}"
        self.running.append(name)
        yield Fake(
            url="", key="", spec=spec, model="tiny", start_id=name, version="0.32.0", attached=False,
            per_request=True, log=None, started_s=1.5, broken=self.broken,
        )  # fmt: skip
        self.running.remove(name)


@pytest.fixture
def engines() -> Engines:
    return Engines()


@pytest.fixture
def slot(engines: Engines) -> Iterator[Slot]:
    with Slot(engines.start, engines.said.append) as one:
        yield one
    assert engines.running == []


def test_a_server_is_kept_while_the_same_is_asked_for(slot: Slot, engines: Engines) -> None:
    first = slot.get(NGRAM)

    assert slot.get(NGRAM) is slot.ready() is first
    assert slot.starts == 1
    assert engines.said == ["server ngram-k4 ready in 1.5 s"]


def test_another_server_is_started_after_the_first_has_ended(slot: Slot, engines: Engines) -> None:
    slot.get(NGRAM)
    assert slot.last_start_s is None  # the first one says nothing of the next
    slot.get(NONE)

    assert engines.running == ["none/2"]
    assert slot.last_start_s == 1.5


def test_closing_ends_the_server_and_the_next_one_is_new(slot: Slot, engines: Engines) -> None:
    first = slot.get(NONE)
    slot.close()

    assert engines.running == []
    assert slot.get(NONE) is not first


@pytest.mark.parametrize(("settings", "starts"), [({}, 2), ({"suffix_decoding_max_cached_requests": 0}, 1)])
def test_a_drafter_that_remembers_a_prompt_is_started_anew(
    slot: Slot, settings: dict[str, int], starts: int
) -> None:
    suffix = dataclasses.replace(NGRAM, speculative={"method": "suffix", **settings})
    for texts in (["a", "b"], ["c"], [], ["d", "b"], ["a"]):
        slot.get(suffix, cold=texts)

    assert slot.starts == starts


def test_a_prompt_that_was_asked_before_a_renewal_counts_as_asked(slot: Slot) -> None:
    suffix = dataclasses.replace(NGRAM, speculative={"method": "suffix"})
    slot.get(suffix, cold=["a"])
    slot.renew("it hangs")
    slot.get(suffix, cold=["a"])

    assert slot.starts == 3


@pytest.mark.parametrize("how", ["get", "ready"])
def test_a_server_whose_process_ended_is_started_anew(slot: Slot, engines: Engines, how: str) -> None:
    first = slot.get(NONE)
    engines.broken.add(first.start_id)

    second = slot.get(NONE) if how == "get" else slot.ready()

    assert second.start_id == "none/2"
    assert slot.starts == 2
    assert any("its process ended (exit code 1)" in text for text in engines.said)


def test_a_server_that_cannot_be_started_is_not_tried_by_every_cell(slot: Slot, engines: Engines) -> None:
    engines.refuse = True
    for _ in range(3):
        with pytest.raises(ServerFailed, match="it died while loading"):
            slot.get(NGRAM)

    assert engines.attempts == 1
    engines.refuse = False
    slot.get(NONE)
    assert slot.get(NGRAM).start_id == "ngram-k4/3"


def test_a_server_that_could_not_be_renewed_is_tried_again(slot: Slot, engines: Engines) -> None:
    """The first start went well: what came later may pass."""
    first = slot.get(NGRAM)
    engines.broken.add(first.start_id)
    engines.refuse = True
    with pytest.raises(ServerFailed):
        slot.renew("it stalled")

    engines.refuse = False
    assert slot.get(NGRAM).start_id == "ngram-k4/3"


def test_an_empty_slot_has_nothing_to_renew(slot: Slot) -> None:
    for ask in (slot.ready, lambda: slot.renew("it stalled")):
        with pytest.raises(LookupError):
            ask()
