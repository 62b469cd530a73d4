"""One drafting server: where acceptance is read from, and whether all of it agrees."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.engine.attached import attach
from harness.engine.server import Server
from harness.errors import ServerFailed
from harness.judge import verdict
from harness.measure.client import Client
from harness.results.records import CellRecord, load
from harness.results.timing import speed_of
from tests.engine.conftest import NGRAM, Draftgate

Measure = Callable[..., CellRecord]
Usual = Callable[..., tuple[CellRecord, Path]]
SHAPE = {"prompts": 8, "max_tokens": 12}
"""A verdict wants eight prompts; ngram drafts for some of them within twelve tokens."""
pytestmark = NGRAM


@pytest.fixture(scope="module")
def measured() -> dict[tuple[str, str], tuple[CellRecord, Path]]:
    return {}


@pytest.fixture
def usual(
    record_of: Measure, measured: dict[tuple[str, str], tuple[CellRecord, Path]], tmp_path: Path
) -> Usual:
    """Eight prompts over an endpoint and their file: measured once, for all tests that only look at them."""

    def found(endpoint: str, time: str = "once") -> tuple[CellRecord, Path]:
        if (endpoint, time) not in measured:
            file = tmp_path / time / f"{endpoint}-en-instruct-ngram-k4.json"
            measured[endpoint, time] = record_of(endpoint=endpoint, warmups=1, folder=time, **SHAPE), file
        return measured[endpoint, time]

    return found


@pytest.mark.parametrize("endpoint", ["chat", "raw"])
def test_steps_tokens_and_counters_agree(engine: Server, usual: Usual, endpoint: str) -> None:
    record, _ = usual(endpoint)

    assert record.valid, record.findings
    assert {r.source for r in record.prompts} == {"request" if engine.per_request else "counters"}
    assert record.counters["drafts"] == sum(sum(r.histogram) for r in record.prompts)
    assert record.counters["generated"] == sum(r.output_tokens for r in record.prompts)
    assert sum(r.undrafted for r in record.prompts) > 0  # ngram finds no match in most steps


def test_chat_renders_a_template_and_raw_does_not(usual: Usual) -> None:
    (chat, _), (raw, _) = usual("chat"), usual("raw")

    for a, b in zip(chat.prompts, raw.prompts, strict=True):
        assert a.prompt_tokens > b.prompt_tokens + 20
        assert a.prompt_hash != b.prompt_hash


def test_the_counters_give_the_same_steps_as_the_responses(
    engine: Server, record_of: Measure, usual: Usual
) -> None:
    """An engine that reports nothing per request is read through /metrics, one prompt at a time."""
    older = dataclasses.replace(engine, per_request=False)
    by_request, _ = usual("chat")
    by_counters = record_of(server=older, folder="counters", **SHAPE)

    assert {r.source for r in by_counters.prompts} == {"counters"}
    for a, b in zip(by_request.prompts, by_counters.prompts, strict=True):
        assert (a.text, a.histogram, a.undrafted) == (b.text, b.histogram, b.undrafted)


def test_counters_cannot_tell_prompts_apart_that_run_together(engine: Server, record_of: Measure) -> None:
    older = dataclasses.replace(engine, per_request=False)

    with pytest.raises(ServerFailed, match="--concurrency 1"):
        record_of(server=older, concurrency=4)


def test_the_same_prompts_one_at_a_time_give_the_same_steps_again(usual: Usual) -> None:
    """Batches may move text, even at T=0; alone nothing does."""
    (once, _), (again, _) = usual("chat"), usual("chat", "again")

    assert [r.text_hash for r in once.prompts] == [r.text_hash for r in again.prompts]
    assert [r.histogram for r in once.prompts] == [r.histogram for r in again.prompts]
    assert verdict.judge(once, again).kind == "identical"


def test_a_seed_gives_the_same_sampled_text_again_and_another_one_another(record_of: Measure) -> None:
    sampled = {"temperature": 0.7, "prompts": 2, "max_tokens": 16}
    one, again = (record_of(folder=name, **sampled) for name in ("one", "again"))
    other = record_of(folder="other", seed=1, **sampled)

    assert [r.text_hash for r in one.prompts] == [r.text_hash for r in again.prompts]
    assert all(a.text_hash != b.text_hash for a, b in zip(one.prompts, other.prompts, strict=True))


def test_a_cold_cache_is_cold(usual: Usual) -> None:
    """The server has read the same prompts before."""
    usual("chat")
    cold, _ = usual("chat", "again")

    assert cold.counters["cached"] == 0
    assert "warm-cache" not in {f.code for f in cold.findings}


def test_times_are_those_of_a_stream(usual: Usual) -> None:
    record, _ = usual("chat")

    for r in record.prompts:
        assert r.ttft_s is not None
        assert r.total_s is not None
        assert 0 < r.ttft_s < r.total_s
    assert speed_of(record.prompts) is not None


def test_a_cell_file_reads_back_as_it_was(usual: Usual) -> None:
    record, file = usual("chat")

    assert load(file, CellRecord) == record


def test_foreign_traffic_makes_a_cell_invalid(
    engine: Server, record_of: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Client.ask

    async def ask_twice(self: Client, *args: object, **kwargs: object) -> object:
        await asyncio.sleep(0)
        await ask(self, *args, **kwargs)  # type: ignore[arg-type]
        return await ask(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Client, "ask", ask_twice)
    record = record_of(prompts=2, max_tokens=8)

    assert not record.valid
    assert {"foreign-traffic", "counters-disagree"} <= {f.code for f in record.findings}


def test_the_key_is_in_no_record_no_log_and_no_process_list(
    engine: Server, record_of: Measure, tmp_path: Path
) -> None:
    record_of(prompts=1, max_tokens=4)
    written = "".join(p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.is_file())
    assert engine.log is not None
    listed = b"".join(p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if os.access(p, os.R_OK))

    assert engine.key not in written
    assert engine.key not in engine.log.read_text()
    assert engine.key.encode() not in listed


def test_attaching_checks_what_the_server_tells(engine: Server) -> None:
    attached = attach(engine.url, engine.spec, key=engine.key)
    assert attached.version == engine.version

    with pytest.raises(ServerFailed, match="answers 401"):
        attach(engine.url, engine.spec, key=None)
    with pytest.raises(ServerFailed, match="for k = 2"):
        attach(engine.url, dataclasses.replace(engine.spec, k=2), key=engine.key)
    with pytest.raises(ServerFailed, match="which does not"):
        attach(
            engine.url,
            dataclasses.replace(engine.spec, drafter="none", k=0, speculative=None),
            key=engine.key,
        )
    other = engine.spec.target.model_copy(update={"served_name": "another-model"})
    with pytest.raises(ServerFailed, match="serves smollm2-135m-instruct, the stack wants 'another-model'"):
        attach(engine.url, dataclasses.replace(engine.spec, target=other), key=engine.key)


def test_a_suite_runs_against_a_server_that_is_there_already(engine: Server, draftgate: Draftgate) -> None:
    code, output = draftgate.run(
        "--server-url", engine.url, "-m", "chat and zh and ngram and k4",
        "--prompts", "2", "--max-tokens", "16", "--gate", "off",
        *([] if engine.per_request else ["--concurrency", "1"]),
        env={"DRAFTGATE_API_KEY": engine.key},
    )  # fmt: skip

    assert code == 0, output
    (path,) = draftgate.results.glob("*/acceptance/*.json")
    record = load(path, CellRecord)
    assert record.provenance["server"]["attached"]
    assert record.subject.resolved_config == "unverified"


def test_a_load_loses_nothing_and_shows_each_level(engine: Server, draftgate: Draftgate) -> None:
    """The levels are one stream each: 8 prompts make a level of 4 once and one of 8 twice over."""
    code, output = draftgate.run(
        "bench_suites/test_load.py", "--server-url", engine.url, "--levels", "1,4,8", "--max-tokens", "8",
        "-k", "test_load", "-m", "chat and en and ngram and k4",
        env={"DRAFTGATE_API_KEY": engine.key},
    )  # fmt: skip
    if not engine.per_request:
        assert "[no-acceptance-per-request]" in output
        return

    assert code == 0, output
    assert "goodput is requests a second with TTFT <= 2000 ms and TPOT <= 200 ms" in output
    rows = re.findall(r"^ *([148]) +(\d+) +(\d+) +(\d+) +\d\.\d\d ", output, flags=re.MULTILINE)
    assert rows == [("1", "8", "0", "0"), ("4", "8", "0", "0"), ("8", "16", "0", "0")]
    for level, requests in ((1, 8), (4, 8), (8, 16)):
        (path,) = draftgate.results.glob(f"*/load-{level:02d}/chat-en-instruct-ngram-k4.json")
        record = load(path, CellRecord)
        assert record.valid, record.findings
        assert record.identity.concurrency == level
        assert len({(r.prompt, r.repeat) for r in record.prompts}) == requests
    assert not list(draftgate.results.glob("*/acceptance"))
