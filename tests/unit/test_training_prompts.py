from __future__ import annotations

import asyncio
import json
import math
import random
import re
import sys
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import openai
import pytest
from hypothesis import given, settings, strategies as st

from harness.config.prompts import load_prompts
from harness.engine.http import Http
from harness.errors import BadInput, ServerFailed
from harness.results.files import json_lines
from harness.stats.text_quality import in_language
from tests.factories.refusals import refused
from training.answers.filter import read_prompts
from training.errors import TrainingFailed
from training.recipe import Recipe, Source
from training.sources import datasets, gather
from training.sources.decontamination import BENCHMARK, BenchmarkPrompts, id_of, normalised
from training.sources.dedup import FATES
from training.sources.gather import collect, run, together
from training.sources.magpie import Magpie, Opening, opening, usable
from training.sources.templates import SHIPPED, Templates

FILES = sorted(SHIPPED.glob("*.toml"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
ENGLISH = [p.text for p in load_prompts(BENCHMARK, "instruct", "en", at_most=1000)]
CHINESE = [p.text for p in load_prompts(BENCHMARK, "instruct", "zh", at_most=1000)]
SHIPPED_BENCHMARK = BenchmarkPrompts.shipped(words=8)
DRAWN = 400


def recipe_of(*sources: dict[str, Any], count: int = 20, **more: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "schema": 1,
            "name": "test",
            "drafter": "test",
            "target": {"model": "embedded:smollm2-135m-instruct"},
            "prompts": {"count": count, "sources": [{"weight": 1, **s} for s in sources], **more},
            "responses": {"concurrency": 64},
        }
    )


def nobody(source: Source, first: int, number: int) -> list[str | None]:
    raise AssertionError("the target was asked")


def quiet(text: str) -> None:
    pass


def templates_of(folder: Path, text: str) -> Templates:
    path = folder / "some.toml"
    path.write_text(text, encoding="utf-8")
    return Templates(path)


# What counts as the same


@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What's new?", "whats   NEW"),
        ("Ｗｈａｔ is it…", "what is it"),
        ("你好嗎？我很好。", "你好嗎 我很好"),
        ("用 Python 寫，謝謝", "用Python寫謝謝"),
    ],
)
def test_case_width_punctuation_and_space_do_not_count(one: str, other: str) -> None:
    assert id_of(one) == id_of(other)


def test_other_words_are_another_prompt() -> None:
    assert id_of("What is a dog?") != id_of("What is a god?")
    assert normalised("in finite") != normalised("infinite")


@given(text=st.sampled_from(ENGLISH + CHINESE), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_a_benchmark_prompt_is_found_whatever_its_case_and_punctuation(text: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - hypothesis chose the seed
    changed = "".join(
        chance.choice([" ", "  ", "!", " - "]) if c in " ,.?!，。？！" else c.swapcase() for c in text
    )

    assert SHIPPED_BENCHMARK.match(changed) == "same"


@given(text=st.sampled_from([t for t in ENGLISH if len(normalised(t).split()) >= 8]), data=st.data())
@settings(deadline=None)
def test_eight_words_of_a_benchmark_prompt_are_found_in_a_longer_text(text: str, data: st.DataObject) -> None:
    words = normalised(text).split()
    start = data.draw(st.integers(0, len(words) - 8))
    planted = " ".join(words[start : start + 8])

    assert SHIPPED_BENCHMARK.match(f"By the way, {planted.upper()}; what would you say?") == "overlap"


@given(text=st.sampled_from(CHINESE), data=st.data())
@settings(deadline=None)
def test_twelve_characters_of_a_chinese_benchmark_prompt_are_found(text: str, data: st.DataObject) -> None:
    plain = normalised(text).replace(" ", "")
    runs = [plain[i : i + 12] for i in range(len(plain) - 11) if not any(map(str.isascii, plain[i : i + 12]))]
    if runs:
        assert SHIPPED_BENCHMARK.match(f"請問{data.draw(st.sampled_from(runs))}嗎？") == "overlap"


def test_fewer_words_in_common_are_no_overlap() -> None:
    benchmark = BenchmarkPrompts(["one two three four five six seven eight nine"], words=8)

    assert benchmark.match("zero one two three four five six seven zero") is None
    assert benchmark.match("zero two three four five six seven eight nine zero") == "overlap"


def test_a_short_benchmark_prompt_is_found_inside_another() -> None:
    benchmark = BenchmarkPrompts(["Why do owls hoot?", "Thanks!"], words=8)

    assert benchmark.match("Tell me, why do owls hoot at night?") == "overlap"
    assert benchmark.match("Thanks! And why do cats purr?") is None


def test_a_quotation_in_english_does_not_make_a_chinese_overlap() -> None:
    benchmark = BenchmarkPrompts(["請解釋 def average_ratings(reviews): 這一行"], words=8)

    assert benchmark.match("這裡有 def average_ratings(reviews): 是什麼") is None


def test_the_prompts_that_confirm_a_loss_are_none_of_those_that_saw_it() -> None:
    """The gate profile asks the first 120 prompts of a file, and confirms on the others."""
    first = BenchmarkPrompts([*ENGLISH[:120], *CHINESE[:120]], words=8)

    assert len(ENGLISH[120:]) == len(CHINESE[120:]) == 120
    assert [text for text in (*ENGLISH[120:], *CHINESE[120:]) if first.match(text)] == []


def test_without_the_benchmark_nothing_is_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.sources.decontamination.BENCHMARK", tmp_path)

    with refused(BadInput, "too-few-prompts", str(tmp_path)):
        BenchmarkPrompts.shipped(words=8)


# Templates


def test_the_shipped_files_are_these() -> None:
    assert {path.stem for path in FILES} == {"everyday-en", "everyday-zh", "smoke-en"}


@every_file
def test_every_template_expands(path: Path) -> None:
    templates = Templates(path)
    chance = random.Random(0)  # noqa: S311 - no secret
    for _, text in templates.all:
        for _ in range(3):
            expanded = templates.expand(text, chance)
            assert "{" not in expanded
            assert "}" not in expanded
            assert "  " not in expanded
            assert expanded == expanded.strip()


@every_file
def test_no_two_words_and_no_two_templates_are_equal(path: Path) -> None:
    templates = Templates(path)
    for name, words in templates.words.items():
        assert len({normalised(word) for word in words}) == len(words), name
    texts = [text for _, text in templates.all]
    assert len(set(texts)) == len(texts)


@every_file
def test_every_list_of_words_is_used(path: Path) -> None:
    templates = Templates(path)
    everything = [text for _, text in templates.all] + [
        w for words in templates.words.values() for w in words
    ]
    for name in templates.words:
        assert any(f"{{{name}{n}}}" in text for text in everything for n in ("", "2", "3")), name


@pytest.mark.parametrize(
    ("name", "templates", "kinds", "words", "prompts"),
    [
        ("everyday-en", 250, 25, 1500, 60_000),
        ("everyday-zh", 100, 20, 500, 8_000),
        ("smoke-en", 10, 5, 15, 60),
    ],
)
def test_the_shipped_files_are_large_enough(
    name: str, templates: int, kinds: int, words: int, prompts: int
) -> None:
    file = Templates(SHIPPED / f"{name}.toml")

    assert len(file.all) >= templates
    assert len({kind for kind, _ in file.all}) >= kinds
    assert sum(map(len, file.words.values())) >= words
    slots = [
        Counter(name for name, _ in set(re.findall(r"{([a-z_]+)([0-9]?)}", text))) for _, text in file.all
    ]
    plain = [math.prod(math.perm(len(file.words[name]), n) for name, n in own.items()) for own in slots]
    assert sum(plain) >= prompts  # words that hold slots themselves count once


@every_file
def test_shipped_templates_stay_away_from_the_benchmark(path: Path) -> None:
    for expansion, _ in zip(Templates(path).draw(7), range(DRAWN), strict=False):
        assert SHIPPED_BENCHMARK.match(expansion.text) is None, expansion


def test_chinese_templates_are_chinese_and_many_ask_for_chinese() -> None:
    templates = Templates(SHIPPED / "everyday-zh.toml")
    drawn = [e.text for e, _ in zip(templates.draw(7), range(DRAWN), strict=False)]

    assert all(in_language(text, "zh") is not False for text in drawn)
    assert sum("中文" in text for text in drawn) > DRAWN / 3


def test_english_templates_are_not_one_kind_over_and_over() -> None:
    templates = Templates(SHIPPED / "everyday-en.toml")
    drawn = [e for e, _ in zip(templates.draw(7), range(DRAWN), strict=False)]
    lengths = sorted(len(e.text) for e in drawn)

    assert len({e.kind for e in drawn}) >= 25
    assert len({" ".join(e.text.split()[:3]) for e in drawn}) > DRAWN / 3
    assert lengths[DRAWN // 10] < 45
    assert lengths[-DRAWN // 10] > 110


def test_drawing_gives_every_expansion_once(tmp_path: Path) -> None:
    templates = templates_of(
        tmp_path,
        '[templates]\na = ["{x} and {x2}", "only {y}"]\n[words]\nx = ["1", "2", "3"]\n'
        'y = ["{x} now", "no"]\n',
    )

    drawn = [e.text for e in templates.draw(1)]

    assert len(drawn) == 6 + 4
    assert set(drawn) == {f"{a} and {b}" for a in "123" for b in "123" if a != b} | {
        "only 1 now",
        "only 2 now",
        "only 3 now",
        "only no",
    }


def test_a_slot_that_comes_twice_is_the_same_word(tmp_path: Path) -> None:
    templates = templates_of(
        tmp_path, '[templates]\na = ["{x} sees {x2}, and {x} runs."]\n[words]\nx = ["Ann", "Bob"]\n'
    )

    assert {e.text for e in templates.draw(1)} == {
        "Ann sees Bob, and Ann runs.",
        "Bob sees Ann, and Bob runs.",
    }


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    templates = Templates(SHIPPED / "smoke-en.toml")

    assert list(templates.draw(1)) == list(templates.draw(1))
    assert list(templates.draw(1)) != list(templates.draw(2))


def test_a_word_at_the_start_of_a_sentence_gets_a_capital(tmp_path: Path) -> None:
    templates = templates_of(
        tmp_path,
        "[templates]\na = ['{x}? I saw {x}. {y} here.']\n[words]\nx = ['an owl']\ny = ['{x} is']\n",
    )

    assert [e.text for e in templates.draw(1)] == ["An owl? I saw an owl. An owl is here."]


def test_some_are_typed_in_haste(tmp_path: Path) -> None:
    templates = templates_of(
        tmp_path, "plain = 1\n[templates]\na = ['Who was {x}?']\n[words]\nx = ['Bach']\n"
    )

    assert [e.text for e in templates.draw(1)] == ["who was bach"]


def test_a_heavier_kind_comes_more_often(tmp_path: Path) -> None:
    words = ", ".join(f'"{n}"' for n in range(300))
    templates = templates_of(
        tmp_path, f"[templates]\na = ['a {{x}}']\nb = ['b {{x}}']\n[weights]\na = 9\n[words]\nx = [{words}]\n"
    )

    kinds = [e.kind for e, _ in zip(templates.draw(1), range(200), strict=False)]

    assert kinds.count("a") > 3 * kinds.count("b")


def test_a_word_with_many_expansions_is_not_more_likely(tmp_path: Path) -> None:
    numbers = ", ".join(f'"{n}"' for n in range(100))
    text = f"[templates]\na = ['{{x}} {{y}}']\n[words]\nx = ['one', 'many {{y}}']\ny = [{numbers}]\n"

    drawn = [e.text for e, _ in zip(templates_of(tmp_path, text).draw(1), range(80), strict=False)]

    assert sum(t.startswith("One") for t in drawn) > 20


@pytest.mark.parametrize(
    ("text", "code", "name"),
    [
        ("templates = 3", "wrong-field", "key templates"),
        ("[templates]\na = ['x']\n[more]\n", "wrong-field", "key more"),
        ("[templates", "damaged-file", "TOML"),
        ("[templates]\na = ['Hello {name}']\n", "prompt-template", "templates.a: {name}"),
        ("[templates]\na = ['Hello {Name}']\n", "prompt-template", "{slot}"),
        ("[templates]\na = ['{x}']\n[words]\nx = ['{y}']\ny = ['{x}']\n", "prompt-template", "words."),
        ("[templates]\na = ['{x} {x2}']\n[words]\nx = ['one']\n", "prompt-template", "templates.a: {x}"),
        ("[templates]\na = ['b']\n[weights]\nc = 1\n", "prompt-template", "weights.c"),
        ("[templates]\na = ['b']\n[weights]\na = 0\n", "prompt-template", "weights.a"),
        (
            "[templates]\na = ['{x}']\n[words]\nx = ['{y} {y2}']\ny = ['{z}', 'b']\nz = ['%s', 'c']"
            % ("z" * 50_000),
            "prompt-template",
            "words.x",
        ),
    ],
)
def test_a_wrong_template_file_is_named(tmp_path: Path, text: str, code: str, name: str) -> None:
    with refused(BadInput, code, "some.toml", name):
        templates_of(tmp_path, text)


# Gathering


def test_templates_alone(tmp_path: Path) -> None:
    recipe = recipe_of({"kind": "template", "path": "smoke-en.toml"}, count=60)

    counts = run(tmp_path, recipe, ask=nobody, say=quiet)

    rows = [line.data for line in json_lines(tmp_path / "prompts.jsonl")]
    assert counts["prompts"] == len(rows) == 60
    assert all(row["prompt"] == row["text"] and row["id"] == id_of(row["text"]) for row in rows)
    assert {(row["source"], row["language"], row["workload"]) for row in rows} == {
        ("template:smoke-en", "en", "instruct")
    }
    assert list(read_prompts(tmp_path / "prompts.jsonl")) == [row["id"] for row in rows]


def test_the_same_recipe_gives_the_same_prompts(tmp_path: Path) -> None:
    source = {"kind": "template", "path": "everyday-en.toml"}

    def texts(seed: int) -> list[str]:
        recipe = recipe_of(source, seed=seed)
        return [p.text for p in collect(recipe, folder=tmp_path, ask=nobody, say=quiet)[0]]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_too_few_templates_are_said_with_their_number(tmp_path: Path) -> None:
    recipe = recipe_of({"kind": "template", "path": "smoke-en.toml"}, count=91)

    with refused(BadInput, "too-few-prompts", "smoke-en.toml", "90", "91"):
        run(tmp_path, recipe, ask=nobody, say=quiet)
    assert not (tmp_path / "prompts.jsonl").exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    recipe = recipe_of({"kind": "template", "path": "nothing.toml"})

    with refused(BadInput, "too-few-prompts", "nothing.toml", "smoke-en.toml"):
        run(tmp_path, recipe, ask=nobody, say=quiet)
    with refused(BadInput, "too-few-prompts", "nothing.toml"):
        gather.inputs(recipe)


def own_file(folder: Path, *rows: dict[str, Any]) -> dict[str, Any]:
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"kind": "jsonl", "path": str(path)}


def test_every_fate_is_counted(tmp_path: Path) -> None:
    told: list[str] = []
    source = own_file(
        tmp_path,
        {"text": "How do owls sleep?"},
        {"prompt": "how do OWLS sleep"},
        {"messages": [{"role": "system", "content": "Hi."}, {"role": "user", "content": "Why is ice cold?"}]},
        {"messages": [{"role": "assistant", "content": "Nobody asked."}]},
        {"text": "?!"},
        {"text": "x" * 50},
        {"text": "為什麼冰是冷的？請用中文回答。"},
        {"text": " ".join(ENGLISH[0].split()[:9])},
    )

    found, counts = collect(
        recipe_of(source, max_characters=48), folder=tmp_path, ask=nobody, say=told.append
    )

    assert {p.text for p in found} == {"How do owls sleep?", "Why is ice cold?"}
    fates = counts["by_source"]["jsonl:own"]
    assert fates["wanted"] == 20
    assert fates["made"] == 8 == sum(fates[fate] for fate in FATES)
    assert [fates[fate] for fate in FATES] == [2, 1, 1, 1, 1, 2]
    assert any("other language" in text for text in told)
    assert any(f"jsonl:own gave {len(found)} of 20 prompts" in text for text in told)


def test_a_benchmark_prompt_is_never_kept(tmp_path: Path) -> None:
    source = own_file(tmp_path, *({"text": text.upper()} for text in ENGLISH), {"text": "Why do owls hoot?"})

    found, counts = collect(recipe_of(source), folder=tmp_path, ask=nobody, say=quiet)

    assert [p.text for p in found] == ["Why do owls hoot?"]
    assert counts["by_source"]["jsonl:own"]["overlap"] == len(ENGLISH)


def test_one_source_does_not_fill_anothers_place(tmp_path: Path) -> None:
    own = own_file(tmp_path, {"text": "Why do owls hoot?"})
    template = {"kind": "template", "path": "smoke-en.toml", "weight": 3}

    _, counts = collect(recipe_of(own, template), folder=tmp_path, ask=nobody, say=quiet)

    assert counts["prompts"] == 16
    assert counts["by_source"]["template:smoke-en"]["kept"] == 15
    assert counts["by_source"]["jsonl:own"]["wanted"] == 5


def test_shares_add_up_and_names_differ(tmp_path: Path) -> None:
    own = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows = [{"text": f"What is {name}, number {n}, and who asked for it first?"} for n in range(20)]
        own.append(own_file(tmp_path / name, *rows))
    source = {"kind": "template", "path": "everyday-en.toml"}

    _, counts = collect(recipe_of(own[0], source, own[1]), folder=tmp_path, ask=nobody, say=quiet)

    assert [s["wanted"] for s in counts["by_source"].values()] == [7, 6, 7]
    assert counts["prompts"] == 20


def test_gathering_again_from_what_was_gathered_changes_nothing(tmp_path: Path) -> None:
    first, _ = collect(
        recipe_of({"kind": "template", "path": "everyday-en.toml"}), folder=tmp_path, ask=nobody, say=quiet
    )
    twice = own_file(tmp_path, *({"text": p.text} for p in first * 2))

    second, counts = collect(recipe_of(twice, count=40), folder=tmp_path, ask=nobody, say=quiet)

    assert {p.id for p in second} == {p.id for p in first}
    assert counts["by_source"]["jsonl:own"]["duplicates"] == len(first)


def test_no_prompt_at_all_is_an_error(tmp_path: Path) -> None:
    with refused(TrainingFailed, "too-few-prompts"):
        collect(recipe_of(own_file(tmp_path, {"text": "?"})), folder=tmp_path, ask=nobody, say=quiet)


def test_what_decides_the_prompts_is_among_the_inputs(tmp_path: Path) -> None:
    source = own_file(tmp_path, {"text": "Why?"})
    before = gather.inputs(recipe_of(source))
    own_file(tmp_path, {"text": "Who?"})

    assert gather.inputs(recipe_of(source)) != before
    assert "target" not in before
    assert "target" in gather.inputs(recipe_of({"kind": "self"}))


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"question": "Why?", "a": 1}, ["'text'", "'prompt'", "'messages'", "a, question"]),
        ({"text": 3}, ["'text'", "number"]),
        ({"messages": ["Why?"]}, ["'messages'", "list of text"]),
    ],
)
def test_a_wrong_line_of_a_file_is_named(tmp_path: Path, row: dict[str, Any], names: list[str]) -> None:
    source = own_file(tmp_path, {"text": "Why do owls hoot?"}, row)

    with refused(BadInput, "source-column", "line 2", *names):
        collect(recipe_of(source), folder=tmp_path, ask=nobody, say=quiet)


# The hub


def hub_of(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]] | Exception) -> None:
    class Rows:
        def shuffle(self, **_: Any) -> Iterator[dict[str, Any]]:
            assert isinstance(rows, list)
            return iter(rows)

    def load_dataset(name: str, *, split: str, streaming: bool) -> Rows:
        assert streaming
        if isinstance(rows, Exception):
            raise rows
        return Rows()

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))


HUB = {"kind": "hub", "dataset": "some/set", "field": "question"}


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_of(monkeypatch, [{"question": "Why do owls hoot?"}, {"question": "Who was Bach?"}])

    found, _ = collect(recipe_of(HUB, count=1), folder=tmp_path, ask=nobody, say=quiet)

    assert [(p.source, p.text) for p in found] == [("hub:some/set", "Why do owls hoot?")]


def test_a_missing_column_of_the_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_of(monkeypatch, [{"prompt": "Why do owls hoot?"}])

    with refused(BadInput, "source-column", "some/set", "row 1", "'question'", "prompt"):
        collect(recipe_of(HUB), folder=tmp_path, ask=nobody, say=quiet)


def test_a_hub_out_of_reach_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_of(monkeypatch, ConnectionError("no route to host\nand a long trace"))

    with refused(BadInput, "too-few-prompts", "some/set", "'train'", "(ConnectionError: no route to host)"):
        collect(recipe_of(HUB), folder=tmp_path, ask=nobody, say=quiet)


def test_a_human_turn_is_a_users() -> None:
    turns = [{"from": "system", "value": "x"}, {"from": "human", "value": "Why?"}]

    assert datasets._prompt_in(turns, "here") == "Why?"


# Written by the target


class Target:
    """Writes `every`-th text twice, and nothing of use now and then."""

    def __init__(self, *, fails_at: int | None = None, texts: int = 10_000) -> None:
        self.asked: list[int] = []
        self._fails_at, self._texts = fails_at, texts

    def __call__(self, _: Source, first: int, number: int) -> list[str | None]:
        if self._fails_at is not None and first >= self._fails_at:
            raise ServerFailed("gone")
        self.asked += range(first, first + number)
        return [
            None if n % 5 == 0 else f"What is number {n % self._texts}?" for n in range(first, first + number)
        ]


def test_the_target_is_asked_until_there_are_enough(tmp_path: Path) -> None:
    target = Target()

    _, counts = collect(recipe_of({"kind": "self"}, count=40), folder=tmp_path, ask=target, say=quiet)

    assert counts["by_source"]["self:en"]["kept"] == 40
    assert target.asked == list(range(len(target.asked)))
    assert len(target.asked) < 80


def test_after_an_interruption_the_target_goes_on(tmp_path: Path) -> None:
    recipe = recipe_of({"kind": "self"}, count=40)
    with pytest.raises(ServerFailed):
        collect(recipe, folder=tmp_path, ask=Target(fails_at=10), say=quiet)
    journal = tmp_path / "self-0.jsonl"
    kept = len(list(json_lines(journal)))
    with journal.open("a") as file:
        file.write('{"text": "torn')

    target = Target()
    found, _ = collect(recipe, folder=tmp_path, ask=target, say=quiet)

    assert kept
    assert target.asked[0] == kept
    other = tmp_path / "other"
    other.mkdir()
    whole, _ = collect(recipe, folder=other, ask=Target(), say=quiet)
    assert {p.id for p in found} == {p.id for p in whole}


def test_a_target_that_repeats_itself_is_given_up(tmp_path: Path) -> None:
    told: list[str] = []
    target = Target(texts=8)

    found, counts = collect(
        recipe_of({"kind": "self"}, count=40), folder=tmp_path, ask=target, say=told.append
    )

    assert len(target.asked) == 200
    assert len(found) == counts["by_source"]["self:en"]["kept"] < 10
    assert any("in 200 requests" in text for text in told)


class Tokenizer:
    chat_template: str | None = "there is one"
    all_special_tokens = ("<start>", "<end>", "")
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012

    def __init__(self, form: str = "<start>user\n%s<end>\n") -> None:
        self._form = form

    def apply_chat_template(self, turns: list[dict[str, str]], **_: Any) -> str:
        return self._form.replace("%s", turns[0]["content"])

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.all_special_tokens.index(token)


START = opening(Tokenizer(), "target")


def test_the_template_is_cut_where_the_user_begins() -> None:
    assert Opening(prompt="<start>user\n", end="<end>", end_id=1, specials=("<end>", "<start>")) == START


def test_an_end_without_a_special_token() -> None:
    start = opening(Tokenizer("[INST] %s [/INST]"), "target")

    assert (start.prompt, start.end, start.end_id) == ("[INST] ", "[/INST]", None)


@pytest.mark.parametrize(
    ("form", "what"),
    [("<start>user<end>", "text"), ("user: %s", "turn")],
)
def test_a_template_that_cannot_be_cut(form: str, what: str) -> None:
    with refused(BadInput, "target-cannot-write", "target", f"user's {what}"):
        opening(Tokenizer(form), "target")


def test_a_target_without_a_chat_template() -> None:
    tokenizer = Tokenizer()
    tokenizer.chat_template = None

    with refused(BadInput, "target-cannot-write", "some/model"):
        opening(tokenizer, "some/model")


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        (" Why do owls hoot?\n", "stop", "Why do owls hoot?"),
        ("Why do owls hoot?<end>", "stop", "Why do owls hoot?"),
        ("貓頭鷹晚上為什麼不睡覺呢？", "stop", "貓頭鷹晚上為什麼不睡覺呢？"),
        ("Why do owls hoot?", "length", None),
        ("Why?", "stop", None),
        ("1 + 2 + 3 + 4 = 10, 5 + 6 = 11", "stop", None),
        ("Why do owls hoot? " + "again and " * 20, "stop", None),
        ("Why do owls hoot?\n<start>assistant", "stop", None),
    ],
)
def test_what_the_target_wrote_must_be_a_prompt(text: str, finish: str, expected: str | None) -> None:
    assert usable(text, finish, START) == expected


class Completions:
    def __init__(self, problem: Exception | None = None, answer: Any = None) -> None:
        self.requests: list[dict[str, Any]] = []
        self._answer = answer
        self.most = self.running = 0
        self._problem = problem

    async def create(self, **request: Any) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        self.requests.append(request)
        await asyncio.sleep(0)
        self.running -= 1
        if self._problem:
            raise self._problem
        if self._answer is not None:
            return self._answer
        choices = [
            types.SimpleNamespace(
                index=i, text=f"What is the square root of {request['seed'] + i}?", finish_reason="stop"
            )
            for i in range(request["n"])
        ]
        return types.SimpleNamespace(choices=choices[::-1])  # those that end first come first


def asking(monkeypatch: pytest.MonkeyPatch, completions: Completions) -> Magpie:
    class Client:
        def __init__(self, **_: Any) -> None:
            self.completions = completions

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(openai, "AsyncOpenAI", Client)
    monkeypatch.setattr(openai, "DefaultAioHttpClient", lambda **_: None)
    server: Any = types.SimpleNamespace(http=Http("http://here"), model="served", target_path="/target")
    return Magpie(server, recipe_of({"kind": "self"}), start=START)


def test_requests_differ_by_number_alone_and_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    completions = Completions()
    ask = asking(monkeypatch, completions)
    source = Source(kind="self", weight=1, temperature=0.9)

    first, second = ask(source, 0, 90), ask(source, 90, 7)

    assert len({*first, *second}) == 97
    assert ask(source, 0, 97) == [*first, *second]
    assert ask(source, 90, 7) == second
    assert completions.most * completions.requests[0]["n"] == 64
    sent = completions.requests[0] | completions.requests[0]["extra_body"]  # as openai's client does
    assert (sent["prompt"], sent["stop"], sent["temperature"]) == ("<start>user\n", ["<end>"], 0.9)
    assert sent["stop_token_ids"] == [1]


@pytest.mark.parametrize("number", [0, 1, 2, 3, 13])
def test_several_writers_give_what_one_gives(number: int) -> None:
    asked: list[int] = []

    def write(_: Source, first: int, count: int) -> list[str | None]:
        asked.append(count)
        return [str(n) if n % 3 else None for n in range(first, first + count)]

    source = Source(kind="self", weight=1)
    assert together([write] * 3, source, 5, number) == together([write], source, 5, number)
    assert (sum(asked[:3]), max(asked[:3]) - min(asked[:3]) <= 1) == (number, True)


def test_a_failed_request_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = asking(monkeypatch, Completions(openai.OpenAIError("connection refused")))

    with refused(ServerFailed, "too-few-prompts", "OpenAIError: connection refused"):
        ask(Source(kind="self", weight=1), 0, 3)


@pytest.mark.parametrize("choices", [None, [], [{"text": None, "finish_reason": "stop"}], "engine died"])
def test_an_answer_without_a_text_is_one_sentence(monkeypatch: pytest.MonkeyPatch, choices: Any) -> None:
    completion: Any = openai.types.Completion.model_construct  # as openai's client does: nothing is checked
    answer = completion(choices=choices, object="error", message="engine died")
    for one in (answer, "engine died"):
        with refused(ServerFailed, "too-few-prompts", "engine died"):
            asking(monkeypatch, Completions(answer=one))(Source(kind="self", weight=1), 0, 1)
