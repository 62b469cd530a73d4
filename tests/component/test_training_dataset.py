from __future__ import annotations

import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from harness.errors import BadInput
from harness.results.files import as_line
from tests.factories.refusals import refused
from training import dataset
from training.answers.rows import Row, arranged, contents_of, index
from training.errors import TrainingFailed
from training.recipe import Recipe


def recipe(**tables: Any) -> Recipe:
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


def response(name: str, **changes: Any) -> dict[str, Any]:
    """One kept answer: three tokens of prompt, eight of answer, unlike any other name's."""
    number = zlib.crc32(name.encode())
    values = {
        "id": name,
        "language": "zh" if name.startswith("zh") else "en",
        "source": "self",
        "workload": "instruct",
        "temperature": 0.0,
        "finish_reason": "stop",
        "prompt": f"prompt of {name}",
        "answer": "an answer",
        "input_ids": [1, 2, 3, *(number // 50**i % 50 for i in range(5)), 7, 8, 9],
        "loss_mask": [0, 0, 0, *[1] * 8],
    }
    return values | changes


def write(folder: Path, *contents: dict[str, Any]) -> Path:
    path = folder / "responses.jsonl"
    path.write_text("".join(as_line(content) for content in contents), encoding="utf-8")
    return path


def row(name: str, language: str = "en", temperature: float = 0.0) -> Row:
    return Row(
        id=name,
        language=language,
        temperature=temperature,
        tokens=8,
        supervised=5,
        cut=False,
        offset=0,
        size=0,
    )


# Rows


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"loss_mask": None}, "loss_mask"),
        ({"input_ids": [1, 2]}, "2 input_ids, but 11 in loss_mask"),
        ({"input_ids": [*range(10), "8"]}, "input_ids.10"),
        ({"input_ids": [*range(10), 2**31]}, "input_ids.10"),
        ({"input_ids": [*range(10), -1]}, "input_ids.10"),
        ({"input_ids": [*range(10), True]}, "input_ids.10"),
        ({"loss_mask": [*[0] * 10, 2]}, "loss_mask.10"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 100}, "temperature"),
        ({"id": None}, "column id"),
    ],
)
def test_a_row_that_is_none(tmp_path: Path, changes: dict[str, Any], column: str) -> None:
    path = write(tmp_path, response("en0"), response("en1") | changes)
    with pytest.raises(BadInput) as caught:
        index(path, 64)
    assert caught.value.code == "damaged-rows"
    assert str(caught.value).startswith(f"{path}, line 2")
    assert column in str(caught.value)


def test_two_rows_of_one_id(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="line 2") as caught:
        index(write(tmp_path, response("en0"), response("en0")), 64)
    assert caught.value.code == "damaged-file"


def test_a_missing_column_is_told_with_those_there_are(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_text('{"id": "a", "text": "t"}\n', encoding="utf-8")
    with pytest.raises(BadInput, match=r"line 1, column .*: id, text$"):
        index(path, 64)


def test_rows_are_cut_at_the_length_and_dropped_where_no_answer_is_left(tmp_path: Path) -> None:
    path = write(tmp_path, response("en0"), response("en1", loss_mask=[0] * 9 + [1, 1]), response("en2"))
    rows, unsupervised = index(path, 5)
    assert [(r.id, r.tokens, r.supervised, r.cut) for r in rows] == [
        ("en0", 5, 2, True),
        ("en2", 5, 2, True),
    ]
    assert unsupervised == 1
    assert [content["id"] for content in contents_of(path, reversed(rows))] == ["en2", "en0"]


# Split


COUNTS = st.dictionaries(
    st.tuples(st.sampled_from(["en", "zh"]), st.sampled_from([0.0, 0.7])), st.integers(1, 40), min_size=1
)


@given(COUNTS, st.floats(0.01, 0.49), st.integers(0, 3))
def test_each_language_and_temperature_is_validated_by_its_share(
    counts: dict[tuple[str, float], int], validation: float, seed: int
) -> None:
    rows = [row(f"{lang}-{t}-{i}", lang, t) for (lang, t), n in counts.items() for i in range(n)]
    trained = dataset.train_rows(len(rows), dataset.train_ratio(validation))
    found = arranged(rows, trained, seed=seed)
    assert sorted(r.id for r in found) == sorted(r.id for r in rows)
    held = Counter((r.language, r.temperature) for r in found[trained:])
    share = (len(rows) - trained) / len(rows)
    for group, n in counts.items():
        assert abs(held[group] - n * share) < 1
    assert found == arranged(rows[::-1], trained, seed=seed)


def test_another_seed_is_another_order() -> None:
    rows = [row(str(i)) for i in range(30)]
    orders = {tuple(r.id for r in arranged(rows, 25, seed=seed)) for seed in range(4)}
    assert len(orders) == 4
    assert len({frozenset(order[25:]) for order in orders}) == 4


@pytest.mark.parametrize(("validation", "ratio"), [(0.05, 0.95), (0.1, 0.9), (1 / 3, 0.666666667)])
def test_the_ratio_is_a_plain_number(validation: float, ratio: float) -> None:
    assert dataset.train_ratio(validation) == ratio


# Figures


def test_coverage_is_the_share_of_tokens_not_of_kinds() -> None:
    tokens = Counter({1: 60, 2: 30, 3: 9, 4: 1})
    assert dataset.coverage(tokens, frozenset({1, 3})) == 0.69
    assert dataset.coverage(tokens, frozenset()) == 0.0
    assert dataset.coverage(tokens, frozenset({1, 2, 3, 4, 5})) == 1.0
    assert dataset.coverage(tokens, None) == 1.0
    assert dataset.coverage(Counter(), frozenset({1})) == 0.0


def test_the_vocabulary_is_the_trainers_and_its_frequencies_are_never_old(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("speculators")
    (tmp_path / "token_freq.pt").write_bytes(b"of other data")
    tokens = Counter({40: 3, 41: 9, 42: 3, 7: 1})
    assert dataset.write_vocabulary(tmp_path, tokens, 2) == {41, 40}
    assert torch.load(tmp_path / "token_freq.pt", weights_only=True) == dict(tokens)
    assert dataset.write_vocabulary(tmp_path, tokens, 6) == {40, 41, 42, 7, 0, 1}
    assert dataset.write_vocabulary(tmp_path, tokens, None) is None


# The stage


def run(folder: Path, responses: Path, **tables: Any) -> dict[str, Any]:
    return dataset.run(folder, responses, recipe(**tables), say=lambda _: None)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_rows(tmp_path: Path, count: int) -> None:
    path = write(tmp_path, *(response(f"en{i}") for i in range(count)), response("en9", loss_mask=[0] * 11))
    with refused(TrainingFailed, "training-data", f"{count} ", "another 1 "):
        run(tmp_path / "stage", path)


def test_the_validation_is_speculators_validation(tmp_path: Path) -> None:
    pytest.importorskip("speculators")
    torch = pytest.importorskip("torch")
    from speculators.train.data import ArrowDataset  # noqa: PLC0415 - seconds

    made = [
        response(f"{language}{i}", temperature=(0.7 if i % 4 == 0 else 0.0))
        for language, n in (("en", 40), ("zh", 20))
        for i in range(n)
    ]
    made.append(response("long", loss_mask=[0] * 10 + [1]))
    path = write(tmp_path, *made)
    stage = tmp_path / "stage"
    for left_over in ("data", "data.part"):  # of an interrupted run, of other data
        (stage / left_over).mkdir(parents=True)
        (stage / left_over / "data-00000-of-00001.arrow").write_bytes(b"old")
        (stage / left_over / "token_freq.pt").write_bytes(b"old")
    settings = recipe(
        dataset={"seq_length": 10, "draft_vocab_size": 4, "validation": 0.3}, check={"held_out": 3}
    )
    said: list[str] = []
    counts = dataset.run(stage, path, settings, say=said.append)

    assert sorted(p.name for p in stage.iterdir()) == ["data", "held_out.jsonl"]
    halves = {
        split: ArrowDataset(
            max_len=64, datapath=stage / "data", train_ratio=counts["train_ratio"], split=split
        ).data
        for split in ("train", "val")
    }
    assert (len(halves["train"]), len(halves["val"])) == (counts["train_rows"], counts["validation_rows"])
    assert (counts["rows"], counts["dropped_unsupervised"], counts["cut_at_seq_length"]) == (60, 1, 60)
    assert (counts["tokens"], counts["train_tokens"]) == (600, 42 * 10)
    assert counts["supervised_tokens"] == 420
    assert (counts["rows_en"], counts["rows_zh"]) == (40, 20)

    by_tokens = {tuple(r["input_ids"][:10]): r for r in made}
    trained = [by_tokens[tuple(r["input_ids"].tolist())] for r in halves["train"]]
    validated = [by_tokens[tuple(r["input_ids"].tolist())] for r in halves["val"]]
    assert len({r["id"] for r in trained + validated}) == 60
    assert Counter(r["language"] for r in validated) == {"en": 12, "zh": 6}

    answers = Counter(token for r in trained for token in r["input_ids"][3:10])
    assert torch.load(stage / "data" / "token_freq.pt", weights_only=True) == answers
    vocabulary = sorted(answers, key=lambda token: (-answers[token], token))[:4]
    for language in ("en", "zh"):
        tokens = [t for r in validated if r["language"] == language for t in r["input_ids"][3:10]]
        share = sum(t in vocabulary for t in tokens) / len(tokens)
        assert counts[f"coverage_{language}"] == pytest.approx(share, abs=1e-5)

    held_out = [json.loads(line) for line in (stage / "held_out.jsonl").read_text("utf-8").splitlines()]
    greedy = {r["id"] for r in validated if r["temperature"] == 0.0}
    assert {r["id"] for r in held_out} <= greedy
    assert Counter(r["language"] for r in held_out) == {"en": 3, "zh": 3}
    assert (counts["held_out_en"], counts["held_out_zh"]) == (3, 3)
    assert held_out[0] == {
        "id": held_out[0]["id"],
        "language": "en",
        "source": "self",
        "workload": "instruct",
        "text": f"prompt of {held_out[0]['id']}",
        "finish_reason": "stop",
    }


def test_coverage_is_that_of_the_vocabulary_a_drafter_brings(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("speculators")
    from safetensors.torch import save_file  # noqa: PLC0415

    drafter = tmp_path / "drafter"
    drafter.mkdir()
    save_file({"t2d": torch.zeros(60, dtype=torch.bool)}, drafter / "model.safetensors")
    path = write(tmp_path, *(response(f"en{i}") for i in range(40)))

    new = run(tmp_path / "new", path)
    kept = run(tmp_path / "kept", path, train={"from_pretrained": str(drafter)})

    assert (new["coverage"], kept["coverage"]) == (1.0, 0.0)
