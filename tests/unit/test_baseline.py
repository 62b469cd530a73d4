from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BadInput, BadRecord
from harness.judge import baselines
from harness.judge.baselines import ANCHOR, device_name, find, move_anchor, path_of, store
from harness.judge.pairing import Refused, pair
from harness.results.conditions import Environment, Identity, Subject
from harness.results.records import CellRecord, dump_cell, load
from tests.factories import runs
from tests.factories.records import cell_name, prompt_record
from tests.factories.simulated import HARD, IDENTITY, SAMPLED, cell, drafter, edited, some, worse


@pytest.fixture
def first() -> CellRecord:
    return cell(drafter(1, prompts=10))


@pytest.fixture
def second() -> CellRecord:
    return cell(worse(drafter(1, prompts=10), 0.3))


def test_a_baseline_lies_under_stack_device_profile_and_suite(tmp_path: Path, first: CellRecord) -> None:
    path = store(tmp_path, first)
    where = tmp_path / "smollm2-cpu" / "cpu" / "gate" / "acceptance"
    assert path == where / "chat-en-instruct-ngram-k4.json"
    assert path == path_of(tmp_path, first)
    assert sorted(p.name for p in where.iterdir()) == [path.with_suffix(ANCHOR).name, path.name]


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"cpu": "AMD EPYC", "gpus": []}, "cpu"),
        ({"cpu": "AMD EPYC"}, "cpu"),
        ({"cpu": "AMD EPYC", "gpus": [{"name": "NVIDIA H200"}]}, "nvidia-h200"),
        ({"gpus": [{"name": "NVIDIA H200"}] * 2}, "nvidia-h200-x2"),
        ({"gpus": [{"name": "NVIDIA GB10 (128 GB)"}]}, "nvidia-gb10-128-gb"),
        ({"cpu": "unverified", "gpus": []}, "unverified"),
    ],
)
def test_devices_have_folders(environment: dict[str, object], name: str) -> None:
    assert device_name(Environment.model_validate(environment)) == name


def test_no_baseline_is_none(tmp_path: Path, first: CellRecord) -> None:
    assert find(tmp_path, first) is None
    assert runs.anchor(tmp_path, first) is None


def test_what_is_stored_is_found(tmp_path: Path, first: CellRecord, second: CellRecord) -> None:
    store(tmp_path, first)
    assert find(tmp_path, second) == baselines.untimed(first)
    assert find(tmp_path, second.model_copy(update={"cell": cell_name(k=2)})) is None


@pytest.mark.parametrize("kind", [".json", ANCHOR])
def test_a_file_of_another_cell_under_this_cells_name_is_refused(
    tmp_path: Path, first: CellRecord, kind: str
) -> None:
    path = store(tmp_path, first)
    other = first.model_copy(update={"cell": cell_name(k=2)})
    path.with_suffix(kind).rename(path_of(tmp_path, other).with_suffix(kind))

    with pytest.raises(BadRecord, match=r"holds the cell chat-en-instruct-ngram-k4, not .*-k2"):
        find(tmp_path, other) if kind == ".json" else runs.anchor(tmp_path, other)


def test_the_anchor_is_made_once_and_not_moved_by_later_baselines(
    tmp_path: Path, first: CellRecord, second: CellRecord
) -> None:
    store(tmp_path, first)
    store(tmp_path, second)
    now, anchor = find(tmp_path, first), runs.anchor(tmp_path, first)
    assert now is not None
    assert anchor is not None
    assert now.prompts == baselines.untimed(second).prompts
    assert anchor.prompts == baselines.untimed(first).prompts
    assert anchor.provenance["anchor_reason"] == "the first baseline of this cell"
    assert "anchor_reason" not in now.provenance


def test_an_anchor_moves_for_a_reason(tmp_path: Path, first: CellRecord, second: CellRecord) -> None:
    store(tmp_path, first)
    path = store(tmp_path, second)
    for nothing in ("", "  \n"):
        with pytest.raises(BadInput, match="--reason"):
            move_anchor(path, nothing)
    assert runs.anchor(tmp_path, first) != find(tmp_path, first)
    assert move_anchor(path, " a new engine ") == path.with_suffix(ANCHOR)
    anchor = runs.anchor(tmp_path, first)
    assert anchor is not None
    assert anchor.prompts == baselines.untimed(second).prompts
    assert anchor.provenance["anchor_reason"] == "a new engine"


def test_an_anchor_does_not_move_to_itself_nor_to_a_damaged_baseline(
    tmp_path: Path, first: CellRecord
) -> None:
    path = store(tmp_path, first)
    before = path.with_suffix(ANCHOR).read_bytes()
    with pytest.raises(BadInput) as refused:
        move_anchor(path.with_suffix(ANCHOR), "why not")
    assert refused.value.code == "anchor"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadRecord, match="cut off"):
        move_anchor(path, "why not")
    with pytest.raises(BadRecord, match="No such file"):
        move_anchor(path.with_name("another.json"), "why not")
    assert path.with_suffix(ANCHOR).read_bytes() == before


def test_what_is_no_measurement_is_no_baseline(tmp_path: Path, first: CellRecord) -> None:
    with pytest.raises(BadInput, match=r"chat-en-instruct-ngram-k4.*finished 9 requests") as refused:
        store(tmp_path, first.model_copy(update={"findings": (HARD,)}))
    assert refused.value.code == "not-a-baseline"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("finish", ["abort", "error", "content_filter", "repetition"])
def test_an_answer_that_was_broken_off_is_no_baseline_and_has_none(
    tmp_path: Path, first: CellRecord, finish: str
) -> None:
    """As in a file of an older version, which has no finding about it."""
    broken = first.prompts[0].model_copy(update={"finish": finish})
    old = first.model_copy(update={"prompts": (broken, *first.prompts[1:])})
    reserve = first.model_copy(update={"prompts": first.prompts[1:]})
    for one, more in ((old, None), (reserve, old)):
        with pytest.raises(BadInput, match=finish) as refused:
            store(tmp_path, one, reserve=more)
        assert refused.value.code == "not-a-baseline"
    assert not list(tmp_path.iterdir())
    with pytest.raises(Refused, match=finish):
        pair(old, first)
    path = tmp_path / "cell.json"
    path.write_text(dump_cell(old), encoding="utf-8")
    with pytest.raises(BadInput, match=finish) as refused:
        move_anchor(path, "it is new")
    assert refused.value.code == "not-a-baseline"
    assert list(tmp_path.iterdir()) == [path]


def damaged(text: str, how: str) -> str:
    if how == "schema":
        return text.replace('"schema": 1', '"schema": 99')
    return {"cut": text[: len(text) // 2], "empty": "", "field": text.replace('"stack"', '"stick"')}[how]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut", r"line \d+: not JSON.*cut off"),
        ("empty", "the file is empty"),
        ("schema", "schema is 99, this version of draftgate reads 1"),
        ("field", "field stack"),
    ],
)
def test_a_damaged_baseline_is_named_and_never_overwritten(
    tmp_path: Path, first: CellRecord, second: CellRecord, how: str, said: str
) -> None:
    path = store(tmp_path, first)
    anchor = path.with_suffix(ANCHOR)
    for file in (path, anchor):
        file.write_text(damaged(file.read_text(encoding="utf-8"), how), encoding="utf-8")
    before = [file.read_bytes() for file in (path, anchor)]
    with pytest.raises(BadRecord, match=said) as raised:
        find(tmp_path, first)
    assert str(path) in str(raised.value)
    with pytest.raises(BadRecord, match=said) as raised:
        runs.anchor(tmp_path, first)
    assert str(anchor) in str(raised.value)
    with pytest.raises(BadRecord, match=said):
        store(tmp_path, second)
    assert [file.read_bytes() for file in (path, anchor)] == before


def test_a_folder_in_the_place_of_a_baseline_is_not_an_empty_one(tmp_path: Path, first: CellRecord) -> None:
    path_of(tmp_path, first).mkdir(parents=True)
    with pytest.raises(BadRecord, match="Is a directory"):
        find(tmp_path, first)


def test_a_baseline_has_no_time_and_no_start_in_it(tmp_path: Path, first: CellRecord) -> None:
    named = first.model_copy(
        update={"provenance": {"host": "here", "commit": "c0ffee", "server": {"start": "f00d", "log": "x"}}}
    )
    text = store(tmp_path, named).read_text(encoding="utf-8")
    for line in json.loads(text)["prompts"]:
        assert [line[f] for f in ("began_s", "ttft_s", "total_s")] == [None] * 3
        assert (line["server"], line["segment"]) == ("", 0)
    assert '"provenance": {"commit": "c0ffee"},' in text
    assert "f00d" not in text
    assert "here" not in json.loads(text)["provenance"]


def test_untimed_keeps_all_that_a_verdict_rests_on(first: CellRecord) -> None:
    assert all(r.total_s is not None for r in first.prompts)
    left = baselines.untimed(first)
    assert [r.tally for r in left.prompts] == [r.tally for r in first.prompts]
    assert [r.text_hash for r in left.prompts] == [r.text_hash for r in first.prompts]
    assert baselines.untimed(left) == left


def test_two_measurements_that_agree_are_stored_alike(tmp_path: Path, first: CellRecord) -> None:
    again = first.model_copy(
        update={
            "prompts": tuple(
                r.model_copy(update={"began_s": 9.0, "ttft_s": 8.0, "total_s": 7.0, "server": "beef"})
                for r in first.prompts
            )
        }
    )
    text = store(tmp_path / "a", first).read_bytes()
    assert store(tmp_path / "b", again).read_bytes() == text


def test_a_stored_baseline_is_one_prompt_a_line(tmp_path: Path, first: CellRecord) -> None:
    lines = store(tmp_path, first).read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith('{"prompt":') for line in lines) == 10
    loaded = load(path_of(tmp_path, first), CellRecord)
    assert dump_cell(loaded).splitlines() == lines


def test_answers_without_a_decode_step_have_no_partner(first: CellRecord) -> None:
    brief = first.prompts[0].model_copy(update={"output_tokens": 1, "histogram": (0,), "accepted": None})
    one = first.model_copy(update={"prompts": (brief, *first.prompts[1:])})
    pairs = pair(first, one)
    assert len(pairs.prompts) == 9
    assert pairs.notes == ("1 of 10 prompts have no partner and are left out",)
    assert len(pair(one, first).prompts) == 9


def rendered(record: CellRecord, to: str | None, *, text: str = "text", known: bool = True) -> CellRecord:
    """The same prompts by id and text, rendered to other tokens; None where the server hides them."""
    prompts = [
        r.model_copy(
            update={
                "prompt_hash": f"{to} {r.prompt}" if to else f"{text} {r.prompt}",
                "prompt_text_hash": f"{text} {r.prompt}" if known else None,
            }
        )
        for r in record.prompts
    ]
    return record.model_copy(update={"prompts": tuple(prompts)})


@pytest.mark.parametrize(
    ("old", "new", "notes"),
    [
        ({"to": "monday"}, {"to": "monday"}, 0),
        ({"to": "monday"}, {"to": "tuesday"}, 1),
        ({"to": "monday"}, {"to": None}, 1),
        ({"to": None}, {"to": None}, 0),
        ({"to": None, "known": False}, {"to": "tuesday"}, 1),  # a file of an older version
        ({"to": "monday", "known": False}, {"to": "monday"}, 0),
        ({"to": "monday", "known": False}, {"to": "monday", "known": False}, 0),
    ],
)
def test_prompts_of_the_same_text_are_pairs_and_a_note_says_that_their_tokens_differ(
    first: CellRecord, old: dict[str, Any], new: dict[str, Any], notes: int
) -> None:
    sides = rendered(first, **old), rendered(first, **new)
    for before, after in (sides, sides[::-1]):
        pairs = pair(before, after)
        assert len(pairs.prompts) == 10
        assert len(pairs.notes) == notes
        assert not (notes and pairs.same_start)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"to": "monday", "text": "one"}, {"to": "tuesday", "text": "two"}),
        ({"to": None, "text": "one"}, {"to": None, "text": "two"}),
        ({"to": "monday", "text": "one"}, {"to": None, "text": "two"}),
        ({"to": "monday", "known": False}, {"to": "tuesday"}),
        ({"to": "monday", "known": False}, {"to": "tuesday", "known": False}),
        ({"to": "monday", "known": False}, {"to": None}),
    ],
)
def test_prompts_that_may_have_been_edited_are_no_pairs(
    first: CellRecord, old: dict[str, Any], new: dict[str, Any]
) -> None:
    sides = rendered(first, **old), rendered(first, **new)
    for before, after in (sides, sides[::-1]):
        with pytest.raises(Refused):
            pair(before, after)


def test_prompts_that_were_renamed_or_swapped_are_found_by_what_they_are(first: CellRecord) -> None:
    old = rendered(first, "monday")
    names = [r.prompt for r in old.prompts]
    moved = [r.model_copy(update={"prompt": name}) for r, name in zip(old.prompts, names[::-1], strict=True)]
    for new in (moved, [r.model_copy(update={"prompt": f"new-{r.prompt}"}) for r in old.prompts]):
        pairs = pair(old, old.model_copy(update={"prompts": tuple(new)}))
        assert len(pairs.prompts) == 10
        assert all(a[0].prompt_hash == b[0].prompt_hash for a, b in pairs.prompts)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ({"method": "suffix"}, {"method": "suffix", "unverified": ["method"]}, True),
        ({"method": None}, {"method": "suffix", "unverified": ["method"]}, True),  # of an older version
        ({"method": None}, {"method": "suffix"}, False),
        ({"method": "ngram"}, {"method": "suffix", "unverified": ["method"]}, False),
    ],
)
def test_a_drafter_that_the_stack_named_is_compared_by_what_it_said(
    first: CellRecord, old: dict[str, Any], new: dict[str, Any], *, same: bool
) -> None:
    sides = [first.model_copy(update={"subject": Subject.model_validate(side)}) for side in (old, new)]
    assert pair(*sides).same_drafter is same


def test_the_hashes_of_a_prompt_say_what_they_are_of() -> None:
    known = prompt_record(prompt_hash="tokens", prompt_text_hash="text")
    assert (known.rendered_hash, known.prompt_text_hash) == ("tokens", "text")
    assert prompt_record(prompt_hash="text", prompt_text_hash="text").rendered_hash is None
    assert prompt_record(prompt_hash="either").rendered_hash is None


def test_an_empty_cell_is_refused(first: CellRecord) -> None:
    nothing = some(first, 0)
    with pytest.raises(Refused, match=r"0 of 0 prompts are in common"):
        pair(nothing, nothing)


def test_a_field_that_one_side_lacks_differs(first: CellRecord) -> None:
    more = first.model_copy(update={"identity": Identity(**IDENTITY, metric_version=2)})
    for old, new, said in (
        (first, more, "null in the baseline, 2 now"),
        (more, first, "2 in the baseline, null"),
    ):
        with pytest.raises(Refused, match=f"metric_version differs: {said}"):
            pair(old, new)


@pytest.mark.parametrize(
    "field", ["endpoint", "language", "target", "tokenizer", "chat_template", "workload"]
)
def test_across_what_changes_the_prompts_they_pair_by_id(first: CellRecord, field: str) -> None:
    other = edited(
        first.model_copy(update={"identity": Identity.model_validate(IDENTITY | {field: "another"})}), 10
    )
    pairs = pair(first, other, across=[field])
    assert [(a[0].prompt, b[0].prompt) for a, b in pairs.prompts] == [
        (r.prompt, r.prompt) for r in first.prompts
    ]


def test_across_a_field_that_is_the_same_changes_nothing(first: CellRecord) -> None:
    with pytest.raises(Refused, match="0 of 10 prompts are in common"):
        pair(first, edited(first, 10), across=["endpoint"])


def test_across_one_field_does_not_excuse_another(first: CellRecord) -> None:
    other = first.model_copy(
        update={"identity": Identity(**IDENTITY | {"endpoint": "raw", "dtype": "float16"})}
    )
    with pytest.raises(Refused, match=r'dtype differs: "bfloat16" in the baseline, "float16" now'):
        pair(first, other, across=["endpoint"])


def seeds(*values: int) -> CellRecord:
    """One record a seed for each of ten prompts."""
    records = [
        prompt_record(f"p{i}", prompt_hash=f"h{i}", seed=seed, text_hash=f"t{i}-{seed}")
        for seed in values
        for i in range(10)
    ]
    return cell(drafter(1, prompts=0), identity=SAMPLED).model_copy(update={"prompts": tuple(records)})


def test_pairs_are_made_by_prompt_and_seed_where_seeds_are_shared() -> None:
    pairs = pair(seeds(1, 2, 3), seeds(3, 2))
    assert [[r.seed for r in side] for side in pairs.prompts[0]] == [[2, 3], [2, 3]]
    assert pairs.same_text == 10
    assert pairs.notes == ()


def test_pairs_are_made_by_prompt_alone_where_no_seed_is_shared() -> None:
    pairs = pair(seeds(1, 2), seeds(3))
    assert [[r.seed for r in side] for side in pairs.prompts[0]] == [[1, 2], [3]]
    assert pairs.same_text == 0
    assert pairs.notes[0].startswith("other seeds: paired by prompt alone")
