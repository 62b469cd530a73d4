from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from harness.config.stack import Sampling
from harness.engine.http import NO_KEY
from harness.engine.server import Server
from harness.errors import BadInput, ServerFailed
from harness.results.files import as_line, complete_lines, drop_torn_line, writing
from tests.component.vllm_like import as_json, vllm_like
from tests.factories.records import server_spec
from tests.factories.refusals import refused
from training import program
from training.answers import filter as answer_filter, generate
from training.answers.progress import Answers, errors_of
from training.errors import Stalled, TrainingFailed
from training.recipe import Recipe, temperatures_of
from training.servers import EarlySlot, Servers
from training.sources.dedup import Prompt
from training.stages import Context

FAKE_SPECULATORS = """
# A fake of `speculators regenerate-responses`: it answers by what the prompt says, and asks nobody.
import json, os, pathlib, sys, time
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
assert sys.argv[1] == "regenerate-responses" and sys.argv[-1] == "--resume", sys.argv
with open(os.environ["FAKE_CALLS"], "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + chr(10))
out = pathlib.Path(given["--outfile"])
seen = set()
if out.exists():
    for line in out.read_text().splitlines():
        seen.add(json.loads(line)["primary_id"])  # unlike the real one, it dies of a torn line
print("asking", len(seen), "seen", flush=True)
with out.open("a") as answers, out.with_name(out.stem + ".errors.jsonl").open("a") as errors:
    for line in open(given["--dataset"]):
        row = json.loads(line)
        if row["id"] in seen:
            continue
        verb = row["prompt"].split()[0]
        marker = out.with_name(verb + "-" + row["id"])
        first = not marker.exists()
        marker.touch()
        if verb == "hang" and first:
            answers.write('{"id": "torn')
            answers.flush()
            time.sleep(600)
        while verb == "meet" and len(list(out.parent.glob("meet-*"))) < 2:
            time.sleep(0.01)
        if verb == "crash":
            sys.exit("RuntimeError: the fake was told to crash")
        if verb in ("refuse", "down") or (verb == "flaky" and first):
            stays = verb == "refuse"
            error = "InvalidResponseError('HTTP 400')" if stays else "ClientConnectorError('refused')"
            errors.write(json.dumps({"id": row["id"], "metadata": {"error": error}}) + chr(10))
            errors.flush()
            continue
        metadata = {"finish_reason": "stop", "usage": {"completion_tokens": 3}}
        row = {"id": row["id"] + "_gen0", "primary_id": row["id"], "input_ids": [1, 2, 3, 4],
               "loss_mask": [0, 1, 1, 1], "text": "", "metadata": metadata}
        answers.write(json.dumps(row) + chr(10))
        answers.flush()
"""

PROSE = "The lighthouse keeper found a postcard under the door, read it twice and went up."
CHINESE = "燈塔管理員在門縫下發現一張明信片，讀了兩遍，然後慢慢走上樓梯。"


def recipe(**tables: Any) -> Recipe:
    """A recipe with these tables changed."""
    return Recipe.model_validate(
        {
            "schema": 1,
            "name": "tiny",
            "drafter": "tiny1",
            "target": {"model": "/models/tiny"},
            "prompts": {"count": 10, "sources": [{"kind": "self", "weight": 1}]},
            **tables,
        }
    )


def prompt(name: str, text: str = "say it", **changes: str) -> Prompt:
    values = {"language": "en", "source": "self", "workload": "instruct"}
    return Prompt(id=name, text=text, **(values | changes))


def server(**changes: Any) -> Server:
    values: dict[str, Any] = {
        "url": "http://127.0.0.1:1",
        "key": NO_KEY,
        "spec": server_spec(),
        "model": "/models/tiny",
        "target_path": "/models/tiny",
        "start_id": "one",
        "version": "0",
        "attached": False,
        "per_request": False,
        "log": None,
    }
    return Server(**(values | changes))


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake takes the place of speculators; the file tells how it was called."""
    script = tmp_path / "fake_speculators.py"
    script.write_text(FAKE_SPECULATORS, encoding="utf-8")
    file = tmp_path / "calls.jsonl"
    file.touch()
    monkeypatch.setenv("FAKE_CALLS", str(file))
    monkeypatch.setattr(program, "SPECULATORS", (sys.executable, str(script)))
    monkeypatch.setattr(program, "POLL_S", 0.05)
    return file


def ask(folder: Path, *texts: str) -> tuple[Path, Path]:
    """ask.jsonl with prompts p0, p1, ..., and where the answers go."""
    path = folder / "ask.jsonl"
    with writing(path) as file:
        file.writelines(as_line({"id": f"p{i}", "prompt": text}) for i, text in enumerate(texts))
    return path, folder / "raw.jsonl"


def regenerate(files: tuple[Path, Path], **changes: Any) -> list[str]:
    """What was said meanwhile."""
    said: list[str] = []
    asked = generate.Ask(temperature=changes.pop("temperature", 0.0), ask_file=files[0], raw_file=files[1])
    options: dict[str, Any] = {"say": said.append, "stalled": lambda: None}
    server_ = changes.pop("server", server())
    generate.regenerate(asked, server_, changes.pop("recipe", recipe()), **(options | changes))
    return said


def answered(raw: Path) -> list[str]:
    return [row["primary_id"] for row in complete_lines(raw)]


# Sharing out


def test_shares_hold_in_every_language_and_nobody_is_asked_twice() -> None:
    prompts = {f"{lang}{i}": prompt(f"{lang}{i}", language=lang) for lang in ("en", "zh") for i in range(10)}
    found = generate.split_by_temperature(prompts, {0.0: 0.7, 0.8: 0.3}, seed=1)
    assert sorted(i for ids in found.values() for i in ids) == sorted(prompts)
    assert Counter(i[:2] for i in found[0.0]) == {"en": 7, "zh": 7}
    assert found == generate.split_by_temperature(prompts, {0.0: 0.7, 0.8: 0.3}, seed=1)
    assert found != generate.split_by_temperature(prompts, {0.0: 0.7, 0.8: 0.3}, seed=2)


@given(st.integers(0, 60), st.lists(st.floats(0.01, 5), min_size=1, max_size=4), st.integers(0, 5))
def test_whatever_the_shares_each_prompt_is_asked_once(count: int, shares: list[float], seed: int) -> None:
    prompts = {str(i): prompt(str(i)) for i in range(count)}
    temperatures = temperatures_of({str(t / 10): share for t, share in enumerate(shares)})
    found = generate.split_by_temperature(prompts, temperatures, seed=seed)
    assert sorted(i for ids in found.values() for i in ids) == sorted(prompts)
    for temperature, share in temperatures.items():
        assert abs(len(found[temperature]) - share * count) <= 1


def test_temperatures_add_up_to_one_and_0_is_0_0() -> None:
    assert temperatures_of({"0": 1, "0.0": 1, "0.7": 2, "1.0": 0}) == {0.0: 0.5, 0.7: 0.5}


@pytest.mark.parametrize(
    ("shares", "word"),
    [
        ({"hot": 1.0}, "'hot'"),
        ({"-1": 1.0}, "'-1'"),
        ({"nan": 1.0}, "'nan'"),
        ({"inf": 1.0}, "'inf'"),
        ({"0": -1.0}, "-1.0"),
        ({"0": float("nan")}, "nan"),
        ({"0": 0.0}, ""),
        ({}, ""),
    ],
)
def test_temperatures_that_make_no_sense(shares: dict[str, float], word: str) -> None:
    with refused(BadInput, "training-option", word):
        temperatures_of(shares)


# Asking


def test_every_prompt_is_answered_and_sampling_is_spelt_out(tmp_path: Path, calls: Path) -> None:
    files = ask(tmp_path, "say", "say", "say")
    said = regenerate(files, temperature=0.7, recipe=recipe(responses={"max_tokens": 9, "concurrency": 5}))
    assert answered(files[1]) == ["p0", "p1", "p2"]
    words = json.loads(calls.read_text(encoding="utf-8"))
    options = dict(zip(words[1::2], words[2::2], strict=False))
    assert options["--endpoint"] == "http://127.0.0.1:1/v1/chat/completions"
    assert options["--model"] == "/models/tiny"
    assert (options["--max-tokens"], options["--concurrency"]) == ("9", "5")
    assert json.loads(options["--sampling-params"]) == {
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    assert said[-1].startswith("answers at temperature 0.7: 3 of 3, ")
    assert all(text.startswith("\ranswers at temperature 0.7: ") for text in said[:-1])
    assert "asking 0 seen" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_what_is_answered_is_not_asked_again(tmp_path: Path, calls: Path) -> None:
    files = ask(tmp_path, "say", "say")
    regenerate(files)
    before = files[1].read_bytes()
    regenerate(files)
    assert files[1].read_bytes() == before
    assert len(calls.read_text(encoding="utf-8").splitlines()) == 1


def test_a_torn_line_is_dropped_and_its_prompt_asked_again(tmp_path: Path, calls: Path) -> None:
    files = ask(tmp_path, "say", "say")
    regenerate(files)
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:-20])
    regenerate(files)
    assert files[1].read_bytes() == whole


def test_a_stall_ends_the_command_and_the_rest_is_asked_next_time(tmp_path: Path, calls: Path) -> None:
    files = ask(tmp_path, "say", "hang", "say")

    def stalled() -> str | None:
        return "nothing moves" if (tmp_path / "hang-p1").exists() else None

    with pytest.raises(Stalled) as caught:
        regenerate(files, stalled=stalled)
    assert str(caught.value) == "nothing moves"
    assert answered(files[1]) == ["p0"]
    regenerate(files)
    assert answered(files[1]) == ["p0", "p1", "p2"]


def test_ctrl_c_ends_the_command_and_keeps_the_answers(tmp_path: Path, calls: Path) -> None:
    files = ask(tmp_path, "say", "hang")

    def interrupted() -> str | None:
        if (tmp_path / "hang-p1").exists():
            raise KeyboardInterrupt
        return None

    with pytest.raises(KeyboardInterrupt):
        regenerate(files, stalled=interrupted)
    assert answered(files[1]) == ["p0"]
    assert str(tmp_path / "fake_speculators.py") not in running_commands()


def running_commands() -> set[str]:
    found: set[str] = set()
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            found |= set((folder / "cmdline").read_bytes().decode(errors="replace").split("\0"))
    return found


def test_a_command_that_fails_is_told_with_the_end_of_its_log(tmp_path: Path, calls: Path) -> None:
    files = ask(tmp_path, "say", "crash")
    with pytest.raises(TrainingFailed) as caught:
        regenerate(files)
    assert str(caught.value).startswith(
        "speculators regenerate-responses failed (exit code 1): RuntimeError: the fake was told to crash\n"
    )
    assert not isinstance(caught.value, Stalled)


def test_a_failure_that_may_pass_is_asked_once_more_and_one_that_stays_is_not(
    tmp_path: Path, calls: Path
) -> None:
    files = ask(tmp_path, "flaky", "refuse", "say")
    regenerate(files)
    assert sorted(answered(files[1])) == ["p0", "p2"]
    assert len(calls.read_text(encoding="utf-8").splitlines()) == 2
    regenerate(files)
    assert len(calls.read_text(encoding="utf-8").splitlines()) == 2


def test_a_dead_server_which_speculators_takes_for_an_end_is_a_stall(tmp_path: Path, calls: Path) -> None:
    files = ask(tmp_path, "say", "down", "down")
    with refused(Stalled, "training-stalled", "2 requests", "2 times", "ClientConnectorError('refused')"):
        regenerate(files)


def test_a_stall_seen_only_after_the_end_counts(tmp_path: Path, calls: Path) -> None:
    files = ask(tmp_path, "say", "down")
    with refused(Stalled, "training-stalled", "it died"):
        regenerate(files, stalled=lambda: "it died" if (tmp_path / "down-p1").exists() else None)
    assert len(calls.read_text(encoding="utf-8").splitlines()) == 1


def test_a_server_that_stalls_when_all_is_answered_did_its_work(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "POLL_S", 60)  # the end is seen first
    files = ask(tmp_path, "say")
    regenerate(files, stalled=lambda: "it died")
    assert answered(files[1]) == ["p0"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model": "tiny"}, "target.served_name = /models/tiny"),
        ({"target_path": None}, "its folder"),
        ({"key": "secret"}, " key"),
    ],
)
def test_a_server_that_speculators_cannot_use(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    with refused(ServerFailed, "training-server", word):
        regenerate(ask(tmp_path, "say"), server=server(**changes))


def test_progress_counts_whole_lines_and_each_prompt_once(tmp_path: Path) -> None:
    files = ask(tmp_path, "say", "say", "say")
    answers = Answers(*files)
    assert "0 of 3" in answers.progress()
    row = {"primary_id": "p0", "metadata": {"usage": {"completion_tokens": 7}}}
    files[1].write_text(as_line(row) * 2 + '{"primary_id": "p1"', encoding="utf-8")
    assert "1 of 3" in answers.progress()
    assert answers.waiting() == ["p1", "p2"]
    with files[1].open("a", encoding="utf-8") as file:
        file.write("}\nnot JSON\n[1]\n")
    assert "2 of 3" in answers.progress()
    assert answers.waiting() == ["p2"]


def tokenizer_folder(folder: Path) -> str:
    """A tokenizer of a few words."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = [unknown := "<unk>", end := "<end>", "user", "hello", "the", "answer"]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=unknown)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end).save_pretrained(folder)
    return str(folder)


def test_speculators_itself_asks_every_prompt_word_for_word(tmp_path: Path) -> None:
    pytest.importorskip("speculators")
    folder = tokenizer_folder(tmp_path / "model")
    texts = ["2024-01-01", '{"a": [1]}', "[1, 2]", "1e3", 'say "hi"\n\tand\u2028then', "你好，世界", "null"]
    choice = {"message": {"content": "the answer"}, "token_ids": [4, 5, 1], "finish_reason": "length"}
    reply = {"choices": [choice], "prompt_token_ids": [2, 3], "usage": {"completion_tokens": 3}}
    files = ask(tmp_path, *texts)
    settings = recipe(responses={"max_tokens": 7, "concurrency": 2})
    with vllm_like() as vllm:
        vllm.replies["/v1/chat/completions"] = as_json(reply)
        usable = server(url=vllm.url, model=folder, target_path=folder)
        files[1].write_text(as_line({"primary_id": "p3"}) + '{"primary_id": "p4"', encoding="utf-8")
        said = regenerate(files, server=usable, recipe=settings, temperature=0.5)
    bodies = [body for _, _, body in vllm.requests]
    assert sorted(body["messages"][0]["content"] for body in bodies) == sorted(t for t in texts if t != "1e3")
    asked = {
        **Sampling(temperature=0.5).model_dump(),
        "model": folder,
        "max_tokens": 7,
        "return_token_ids": True,
    }
    assert all({k: v for k, v in body.items() if k != "messages"} == asked for body in bodies)
    rows = list(complete_lines(files[1]))
    assert sorted(row["primary_id"] for row in rows) == [f"p{i}" for i in range(7)]
    assert (rows[-1]["input_ids"], rows[-1]["loss_mask"]) == ([2, 3, 4, 5, 1], [0, 0, 1, 1, 1])
    assert rows[-1]["metadata"]["finish_reason"] == "length"
    assert "7 of 7" in said[-1]


# The stage


def write_prompts(folder: Path, *prompts: Prompt) -> Path:
    path = folder / "prompts.jsonl"
    with writing(path) as file:
        for p in prompts:
            row = {"id": p.id, "language": p.language, "source": p.source, "workload": p.workload}
            file.write(as_line({**row, "text": p.text, "prompt": p.text}))
    return path


def stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, hang: int, temperatures: tuple[str, ...] = ("0.0",)
) -> tuple[dict[str, Any], int]:
    """The counts, and how often the server was started; `hang` prompts hang when they are first asked."""
    monkeypatch.setattr(generate, "decoder", lambda _: lambda ids: f"{PROSE} {ids}")
    prompts = [prompt(f"p{i}", "hang" if i < hang else "say") for i in range(4)]
    starts = 0

    def stalled() -> str | None:
        return "it hangs" if len(list(folder.glob("hang-*"))) == starts else None

    @contextlib.contextmanager
    def serve() -> Iterator[list[tuple[Server, generate.Stall]]]:
        nonlocal starts
        starts += 1
        yield [(server(), stalled)]

    settings = recipe(responses={"temperatures": dict.fromkeys(temperatures, 1.0), "min_tokens": 2})
    path = write_prompts(folder, *prompts)
    counts = generate.run(folder, path, settings, target="/t", serve=serve, say=lambda _: None)
    return counts, starts


def test_the_stage_survives_two_stalls(tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, starts = stage(tmp_path, monkeypatch, hang=2)
    assert (counts["kept"], counts["stalls"], starts) == (4, 2, 3)
    rows = list(complete_lines(tmp_path / "responses.jsonl"))
    assert {row["id"] for row in rows} == {"p0", "p1", "p2", "p3"}


def test_both_temperatures_have_their_answers(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, starts = stage(tmp_path, monkeypatch, hang=1, temperatures=("0.0", "0.7"))
    assert (counts["kept"], counts["stalls"], starts) == (4, 1, 2)
    rows = list(complete_lines(tmp_path / "responses.jsonl"))
    assert Counter(row["temperature"] for row in rows) == {0.0: 2, 0.7: 2}
    assert {row["id"] for row in rows} == {"p0", "p1", "p2", "p3"}


def test_a_stall_ends_what_is_asked_beside_it(tmp_path: Path, calls: Path) -> None:
    settings = recipe(responses={"servers": 2})
    prompts = {f"p{i}": prompt(f"p{i}", "hang") for i in range(2)}  # each for ten minutes
    asks = generate.write_asks(tmp_path, prompts, settings)

    def stalled() -> str | None:
        return "nothing moves" if len(list(tmp_path.glob("hang-*"))) == 2 else None

    with pytest.raises(Stalled) as caught:
        generate.ask_all(asks, [(server(), stalled), (server(), lambda: None)], settings, say=lambda _: None)
    assert str(caught.value) == "nothing moves"
    assert str(tmp_path / "fake_speculators.py") not in running_commands()


@pytest.mark.parametrize("servers", [1, 2])
def test_temperatures_and_servers_work_at_the_same_time(tmp_path: Path, calls: Path, servers: int) -> None:
    shares = {"0.0": 1.0} if servers == 2 else {"0.0": 0.5, "0.7": 0.5}
    settings = recipe(responses={"temperatures": shares, "servers": servers, "concurrency": 8})
    prompts = {f"p{i}": prompt(f"p{i}", "meet") for i in range(4)}
    asks = generate.write_asks(tmp_path, prompts, settings)
    urls = [f"http://127.0.0.1:{port}" for port in range(1, servers + 1)]

    generate.ask_all(asks, [(server(url=url), lambda: None) for url in urls], settings, say=lambda _: None)

    assert sorted(i for ask in asks for i in answered(ask.raw_file)) == sorted(prompts)
    words = [json.loads(line) for line in calls.read_text(encoding="utf-8").splitlines()]
    given = [dict(zip(call[1::2], call[2::2], strict=False)) for call in words]
    assert {one["--endpoint"] for one in given} == {f"{url}/v1/chat/completions" for url in urls}
    assert [one["--concurrency"] for one in given] == (["8", "8"] if servers == 2 else ["4", "4"])


def test_a_third_stall_ends_the_stage_and_the_next_run_goes_on(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refused(TrainingFailed, "training-stalled", "3 times", "it hangs", "2 of 4 prompts", "other 2"):
        stage(tmp_path, monkeypatch, hang=4)
    counts, starts = stage(tmp_path, monkeypatch, hang=0)
    assert (counts["kept"], starts) == (4, 1)


def test_a_finished_stage_starts_no_server(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = stage(tmp_path, monkeypatch, hang=0)
    before = (tmp_path / "responses.jsonl").read_bytes()
    second, starts = stage(tmp_path, monkeypatch, hang=0)
    assert starts == 0
    assert second == first
    assert (tmp_path / "responses.jsonl").read_bytes() == before


# Selecting


def raw(name: str, *, tokens: int = 12, **changes: Any) -> dict[str, Any]:
    """One row as speculators writes it, with three tokens of prompt."""
    values = {
        "id": f"{name}_gen0",
        "primary_id": name,
        "input_ids": [1, 1, 1, *range(10, 10 + tokens)],
        "loss_mask": [0, 0, 0, *[1] * tokens],
        "metadata": {"finish_reason": "stop"},
    }
    return values | changes


def select(
    folder: Path,
    rows: list[dict[str, Any]],
    *prompts: Prompt,
    says: dict[str, str] | None = None,
    **settings: Any,
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Counts, dropped.json, and the ids kept; `says` gives an answer's text by its first token."""
    path = folder / "raw-t0.jsonl"
    path.write_text("".join(as_line(row) for row in rows), encoding="utf-8")
    counts = answer_filter.select(
        folder,
        {p.id: p for p in prompts},
        [(0.0, path)],
        recipe(responses=settings),
        decode=lambda ids: (says or {}).get(str(ids[0]) if ids else "", PROSE if ids else ""),
    )
    report = json.loads((folder / "dropped.json").read_text(encoding="utf-8"))
    return counts, report, [row["id"] for row in complete_lines(folder / "responses.jsonl")]


def test_a_kept_row_tells_what_the_dataset_needs(tmp_path: Path) -> None:
    counts, report, kept = select(tmp_path, [raw("a")], prompt("a", "hello", source="template:x"))
    assert kept == ["a"]
    assert next(complete_lines(tmp_path / "responses.jsonl")) == {
        "id": "a",
        "language": "en",
        "source": "template:x",
        "workload": "instruct",
        "temperature": 0.0,
        "finish_reason": "stop",
        "prompt": "hello",
        "answer": PROSE,
        "input_ids": [1, 1, 1, *range(10, 22)],
        "loss_mask": [0, 0, 0, *[1] * 12],
    }
    assert (counts["kept_en"], counts["tokens"], counts["supervised_tokens"]) == (1, 15, 12)
    assert report == {"schema": 1, "dropped": {}, "kept": {"all": {"en": {"template:x": 1}}}, "errors": {}}


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (raw("a", tokens=7), "short"),
        (raw("a", tokens=0), "short"),
        (raw("a", input_ids=[1, 50, *range(20)], loss_mask=[0, *[1] * 21]), "short"),
        (raw("a", input_ids=[1, 51, *range(20)], loss_mask=[0, *[1] * 21]), "degenerate"),
        (raw("a", input_ids=[1, 2, 3]), "damaged"),
        (raw("a", input_ids=[], loss_mask=[]), "damaged"),
        (raw("a", loss_mask=[0, 0, 0, *[2] * 12]), "damaged"),
        (raw("a", loss_mask=[False, False, False, *[True] * 12]), "damaged"),
        (raw("a", input_ids=["x"] * 15), "damaged"),
        (raw("a", input_ids=[-1] * 15), "damaged"),
        (raw("a", input_ids=[2**40] * 15), "damaged"),
        (raw("a", metadata=None), "damaged"),
        (raw("a", metadata={"finish_reason": "abort"}), "error"),
        (raw("a", metadata={"finish_reason": None}), "error"),
        (raw("stranger"), "unknown"),
        (raw("b"), "duplicate"),
    ],
)
def test_rows_that_are_dropped(tmp_path: Path, row: dict[str, Any], rule: str) -> None:
    says = {"50": " \n ", "51": "and so on " * 9}
    counts, report, kept = select(tmp_path, [raw("b"), row], prompt("a"), prompt("b"), says=says)
    assert kept == ["b"]
    assert counts[f"dropped_{rule}"] == 1
    assert sum(n for name, n in counts.items() if name.startswith("dropped_")) == 1
    language = answer_filter.NOWHERE if rule == "unknown" else "en"
    assert list(report["dropped"][rule]) == [language]


def test_a_duplicate_with_another_answer_loses_to_the_first(tmp_path: Path) -> None:
    select(tmp_path, [raw("a", tokens=20), raw("a", tokens=30)], prompt("a"))
    (row,) = complete_lines(tmp_path / "responses.jsonl")
    assert sum(row["loss_mask"]) == 20


def test_a_prompt_answered_at_two_temperatures_counts_once(tmp_path: Path) -> None:
    raws = []
    for temperature in (0.0, 0.7):
        path = tmp_path / f"raw-t{temperature:g}.jsonl"
        path.write_text(as_line(raw("a")), encoding="utf-8")
        raws.append((temperature, path))
    counts = answer_filter.select(tmp_path, {"a": prompt("a")}, raws, recipe(), decode=lambda _: PROSE)
    assert (counts["kept"], counts["dropped_duplicate"]) == (1, 1)
    assert next(complete_lines(tmp_path / "responses.jsonl"))["temperature"] == 0.0


def test_cut_off_and_looping_answers_are_counted_where_they_are_kept(tmp_path: Path) -> None:
    rows = [raw("a", metadata={"finish_reason": "length"}), raw("b")]
    says = {"10": "and so on " * 9}
    prompts = (prompt("a"), prompt("b"))
    counts, report, kept = select(tmp_path, rows, *prompts, says=says, drop_degenerate=False)
    assert kept == ["a", "b"]
    assert counts["cut_off_kept"] == 1
    assert report["kept"] == {
        "all": {"en": {"self": 2}},
        "cut_off": {"en": {"self": 1}},
        "degenerate": {"en": {"self": 2}},
    }
    counts, report, kept = select(tmp_path, rows, *prompts, drop_cut_off=True)
    assert (kept, counts["dropped_cut_off"]) == (["b"], 1)


@pytest.mark.parametrize(
    ("language", "workload", "answer", "kept"),
    [
        ("zh", "instruct", CHINESE, True),
        ("zh", "instruct", PROSE, False),
        ("zh", "instruct", "好", False),
        ("zh", "code", PROSE, True),
        ("en", "instruct", CHINESE, True),
    ],
)
def test_an_answer_to_a_chinese_prompt_is_chinese(
    tmp_path: Path, language: str, workload: str, answer: str, *, kept: bool
) -> None:
    rows = [raw("a"), raw("b", input_ids=[1, 1, 1, *range(40, 52)])]
    asked = (prompt("a", language=language, workload=workload), prompt("b"))
    counts, _, ids = select(tmp_path, rows, *asked, says={"10": answer}, keep_language=True)
    assert ("a" in ids) is kept
    assert counts["dropped_other_language"] == int(not kept)
    _, _, ids = select(tmp_path, rows, *asked, says={"10": answer})
    assert "a" in ids


def test_errors_count_once_and_only_without_an_answer(tmp_path: Path) -> None:
    errors = [{"id": i, "metadata": {"error": f"ValueError({i})"}} for i in ("a", "b", "b", "c")]
    file = errors_of(tmp_path / "raw-t0.jsonl")
    file.write_text("".join(as_line(row) for row in errors), encoding="utf-8")
    prompts = (prompt("a"), prompt("b", language="zh", source="x"), prompt("c"))
    counts, report, kept = select(tmp_path, [raw("a")], *prompts)
    assert (kept, counts["dropped_error"]) == (["a"], 2)
    assert report["dropped"]["error"] == {"en": {"self": 1}, "zh": {"x": 1}}
    assert report["errors"] == {"ValueError(b)": 1, "ValueError(c)": 1}


def test_nothing_left_is_told_with_the_counts(tmp_path: Path) -> None:
    file = errors_of(tmp_path / "raw-t0.jsonl")
    file.write_text(as_line({"id": "b", "metadata": {"error": "HTTP 401"}}), encoding="utf-8")
    with refused(TrainingFailed, "no-answers-kept", "2 prompts", "error 1, short 1", "HTTP 401"):
        select(tmp_path, [raw("a", tokens=2)], prompt("a"), prompt("b"))


ROWS = st.lists(
    st.builds(
        raw,
        st.sampled_from("abcdz"),
        tokens=st.integers(0, 20),
        metadata=st.sampled_from([{"finish_reason": "stop"}, {"finish_reason": "length"}, None]),
    ),
    max_size=12,
)


@given(rows=ROWS, drop=st.booleans())
def test_every_row_is_kept_or_dropped_and_none_counts_twice(
    tmp_path_factory: pytest.TempPathFactory, *, rows: list[dict[str, Any]], drop: bool
) -> None:
    folder = tmp_path_factory.mktemp("select")
    prompts = [prompt(name) for name in "abcdY"]
    rows = [*rows, raw("Y")]
    counts, report, kept = select(folder, rows, *prompts, drop_cut_off=drop)
    assert len(kept) == len(set(kept)) == counts["kept"]
    dropped = sum(n for name, n in counts.items() if name.startswith("dropped_"))
    assert counts["kept"] + dropped == len(rows)
    reported = [n for rules in report["dropped"].values() for by in rules.values() for n in by.values()]
    assert sum(reported) == dropped


def test_the_answer_is_the_tokens_that_the_target_wrote(tmp_path: Path) -> None:
    path = tmp_path / "raw-t0.jsonl"
    ids = [2, 3, *[4, 5] * 5, 1]
    path.write_text(as_line(raw("a", input_ids=ids, loss_mask=[0, 0, *[1] * 11])), encoding="utf-8")
    decode = answer_filter.decoder(tokenizer_folder(tmp_path / "model"))
    answer_filter.select(
        tmp_path,
        {"a": prompt("a")},
        [(0.0, path)],
        recipe(responses={"drop_degenerate": False}),
        decode=decode,
    )
    assert next(complete_lines(tmp_path / "responses.jsonl"))["answer"] == "the answer " * 4 + "the answer"


def test_a_target_without_a_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with refused(BadInput, "target-cannot-write"):
        answer_filter.decoder(str(tmp_path))


# Files


@given(st.binary(max_size=200))
def test_mending_drops_the_torn_line_alone(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("mend") / "raw.jsonl"
    path.write_bytes(content)
    assert drop_torn_line(path) is bool(content and not content.endswith(b"\n"))
    assert path.read_bytes() == content[: content.rfind(b"\n") + 1]
    assert not drop_torn_line(path)


def test_mending_a_last_line_longer_than_a_read(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    path.write_bytes(b"{}\n" + b"x" * 200_000)
    assert drop_torn_line(path)
    assert path.read_bytes() == b"{}\n"


@pytest.mark.parametrize(
    ("content", "place", "code"),
    [
        ("", "", "damaged-file"),
        ("{}\n{", "line 1, column id", "damaged-rows"),
        ('{"id": "a", "text": "t"}', "line 1, column source", "damaged-rows"),
        ("\n[]", "line 2", "damaged-file"),
        ("{", "line 1", "damaged-file"),
        ('{"id": 1, "language": "en", "source": "s", "text": "t"}', "line 1, column id", "damaged-rows"),
        ('{"id": "a", "language": "en", "source": "s", "text": " "}', "line 1, column text", "damaged-rows"),
        ('{"id": "a", "language": "en", "source": "s", "text": "\\ud800"}', "line 1", "damaged-file"),
        ('{"id": "a", "language": "en", "source": "s", "text": "t"}\n' * 2, "line 2", "damaged-file"),
    ],
)
def test_a_prompts_file_that_cannot_be_used(tmp_path: Path, content: str, place: str, code: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        answer_filter.read_prompts(path)
    assert caught.value.code == code
    assert str(caught.value).startswith(f"{path}, {place}" if place else str(path))


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_text("before", encoding="utf-8")
    with contextlib.suppress(KeyboardInterrupt), writing(path) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]


class Held:
    """As much of a slot as `pipeline` uses."""

    def __init__(self, held: Server) -> None:
        self.held, self.asked, self.closed = held, list[object](), False

    def get(self, spec: object) -> Server:
        self.asked.append(spec)
        return self.held

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("stalls", [False, True])
def test_several_servers_are_of_one_kind_and_a_stall_ends_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, stalls: bool
) -> None:
    pytest.importorskip("speculators")
    from training import pipeline  # noqa: PLC0415 - it imports what the extra installs

    spec = server_spec()
    monkeypatch.setattr(pipeline, "_target", lambda _: (spec, "/t"))
    with vllm_like() as one, vllm_like() as two:
        slots: list[Any] = [Held(server(url=vllm.url, log=tmp_path / "log")) for vllm in (one, two)]
        servers = Servers(answering=tuple(slots), hidden=EarlySlot(lambda _: one.none, lambda _: None))
        context = Context(recipe=recipe(), work=tmp_path, servers=servers, say=lambda _: None, alone=True)
        ends = pytest.raises(Stalled) if stalls else contextlib.nullcontext()
        with ends, pipeline._serve(context) as served:
            assert [of.url for of, _ in served] == [one.url, two.url]
            assert [stalled() for _, stalled in served] == [None, None]
            if stalls:
                raise Stalled("it hangs")
    assert [slot.asked for slot in slots] == [[spec], [spec]]
    assert [slot.closed for slot in slots] == [stalls, stalls]
