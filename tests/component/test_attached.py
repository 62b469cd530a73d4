"""A server that somebody else started: what it does not show, what the stack says of it, and its key."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import options
from harness.cli import main
from harness.config.cells import Cell, ServerSpec
from harness.config.prompts import Prompt
from harness.config.stack import Profile
from harness.config.variants import Target
from harness.engine.attached import attach
from harness.engine.http import KEY, Http, NoAnswer, key_of_environment, without_proxy
from harness.errors import BadInput, BadRecord, ServerFailed
from harness.judge.pairing import pair
from harness.measure.measurement import Measurement
from harness.measure.probe import prompt_logprobs
from harness.results.records import CellRecord
from harness.text.redaction import keep_secret, without_keys, without_secrets
from tests.component import in_process
from tests.component.vllm_like import Reply, VllmLike, as_events, as_json, serving, vllm_like
from tests.factories.records import cell_name, server_spec
from tests.factories.stacks import HEAD
from tests.factories.streams import CHAT, PIECES, chunk, spec as accepted, usage

PROMPTS = tuple(Prompt(id=f"p{i}", language="en", text=f"Tell me about bread, {i}.") for i in range(4))
SECRET = "sk-0123456789abcdef"  # noqa: S105 - nobody's


def plain() -> ServerSpec:
    return server_spec(drafter="none", k=0, speculative=None)


def drafting(method: str = "suffix", k: int = 2, **settings: Any) -> ServerSpec:
    speculative = {"method": method, "num_speculative_tokens": k, **settings}
    return server_spec(drafter=method, k=k, speculative=speculative)


@pytest.fixture
def drafts() -> Iterator[VllmLike]:
    with vllm_like(k=2) as server:
        yield server


def measured(
    vllm: VllmLike,
    spec: ServerSpec,
    folder: Path,
    *,
    repeats: int = 1,
    concurrency: int = 1,
    key: str | None = None,
    prompts: tuple[Prompt, ...] = PROMPTS,
    subject: tuple[str, ...] = (),
) -> CellRecord:
    name = cell_name(drafter=spec.drafter, k=spec.k)
    profile = Profile(prompts=len(PROMPTS), max_tokens=64, concurrency=concurrency)
    measurement = Measurement(
        server=attach(vllm.url, spec, key=key),
        cell=Cell(name=name, spec=spec, profile_name="quick", profile=profile, subject=subject),
        suite="acceptance", prompts=prompts, warmups=PROMPTS[:1], repeats=repeats, seed=0, timed=True,
        folder=folder, progress=lambda *_: None, stall_seconds=1,
    )  # fmt: skip
    measurement.prepare()
    measurement.all_passes()
    return measurement.finish()


def codes(record: CellRecord) -> list[str]:
    return [finding.code for finding in record.findings]


# What a server need not show


@pytest.mark.parametrize("status", [401, 403, 404, 405, 501])
@pytest.mark.parametrize("spec", [plain(), drafting()], ids=lambda spec: spec.drafter)
def test_a_server_that_hides_its_pages_is_measured_and_the_record_says_so(
    status: int, spec: ServerSpec, tmp_path: Path
) -> None:
    with vllm_like(k=spec.k) as vllm:
        for page in ("/metrics", "/version", "/health", "/tokenize"):
            vllm.replies[page] = as_json({"error": "no"}, status)
        vllm.replies["/v1/models"] = as_json({"error": "no"}, 404 if status == 401 else status)
        record = measured(vllm, spec, tmp_path)

    assert record.valid
    assert record.subject.engine == "unverified"
    assert codes(record).count("unverified") >= 2  # the model, the counters
    assert not record.counters


@pytest.mark.parametrize("name", ["max_logprobs", "max-logprobs"])
def test_no_more_probabilities_are_asked_for_than_the_stack_allows(vllm: VllmLike, name: str) -> None:
    server = attach(vllm.url, dataclasses.replace(plain(), args={name: 3}), key=None)
    prompt_logprobs(server, [1, 2, 3], most=20)
    assert vllm.requests[-1][2]["prompt_logprobs"] == 3


def test_a_server_that_shows_all_is_fully_verified(vllm: VllmLike, tmp_path: Path) -> None:
    assert codes(measured(vllm, plain(), tmp_path)) == []


@pytest.mark.parametrize(
    "reply", [as_json({}), as_json({"version": 5}), as_json({"version": ""}), Reply(b"<html>")]
)
def test_a_version_of_any_other_form_is_not_one(vllm: VllmLike, reply: Reply) -> None:
    vllm.replies["/version"] = reply
    assert attach(vllm.url, plain(), key=None).version == "unverified"


@pytest.mark.parametrize("page", ["/v1/models", "/metrics"])
def test_a_server_that_is_broken_is_refused(vllm: VllmLike, page: str) -> None:
    vllm.replies[page] = as_json({"error": "no"}, 503)
    with pytest.raises(ServerFailed):
        attach(vllm.url, plain(), key=None)


def test_acceptance_that_nobody_tells_is_not_measured(drafts: VllmLike, tmp_path: Path) -> None:
    drafts.replies["/metrics"] = Reply(status=404)
    drafts.answer = lambda _: [*PIECES, usage(8)]
    with pytest.raises(ServerFailed) as caught:
        measured(drafts, drafting(), tmp_path)
    assert caught.value.code == "no-acceptance-per-request"


class TwoEngines(VllmLike):
    """Data parallel: each request goes to the next engine, and each engine counts its own."""

    def __init__(self, shown: tuple[int, ...] = (0, 1)) -> None:
        super().__init__(k=2)
        self.shown, self.turn = shown, 0
        self.of_engine = [self.counted.copy(), self.counted.copy()]

    def count(self, **by: int) -> None:
        self.of_engine[self.turn % 2].update(by)
        self.turn += 1

    def page(self) -> str:
        lines = [f"process_start_time_seconds {self.started}"]
        for engine in self.shown:
            for counter, n in self.of_engine[engine].items():
                name, _, labels = counter.rstrip("}").partition("{")
                lines.append(f'vllm:{name}{{engine="{engine}",{labels}}} {n}')
        return "\n".join([*lines, ""])


@pytest.mark.parametrize("shown", [(0, 1), (0,)])
def test_data_parallel_engines_are_summed_and_each_request_tells_its_own_acceptance(
    tmp_path: Path, shown: tuple[int, ...]
) -> None:
    with serving(TwoEngines(shown)) as server:
        record = measured(server, drafting(), tmp_path, concurrency=2)
    both = shown == (0, 1)
    assert {r.source for r in record.prompts} == {"request"}
    assert all(engine["request_success_total"] for engine in server.of_engine)
    drafts = sum(sum(r.histogram) for r in record.prompts)
    assert (record.counters["drafts"] == drafts) is both
    assert record.valid is both, codes(record)


def test_a_server_that_drafts_is_not_measured_as_none_though_it_hides_its_counters(
    drafts: VllmLike, tmp_path: Path
) -> None:
    drafts.replies["/metrics"] = Reply(status=404)
    assert not measured(drafts, plain(), tmp_path).valid


def test_a_server_without_counters_is_not_taken_for_one_that_hangs(vllm: VllmLike, tmp_path: Path) -> None:
    """Its answers take longer than the stall seconds of `measured`."""
    vllm.replies["/metrics"] = vllm.replies["/health"] = Reply(status=404)
    vllm.replies[CHAT] = as_events(*PIECES, usage(8), "[DONE]", pause=0.2)
    assert measured(vllm, plain(), tmp_path, concurrency=4).valid


# What it makes of a prompt


def dated(vllm: VllmLike, date: list[int] | None) -> None:
    """The template writes a date before the message; None: a proxy takes the prompt's tokens away."""

    def answer(asked: dict[str, Any]) -> list[Any]:
        first, *rest = vllm.good(asked)
        ids = first.pop("prompt_token_ids")
        return [first | ({"prompt_token_ids": [*date, *ids]} if date else {}), *rest]

    vllm.answer = answer


@pytest.mark.parametrize(("day", "other"), [([2, 8], [2, 9]), ([2, 8], None), (None, [2, 9])])
def test_a_prompt_that_is_rendered_otherwise_on_another_day_is_the_same_prompt(
    vllm: VllmLike, tmp_path: Path, day: list[int] | None, other: list[int] | None
) -> None:
    dated(vllm, day)
    old = measured(vllm, plain(), tmp_path / "old")
    dated(vllm, other)
    pairs = pair(old, measured(vllm, plain(), tmp_path / "new"))
    assert len(pairs.prompts) == len(PROMPTS)
    assert len(pairs.notes) == 1
    assert pairs.same_text == len(PROMPTS)


def test_a_prompt_that_was_edited_while_a_run_was_interrupted_is_refused(
    vllm: VllmLike, tmp_path: Path
) -> None:
    measured(vllm, plain(), tmp_path)
    edited = (dataclasses.replace(PROMPTS[0], text="Tell me about rye."), *PROMPTS[1:])
    with pytest.raises(BadRecord) as caught:
        measured(vllm, plain(), tmp_path, prompts=edited)
    assert caught.value.code == "other-conditions"


# Its name


SAME = [
    ({"id": "org/tiny"}, "org/tiny"),
    ({"id": "Org/Tiny"}, "org/tiny"),
    ({"id": "/models/tiny/"}, "org/tiny"),
    ({"id": "org/tiny"}, "/models/tiny"),
    ({"id": "/models/tiny"}, "embedded:tiny"),
    ({"id": "prod", "root": "org/tiny"}, "org/tiny"),
    ({"id": "prod", "root": "/c/hub/models--org--tiny/snapshots/abc"}, "org/tiny"),
    ({"id": "prod", "root": "org/tiny", "parent": None}, "org/tiny"),
]
OTHER = [
    ({"id": "another/tiny"}, "org/tiny"),
    ({"id": "org/tiny-awq"}, "org/tiny"),
    ({"id": "prod", "root": "another/tiny"}, "org/tiny"),
    ({"id": "/c/hub/models--another--tiny/snapshots/abc"}, "org/tiny"),
    ({"id": "adapter", "root": "org/tiny", "parent": "base"}, "org/tiny"),
    ({"id": ""}, "org/tiny"),
    ({"id": None, "root": 5}, "org/tiny"),
]


@pytest.mark.parametrize(("card", "model"), SAME)
def test_a_server_of_plainly_the_same_model_is_attached_to(
    vllm: VllmLike, card: dict[str, Any], model: str
) -> None:
    vllm.replies["/v1/models"] = as_json({"data": [card]})
    server = attach(vllm.url, dataclasses.replace(plain(), target=Target(model=model)), key=None)
    assert server.model == card["id"]
    assert len(server.unverified) == 1


@pytest.mark.parametrize(("card", "model"), OTHER)
def test_a_server_of_another_model_is_not(vllm: VllmLike, card: dict[str, Any], model: str) -> None:
    vllm.replies["/v1/models"] = as_json({"data": [card]})
    with pytest.raises(ServerFailed) as caught:
        attach(vllm.url, dataclasses.replace(plain(), target=Target(model=model)), key=None)
    assert caught.value.code == "other-model"
    assert "None" not in str(caught.value)


def test_a_name_that_the_stack_gives_is_the_only_one(vllm: VllmLike) -> None:
    target = Target(model="org/tiny", served_name="another")
    vllm.replies["/v1/models"] = as_json({"data": [{"id": "org/tiny", "root": "org/tiny"}]})
    with pytest.raises(ServerFailed) as caught:
        attach(vllm.url, dataclasses.replace(plain(), target=target), key=None)
    assert caught.value.code == "other-model"


def test_another_name_of_the_target_is_sent_and_leaves_the_identity_alone(
    vllm: VllmLike, tmp_path: Path
) -> None:
    vllm.replies["/v1/models"] = as_json({"data": [{"id": "/srv/tiny"}]})
    spec = dataclasses.replace(plain(), target=Target(model="/models/tiny"))
    record = measured(vllm, spec, tmp_path)
    assert {body["model"] for path, _, body in vllm.requests if path == CHAT} == {"/srv/tiny"}
    assert record.identity.target == "tiny"
    assert codes(record) == ["unverified"]


# Its drafter


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        (drafting("suffix", suffix_decoding_max_tree_depth=8), {"suffix_decoding_max_tree_depth": 8}),
        (drafting("ngram", prompt_lookup_max=4), {"prompt_lookup_max": 4}),
        (drafting("eagle3", model="org/head", revision="abc"), {"revision": "abc"}),
        (drafting("draft_model", model="/models/small"), {}),
        (drafting("mtp"), {}),
    ],
)
def test_a_drafter_is_recorded_as_the_stack_says_it(
    drafts: VllmLike, tmp_path: Path, spec: ServerSpec, settings: dict[str, Any]
) -> None:
    record = measured(drafts, spec, tmp_path)
    subject = record.subject
    assert (subject.method, subject.settings, subject.k) == (spec.drafter, settings, 2)
    assert subject.unverified == ["method", "settings"]
    has_model = "model" in (spec.speculative or {})
    assert subject.weights == ("unverified" if has_model else None)
    assert subject.drafter_revision == (settings.get("revision", "unverified") if has_model else None)
    assert "unverified" in codes(record)


@pytest.mark.parametrize(
    ("spec", "repeats", "again"),
    [
        (drafting("suffix"), 2, True),
        (drafting("suffix"), 1, False),
        (drafting("suffix", suffix_decoding_max_cached_requests=0), 2, False),
        (drafting("ngram"), 2, False),
    ],
)
def test_a_drafter_that_remembers_is_not_asked_twice(
    drafts: VllmLike, tmp_path: Path, spec: ServerSpec, repeats: int, *, again: bool
) -> None:
    record = measured(drafts, spec, tmp_path, repeats=repeats)
    assert ("warm-suffix-cache" in codes(record)) is again
    assert record.valid is not again


@pytest.mark.parametrize(
    ("spec", "known", "said"),
    [
        (drafting("suffix"), True, [1, 2]),
        (drafting("suffix"), False, [2, 2]),
        (drafting("suffix", suffix_decoding_max_cached_requests=0), True, [1, 1]),
        (drafting("ngram"), True, [1, 1]),
    ],
)
def test_a_drafter_that_remembers_earlier_runs_is_not_verified(
    drafts: VllmLike, tmp_path: Path, spec: ServerSpec, *, known: bool, said: list[int]
) -> None:
    if not known:
        drafts.replies["/metrics"] = Reply(status=404)
    hidden = 0 if known else 1
    found = []
    for run in ("first", "second"):
        found.append(len(attach(drafts.url, spec, key=None).unverified) - hidden)
        measured(drafts, spec, tmp_path / run)
    assert found == said


LOOKED_UP = [
    chunk("a", (1,)),
    *[chunk("b", (i,)) for i in range(2, 22)],
    chunk("c", (22, 23, 24), finish="stop"),
]
"""Twenty steps of one token, then one with two drafts accepted."""


def answers_of(vllm: VllmLike, *, always: bool) -> None:
    """Drafts in every step, or in the last one alone."""
    drafted = 21 if always else 1
    told = accepted(
        acceptance_histogram=[drafted - 1, 0, 1], num_draft_tokens=2 * drafted,
        per_step_accepted=[0] * (drafted - 1) + [2], per_step_drafted=[2] * drafted,
    )  # fmt: skip
    vllm.answer = lambda _: [*LOOKED_UP, usage(24, told)]


@pytest.mark.parametrize(
    ("method", "always", "doubted"),
    [
        ("eagle3", True, False), ("eagle3", False, True), ("draft_model", False, True), ("mtp", False, True),
        ("suffix", False, False), ("suffix", True, True), ("ngram", True, True), ("ngram", False, False),
        ("something_new", True, False), ("something_new", False, False),
    ],
)  # fmt: skip
def test_answers_that_another_drafter_would_give_are_a_finding(
    drafts: VllmLike, tmp_path: Path, method: str, *, always: bool, doubted: bool
) -> None:
    answers_of(drafts, always=always)
    record = measured(drafts, drafting(method), tmp_path)
    assert ("not-as-said" in codes(record)) is doubted
    assert record.valid


def test_what_is_said_of_a_drafter_names_no_home(drafts: VllmLike, tmp_path: Path) -> None:
    record = measured(drafts, drafting("draft_model", model=f"{Path.home()}/small"), tmp_path)
    assert str(Path.home()) not in str(record.findings)


def test_an_engine_that_drafts_less_when_it_is_busy_is_not_doubted(drafts: VllmLike, tmp_path: Path) -> None:
    answers_of(drafts, always=False)
    spec = drafting("eagle3", num_speculative_tokens_per_batch_size=[[1, 8, 2]])
    assert "not-as-said" not in codes(measured(drafts, spec, tmp_path))


def test_a_lossy_drafter_is_no_measurement_unless_the_stack_declares_it(
    drafts: VllmLike, tmp_path: Path
) -> None:
    spec = drafting("eagle3", rejection_sample_method="fly")
    lossy = measured(drafts, spec, tmp_path / "lossy")
    declared = measured(drafts, spec, tmp_path / "declared", subject=("verification",))
    exact = measured(drafts, drafting("eagle3", rejection_sample_method="block"), tmp_path / "exact")

    assert (lossy.valid, declared.valid, exact.valid) == (False, True, True)
    assert lossy.identity.verification == declared.identity.verification == "fly"
    assert "verification" not in exact.identity.as_given()


def test_another_k_than_the_stack_says_is_found_in_the_answers(drafts: VllmLike, tmp_path: Path) -> None:
    drafts.replies["/metrics"] = Reply(status=404)
    assert not measured(drafts, drafting(k=3), tmp_path).valid


# Its key


@pytest.mark.parametrize(
    "key", [f"{SECRET}\n", f"{SECRET}\r\n", f" {SECRET}", f"{SECRET}\t", f"{SECRET}\x07", f"{SECRET}é",
            "\udcff" + SECRET, f"{SECRET}\nX-More: 1", f"{SECRET}\u2028", f"{SECRET}\x7f", " ", "\n"]
)  # fmt: skip
def test_a_key_that_cannot_be_sent_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(KEY, key)
    for ask in (key_of_environment, lambda: Http("http://127.0.0.1:1", key)):
        with pytest.raises(BadInput) as caught:
            ask()
        assert caught.value.code == "key-value"
        assert SECRET not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", [SECRET, "a b", "~!@#$%^&*()_+{}|:\"<>?-=[]\\;',./`"])
def test_any_other_key_is_sent_as_it_is(vllm: VllmLike, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(KEY, key)
    vllm.key, vllm.locked = key, ("/",)
    assert attach(vllm.url, plain(), key=key_of_environment()).version != "unverified"


FORMS = {
    "plain": str, "repr": repr, "bytes": lambda key: repr(key.encode()), "ascii": ascii,
    "json": lambda key: __import__("json").dumps(key), "url": lambda key: urllib.parse.quote(key, safe=""),
    "plus": urllib.parse.quote_plus, "html": lambda key: __import__("html").escape(key),
    "headers": lambda key: str([(b"authorization", f"Bearer {key}".encode())]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", [SECRET, "p@ss\"w'ord\\%41&<b>", "a long key with spaces"])
def test_no_form_of_a_key_is_shown(form: str, key: str) -> None:
    keep_secret(key)
    text = f"before {FORMS[form](key)} after"
    shown = without_keys(text)
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    for part in (key, FORMS[form](key).strip("'\"b")):
        assert part not in shown
    assert key not in str(without_secrets({"text": [text]}))


HOSTILE = f"the request was: Authorization: Bearer {SECRET}, {urllib.parse.quote(SECRET + '%')}"


def test_no_record_holds_a_key_that_the_server_sends_back(vllm: VllmLike, tmp_path: Path) -> None:
    vllm.key = SECRET
    vllm.replies["/version"] = as_json({"version": HOSTILE})
    for number, answer in enumerate([
        [chunk(HOSTILE, (1,)), chunk(" and", (2,), finish="stop"), usage(2)],
        [{"error": {"message": HOSTILE}}],
        [chunk("x" * 290 + SECRET, (1,), finish=HOSTILE), usage(1)],
    ]):  # fmt: skip
        vllm.answer = lambda _, answer=answer: answer
        measured(vllm, plain(), tmp_path / str(number), key=SECRET)
    vllm.replies[CHAT] = as_json({"error": {"message": "y" * 280 + HOSTILE}}, 400)
    measured(vllm, plain(), tmp_path / "400", key=SECRET)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or "sk-" not in path.read_text(encoding="utf-8")


RUN = """
import pytest

@pytest.mark.cells
def test_it(cell, bench):
    server = bench.slot.get(cell.spec)
    key = server.key
    print(key)
    raise RuntimeError(f"a fault of ours with {key!r}")
"""


@pytest.mark.usefixtures("own_signals")
def test_no_traceback_and_no_junit_holds_a_key(vllm: VllmLike, pytester: pytest.Pytester) -> None:
    vllm.key = SECRET
    pytester.makepyfile(test_run=RUN)
    (pytester.path / "tiny.toml").write_text(HEAD + "[drafters.none]\n")
    os.environ[KEY] = SECRET
    try:
        done = in_process.run(
            pytester, "--stack", "./tiny.toml", "-k", "chat and en", "--junitxml", "junit.xml",
            "--server-url", vllm.url, "--showlocals", "--workload", "instruct", "test_run.py",
        )  # fmt: skip
    finally:
        del os.environ[KEY]
    text = "\n".join([*done.outlines, *done.errlines])
    assert "a fault of ours" in text
    assert SECRET not in text
    assert SECRET not in (pytester.path / "junit.xml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "url", ["http://me:s3cretword@127.0.0.1:1", "http://127.0.0.1:1/?api_key=s3cretword"]
)
def test_a_url_with_a_key_in_it_is_refused_without_it(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput) as caught:
        options.server_url(url)
    assert caught.value.code == "not-a-url"
    assert main(["watch", url]) == 2
    assert "s3cretword" not in str(caught.value) + capsys.readouterr().err


# Its proxy

PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy", "no_proxy", "NO_PROXY")


@pytest.fixture(params=["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def proxied(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[VllmLike]:
    """A proxy that the environment names."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    with vllm_like() as proxy:
        monkeypatch.setenv(request.param, proxy.url)
        yield proxy


async def models_of(server: Http) -> str:
    async with server.openai(timeout_s=5) as client:
        return str((await client.models.list()).data[0].id)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "0.0.0.0"])  # noqa: S104
def test_a_server_on_this_machine_is_asked_without_a_proxy(
    proxied: VllmLike, vllm: VllmLike, name: str
) -> None:
    server = Http(vllm.url.replace("127.0.0.1", name))
    assert server.json("/version") == {"version": "0.32.0"}
    assert asyncio.run(models_of(server)) == "tiny"
    assert not proxied.requests


@pytest.mark.parametrize(
    "name", ["[::1]", "[::ffff:127.0.0.1]", "localhost.", "a.localhost", "127.8.9.1", "127.1"]
)
def test_other_names_of_this_machine_have_no_proxy(proxied: VllmLike, name: str) -> None:
    assert Http(f"http://{name}:8000").proxy is None


def test_a_server_elsewhere_is_asked_through_the_proxy_by_every_request(
    proxied: VllmLike, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Http("http://vllm.example:8000", SECRET)
    for reply in ("/version", "/v1/models"):
        proxied.replies[f"{server.url}{reply}"] = proxied.replies[reply]
    assert server.json("/version") == {"version": "0.32.0"}
    assert asyncio.run(models_of(server)) == "tiny"
    assert len(proxied.requests) == 2
    monkeypatch.setenv("no_proxy", "vllm.example")
    assert server.proxy is None


def test_a_proxy_of_another_kind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", "socks5://me:s3cretword@127.0.0.1:1")
    server = Http("http://vllm.example")
    for ask in (lambda: server.text("/health"), lambda: server.openai(timeout_s=1)):
        with pytest.raises(NoAnswer) as caught:
            ask()
        assert "s3cretword" not in str(caught.value)


def test_commands_that_ask_servers_on_this_machine_use_no_proxy_for_it() -> None:
    for known in ({}, {"no_proxy": "a.example"}, {"NO_PROXY": "a.example"}):
        added = without_proxy(known)
        assert added["no_proxy"] == added["NO_PROXY"]
        assert {"127.0.0.1", "localhost", "::1", *known.values()} <= set(added["no_proxy"].split(","))
