"""The page of `draftgate report`: what it shows, what it refuses, and that nothing in it acts."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.cli import main
from harness.config.prompts import hash_of, load_prompts
from harness.config.shipped import DATA
from harness.judge.collect import collect
from harness.judge.compare import compare
from harness.report.html.answers import packed
from harness.report.html.write import LIBRARIES, sha256
from harness.results.files import as_line
from harness.results.records import Finding, PromptRecord
from harness.suites.quality_answers import Asked, file_of
from harness.suites.runner import Outcome, keep
from tests.factories.pages import Page, report
from tests.factories.runs import answer, cell, plain, write_cell, write_run

pytestmark = pytest.mark.usefixtures("here")

HOSTILE = "</script><script>alert(1)</script><img src=//evil/x onerror=alert(2)>\u202egnp.\u2028{{ 7*7 }}"
OUT = Path("report.html")


def shown(page: Page, name: str = "chat-en-instruct-ngram-k4") -> dict[str, Any]:
    (found,) = (c for c in page.data["cells"] if c["name"] == name)
    return dict(found)


def cells(page: Page, run: int = 0) -> list[str]:
    return [c["name"] for c in page.data["cells"] if c["run"] == run]


def renamed(i: int, prompt: str, **changes: Any) -> PromptRecord:
    return answer(i, **changes).model_copy(update={"prompt": prompt})


# What it shows


def test_the_verdicts_and_intervals_are_those_of_compare() -> None:
    base = write_run(Path("base"), cell(), cell("zh"), plain())
    new = write_run(Path("new"), cell(worse=3), cell("zh"), plain())
    page = report(base, new, output=OUT)
    rows = compare([collect(base), collect(new)]).rows
    for of in (c for c in page.data["cells"] if c["run"] == 1):
        (a,) = (
            r.others[0] for r in rows if r.others[0] and str(r.others[0].figures.entry.cell) == of["name"]
        )
        v = of["verdict"]
        assert (of["became"], v["text"], v["change"], v["p"]) == (
            a.verdict.kind,
            a.verdict.text,
            a.verdict.change,
            a.verdict.p,
        )
        assert v["ci"] == (list(a.verdict.interval) if a.verdict.interval else None)
        assert of["figures"]["acceptance_intervals"] == [
            list(ci) if ci else None for ci in a.figures.acceptance_ci
        ]
    assert {c["became"] for c in page.data["cells"] if c["run"] == 1} == {"regressed", "identical"}
    (look,) = page.data["looks"]
    assert look["became"] == "regressed"
    assert look["text"] in page.seen


def over_time(*worse: int) -> list[Path]:
    """A run a day; their names are not in the order of time."""
    return [
        write_run(
            Path(f"run-{99 - i}"), cell(worse=lost), plain(), began=f"2026-03-{1 + i:02}T04:00:00+00:00"
        )
        for i, lost in enumerate(worse)
    ]


def test_several_runs_are_a_history_in_the_order_of_time() -> None:
    page = report(*reversed(over_time(*[0] * 6, *[3] * 6)), write_run(Path("alone"), cell("zh")), output=OUT)

    found = page.data["history"]
    (changed,) = found["series"]
    assert len(found["tables"]) == 3
    assert changed["name"].endswith("chat-en-instruct-ngram-k4")
    assert [p["run"][:10] for p in changed["points"]] == [f"2026-03-{1 + i:02}" for i in range(12)]
    assert [i for i, p in enumerate(changed["points"]) if p["changed"]] == [6]
    assert all(low < p["rate"] < high for p in changed["points"] for low, high in [p["interval"]])
    assert found["sentence"] in page.seen
    assert ("section", {"id": "history"}) in page.tags
    for table in found["tables"]:
        for row in table["rows"]:
            assert all(text in page.seen for text in row)


def test_runs_that_have_no_cell_in_common_and_a_single_run_are_no_history() -> None:
    first, _ = over_time(0, 0)
    other = write_run(Path("other"), cell("zh"), began="2026-03-09T04:00:00+00:00")
    for runs in ((first,), (first, other), (first, write_run(Path("undated"), cell()))):
        page = report(*runs, output=OUT)
        assert page.data["history"] is None
        assert ("section", {"id": "history"}) not in page.tags


def test_a_history_that_cannot_be_made_is_said_and_the_page_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "otava.analysis", None)
    page = report(*over_time(0, 0), output=OUT)
    assert "draftgate[history]" in page.data["history"]["sentence"]
    assert "draftgate[history]" in page.seen
    assert len(page.data["cells"]) == 2


def test_each_pair_shows_both_answers_and_where_they_part() -> None:
    def texts(*, new: bool) -> Iterator[PromptRecord]:
        for i in range(24):
            ids = list(range(answer(i).output_tokens))
            changed = new and i == 5
            if changed:
                ids[7:] = [0] * len(ids[7:])
            yield answer(
                i, text=f"answer {i}" + " other" * changed, text_hash=f"h{i}{changed}", token_ids=tuple(ids)
            )

    runs = [write_run(Path(n), cell(prompts=tuple(texts(new=n == "new")))) for n in ("base", "new")]
    page = report(*runs, output=OUT)
    (prompts,) = page.prompts
    assert len(prompts) == 24
    (parted,) = (p for p in prompts if not p["same"])
    assert (parted["prompt"], parted["part"]) == ("instruct-005", 7)
    assert [page.texts[parted[f"text{side}"]] for side in (0, 1)] == ["answer 5", "answer 5 other"]
    assert page.texts[0] == "answer 5"  # those that changed come first


def test_a_baseline_is_compared_with_every_run_and_its_other_profiles_are_left_alone() -> None:
    for profile in ("quick", "gate"):
        write_cell(Path("baselines") / profile, cell(profile=profile))
        write_cell(Path("baselines") / profile, cell("zh", profile=profile))
    runs = [write_run(Path(n), cell(profile="gate")) for n in ("one", "two")]
    page = report(*runs, "--baseline", "baselines", output=OUT)
    assert [(c["run"], c["became"], c["profile"]) for c in page.data["cells"]] == [
        (0, "identical", "gate"), (1, "identical", "gate")
    ]  # fmt: skip
    assert any("only in" in note and note.count("chat-zh") == 1 for note in page.data["runs"][0]["notes"])


def test_a_run_alone_has_its_figures_and_no_verdict() -> None:
    page = report(write_run(Path("run"), cell(), cell(endpoint="raw"), plain()), output=OUT)
    assert all(c["verdict"] is None and c["figures"]["tokens_per_step"] for c in page.data["cells"])
    assert shown(page)["figures"]["speed_up"] is not None
    (beside,) = page.data["beside"]
    assert beside["rates"].keys() == {"chat", "raw"}


def test_each_run_says_under_which_conditions_it_was_measured() -> None:
    first = report(write_run(Path("first"), cell()), output=OUT)
    assert first.data["runs"][0]["conditions"]["target"] == ["tiny bfloat16"]
    write_run(Path("second"), cell(temperature=0.7))
    runs = report("first", "second", output=OUT).data["runs"]
    assert [run["conditions"]["T"] for run in runs] == [["0"], ["0.7"]]


def test_a_page_without_a_comparison_has_no_columns_of_one() -> None:
    alone = report(write_run(Path("first"), cell()), output=OUT)
    both = report("first", write_run(Path("second"), cell()), output=OUT)
    for page, compared in ((alone, False), (both, True)):
        assert ("old tok/step" in page.seen, "same text" in page.seen) == (compared, compared)


def test_what_differs_between_the_sides_is_marked_in_the_provenance() -> None:
    base = write_run(Path("base"), cell())
    new = write_run(
        Path("new"), cell(subject={"drafter": "ngram", "k": 4, "engine": "0.33.0", "settings": {}})
    )
    page = report(base, new, output=OUT)
    assert [row["field"] for row in page.data["provenance"] if row["differs"]] == ["engine"]
    assert [a.get("class") for tag, a in page.tags if tag == "tr"].count(
        "differs"
    ) == 2  # alone, and among all


def test_a_value_of_thousands_of_characters_shows_what_differs() -> None:
    configs = [", ".join(f"option_{i}={i + (i == 700) * new}" for i in range(1000)) for new in (0, 1)]
    subject = {"drafter": "ngram", "k": 4, "engine": "0.32.0", "settings": {}}
    runs = [
        write_run(Path(str(i)), cell(subject={**subject, "resolved_config": c}))
        for i, c in enumerate(configs)
    ]
    page = report(*runs, output=OUT)
    (row,) = (row for row in page.data["provenance"] if row["field"] == "resolved_config")
    assert [values[0] for values in row["values"]] == ["option_700=700", "option_700=701"]


def test_a_prompt_is_shown_where_its_hash_is_that_of_a_file_of_ours() -> None:
    known = load_prompts(DATA / "prompts", "instruct", "en", at_most=8)
    records = [renamed(i, p.id, prompt_text_hash=hash_of(p.text)) for i, p in enumerate(known)]
    edited = records[0].model_copy(update={"prompt_text_hash": hash_of("another text")})
    runs = [write_run(Path(n), cell(prompts=(edited, *records[1:]))) for n in ("base", "new")]
    page = report(*runs, output=OUT)
    asked = [p["asked"] for p in page.prompts[0]]
    assert asked[0] is None
    assert [page.texts[at] for at in asked[1:]] == [p.text for p in known[1:]]


def asked_in(page: Page) -> list[str | None]:
    return [p["asked"] if p["asked"] is None else page.texts[p["asked"]] for p in page.prompts[0]]


def test_own_prompts_are_shown_where_a_file_has_the_very_text() -> None:
    rows = [{"prompt": f"my own prompt {i}"} for i in range(8)]
    Path("mine.jsonl").write_text("".join(map(as_line, rows)), encoding="utf-8")
    texts = [row["prompt"] for row in rows]
    records = [renamed(i, f"{i:04}", prompt_text_hash=hash_of(text)) for i, text in enumerate(texts)]
    records[0] = records[0].model_copy(update={"prompt_text_hash": hash_of("another text")})
    runs = [write_run(Path(name), cell(prompts=tuple(records))) for name in ("base", "new")]
    assert set(asked_in(report(*runs, output=OUT))) == {None}
    assert asked_in(report(*runs, "--prompts-file", "mine.jsonl", output=OUT)) == [None, *texts[1:]]
    assert main(["report", "base", "--prompts-file", "nowhere.jsonl", "--output", str(OUT)]) == 2


def test_the_questions_that_a_run_keeps_are_shown_and_a_damaged_file_of_them_is_named() -> None:
    asked = [Asked(question=f"q{i}", text=f"what is {i}?", options=("a", "b"), right=0) for i in range(8)]
    prompts = [one.as_question.prompt("en").text for one in asked]
    records = [renamed(i, f"q{i}", prompt_text_hash=hash_of(text)) for i, text in enumerate(prompts)]
    for name in ("base", "new"):
        run = write_run(Path(name), record := cell(prompts=tuple(records), suite="quality"))
        path = file_of(run / "quality" / f"{record.cell}.json")
        path.parent.mkdir()
        path.write_text("".join(as_line(one.model_dump()) for one in asked), encoding="utf-8")
    assert asked_in(report("base", "new", output=OUT)) == prompts
    path.write_text("{", encoding="utf-8")
    page = report("base", "new", output=OUT, code=2)
    assert [str(path) in fault for fault in page.data["runs"][1]["faults"]] == [True]
    assert asked_in(page) == prompts


def test_the_long_prompts_that_a_run_keeps_are_shown_and_leave_room_for_the_answers() -> None:
    texts = [f"{i} " + "a page of a book " * (2000 if i else 10) for i in range(8)]
    lines = [
        {"length": 256, "id": f"p{i}", "language": "en", "category": "", "text": text}
        for i, text in enumerate(texts)
    ]
    for name in ("base", "new"):
        told = [
            renamed(i, f"p{i}", prompt_text_hash=hash_of(text), text=name, text_hash=name)
            for i, text in enumerate(texts)
        ]
        run = write_run(Path(name), cell(prompts=tuple(told), suite="context-00256"))
        (run / "context").mkdir()
        kept = run / "context" / "chat-en-instruct.jsonl"
        kept.write_text("".join(map(as_line, lines)), encoding="utf-8")
    page = report("base", "new", output=OUT)
    assert asked_in(page) == texts
    assert page.texts[:3] == [texts[0], *page.texts[1:3]]
    assert {"base", "new"} == set(page.texts[1:3])
    kept.write_text("{", encoding="utf-8")
    page = report("base", "new", output=OUT, code=2)
    assert [str(kept) in fault for fault in page.data["runs"][1]["faults"]] == [True]


def test_a_field_to_compare_across_needs_two_to_compare(capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(Path("run"), cell())
    assert main(["report", str(run), str(run), "--across", "drafter", "--output", str(OUT)]) == 2
    assert "[compare-option]" in capsys.readouterr().err
    assert not OUT.exists()


@pytest.mark.parametrize(("count", "folded"), [(1, 0), (11, 0), (12, 2), (14, 4)])
def test_many_runs_are_folded_above_the_table(count: int, folded: int) -> None:
    page = report(*(write_run(Path(f"run-{i}"), cell()) for i in range(count)), output=OUT)
    names = [tag for tag, _ in page.tags]
    head = names[: names.index("main")]
    at = head.index("details") if "details" in head else len(head)
    assert head[:at].count("li") + head[at:].count("li") == count + len(page.data["looks"])
    assert head[at:].count("li") == folded


def test_the_commands_that_made_it_are_there() -> None:
    made = cell(provenance={"command": "pytest bench_suites --profile gate", "host": "here"})
    page = report(write_run(Path("run"), made), output=OUT)
    assert next(c["command"] for c in page.data["commands"]) == "pytest bench_suites --profile gate"


# What cannot be shown is named


def begin(run: Path, suite: str, name: str, *answers: str) -> None:
    """The journal of a cell, with so many answers."""
    path = run / suite / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([as_line({"schema": 1, "cell": name}).strip(), *answers, ""]), encoding="utf-8")


def test_an_unfinished_run_is_shown_as_such() -> None:
    run = write_run(Path("run"), cell(), finished=False)
    begin(run, "acceptance", "chat-zh-instruct-ngram-k4", "{}", "{}")
    begin(run, "acceptance", "chat-en-instruct-ngram-k4", "{}")
    page = report(run, output=OUT)
    (of,) = page.data["runs"]
    assert not of["finished"]
    assert of["begun"] == [{"suite": "acceptance", "cell": "chat-zh-instruct-ngram-k4", "answers": 2}]
    assert "is not finished" in page.seen


def test_an_unfinished_run_without_a_whole_cell_is_shown_too() -> None:
    run = write_run(Path("run"), finished=False)
    begin(run, "acceptance", "chat-zh-instruct-ngram-k4")
    page = report(run, output=OUT)
    assert page.data["cells"] == []
    assert page.data["runs"][0]["begun"] == [
        {"suite": "acceptance", "cell": "chat-zh-instruct-ngram-k4", "answers": 0}
    ]


def test_what_a_suite_keeps_beside_its_cells_is_no_cell_that_was_begun() -> None:
    run = write_run(Path("run"), cell(suite="quality"), cell(suite="endpoints"), finished=False)
    name = "chat-en-instruct-ngram-k4"
    kept = {
        f"quality/questions/{name}": {"question": "1", "text": "?", "options": ["a", "b"], "right": 0},
        f"endpoints/{name}.tokens": {"prompt": "instruct-000", "tokens": [1]},
        "prefix/chat-en-instruct": {
            "length": 256,
            "id": "instruct-000",
            "language": "en",
            "category": "",
            "text": "long",
        },
    }
    for place, line in kept.items():
        (run / place).parent.mkdir(parents=True, exist_ok=True)
        (run / f"{place}.jsonl").write_text(as_line(line) * 3, encoding="utf-8")
    begin(run, "curve/04", name, "{}")
    page = report(run, output=OUT)
    assert page.data["runs"][0]["begun"] == [{"suite": "curve/04", "cell": name, "answers": 1}]


@pytest.mark.parametrize("finished", [True, False])
def test_cells_of_a_curve_that_is_not_whole_are_rows(*, finished: bool) -> None:
    run = write_run(Path("run"), cell(suite="curve/01"), finished=finished)
    page = report(run, output=OUT, code=2 if finished else 0)
    assert cells(page) == ["chat-en-instruct-ngram-k4"]
    assert len(page.data["runs"][0]["faults"]) == finished
    broken = run / "curve" / "01" / "chat-zh-instruct-ngram-k4.json"
    broken.write_text("{", encoding="utf-8")
    page = report(run, output=OUT, code=2)
    assert cells(page) == ["chat-en-instruct-ngram-k4"]
    assert [str(broken) in fault for fault in page.data["runs"][0]["faults"]] == [True]


def test_a_damaged_none_takes_the_speed_up_from_its_cells_and_nothing_else() -> None:
    run = write_run(Path("run"), cell(), plain())
    (run / "acceptance" / "chat-en-instruct-none.json").write_text("{", encoding="utf-8")
    for what in (run, run / "acceptance" / "chat-en-instruct-ngram-k4.json"):
        page = report(what, output=OUT, code=2)
        assert len(page.data["runs"][0]["faults"]) == 1
    assert cells(page) == ["chat-en-instruct-ngram-k4"]
    assert shown(page)["figures"]["tok_s"]
    assert shown(page)["figures"]["speed_up"] is None


def test_a_damaged_second_look_is_named_and_its_cell_left_out() -> None:
    for name in ("base", "new"):
        run = write_run(Path(name), cell(worse=3 * (name == "new")), cell("zh"))
        write_cell(run / "acceptance" / "reserve", cell(suite="acceptance/reserve"))
    broken = Path("new/acceptance/reserve/chat-en-instruct-ngram-k4.json")
    broken.write_text(broken.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    page = report("base", "new", output=OUT, code=2)
    assert cells(page, 1) == ["chat-zh-instruct-ngram-k4"]
    assert [str(broken) in fault for fault in page.data["runs"][1]["faults"]] == [True]


def test_runs_of_one_name_go_by_their_folders() -> None:
    runs = [write_run(Path(folder) / "run", cell()) for folder in ("a", "b")]
    page = report(*runs, output=OUT)
    assert [run["name"] for run in page.data["runs"]] == ["a/run", "b/run"]
    assert page.data["provenance"][0]["sides"] == ["a/run", "b/run"]


def test_a_run_of_other_suites_shows_what_they_said() -> None:
    run = write_run(Path("run"))
    keep(
        run,
        Outcome(suite="throughput", cell="chat-en-instruct-ngram-k4", kind="unsure", sentence="can't tell"),
    )
    page = report(run, output=OUT)
    assert page.data["runs"][0]["outcomes"][0]["sentence"] == "can't tell"
    assert "can't tell" in page.seen


@pytest.mark.parametrize("at", ["head", "prompts", "run.json"])
def test_what_is_damaged_is_named_and_the_rest_is_shown(at: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("good"), cell(), cell("zh"))
    write_run(Path("bad"), cell(), cell("zh"))
    broken = Path("bad/run.json" if at == "run.json" else "bad/acceptance/chat-zh-instruct-ngram-k4.json")
    text = broken.read_text(encoding="utf-8")
    broken.write_text(
        text[:40]
        if at != "prompts"
        else text.replace('"seed": 7', '"seed": "x"').replace('"seed":7', '"seed":"x"'),
        encoding="utf-8",
    )
    page = report("good", "bad", output=OUT, code=2)
    names = ["chat-en-instruct-ngram-k4", "chat-zh-instruct-ngram-k4"]
    assert cells(page) == (names[1:] if at != "run.json" else [])  # what has no partner stands alone
    assert cells(page, 1) == (names if at == "run.json" else names[:1])
    (fault,) = page.data["runs"][1]["faults"]
    assert str(broken) in fault
    assert fault in page.seen
    assert str(broken) in capsys.readouterr().err


def test_a_damaged_baseline_is_named_too() -> None:
    folder = Path("baselines")
    for language in ("en", "zh"):
        write_cell(folder, cell(language))
    (folder / "chat-zh-instruct-ngram-k4.json").write_text("{", encoding="utf-8")
    page = report(write_run(Path("run"), cell(), cell("zh")), "--baseline", folder, output=OUT, code=2)
    assert [c["became"] for c in page.data["cells"]] == ["identical", "alone"]
    assert page.data["baseline_faults"]


def test_a_baseline_that_is_damaged_among_its_prompts_hides_no_other() -> None:
    folder = Path("baselines")
    for language in ("en", "zh"):
        write_cell(folder, cell(language))
    broken = folder / "chat-zh-instruct-ngram-k4.json"
    text = broken.read_text(encoding="utf-8")
    broken.write_text(text[: text.rindex('"seed"')], encoding="utf-8")
    page = report(write_run(Path("run"), cell(), cell("zh")), "--baseline", folder, output=OUT, code=2)
    assert [c["became"] for c in page.data["cells"]] == ["identical", "alone"]
    assert str(broken) in page.data["baseline_faults"][0]


def test_runs_without_a_cell_in_common_are_shown_alone_with_the_reason() -> None:
    page = report(write_run(Path("a"), cell()), write_run(Path("b"), cell("zh", "suffix", 2)), output=OUT)
    assert cells(page) + cells(page, 1) == ["chat-en-instruct-ngram-k4", "chat-zh-instruct-suffix-k2"]
    assert page.data["runs"][1]["why_not_compared"]
    assert page.data["runs"][1]["why_not_compared"] in page.seen


def test_cells_of_another_target_are_refused_one_by_one_and_their_figures_stay() -> None:
    other = cell(identity={"target": "other"})
    page = report(write_run(Path("a"), cell()), write_run(Path("b"), other), output=OUT)
    of = next(c for c in page.data["cells"] if c["run"] == 1)
    assert of["became"] == "refused"
    assert "target" in of["verdict"]["text"]
    assert of["verdict"]["paired_tokens_per_step"] is None
    assert of["figures"]["tokens_per_step"]
    across = report("a", "b", "--across", "target", output=OUT)
    assert next(c for c in across.data["cells"] if c["run"] == 1)["verdict"]["paired_tokens_per_step"]


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["nothing"], ["empty"], ["run", "--baseline", "nothing"], ["run", "--baseline", "empty"],
        ["run", "--across", "colour", "run2"], ["stray.txt"],
    ],
    ids=str,
)  # fmt: skip
def test_nothing_to_show_is_one_sentence_and_no_page(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    Path("stray.txt").write_text("hello", encoding="utf-8")
    write_run(Path("run"), cell())
    write_run(Path("run2"), cell(identity={"target": "other"}))
    assert main(["report", *arguments, "--output", str(OUT)]) == 2
    assert not OUT.exists()
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.strip()


def test_a_page_goes_into_a_folder_that_is_there() -> None:
    write_run(Path("run"), cell())
    assert main(["report", "run", "--output", "nowhere/report.html"]) == 2


# One file that a reader can trust


def hostile() -> Path:
    """A run whose every text is hostile, beside another."""
    for name in ("base", HOSTILE.replace("/", "_")[:60]):
        prompts = tuple(
            renamed(
                i,
                f"{HOSTILE}{i}",
                text=f"{HOSTILE} {name} {i}",
                text_hash=f"{name}{i}",
                category=HOSTILE,
            )
            for i in range(24)
        )
        record = cell(
            prompts=prompts, findings=(Finding.note("odd", HOSTILE),),
            provenance={"command": HOSTILE, "host": HOSTILE},
            subject={"drafter": "ngram", "k": 4, "engine": HOSTILE, "settings": {HOSTILE: HOSTILE}},
        )  # fmt: skip
        run = write_run(Path(name), record)
    return run


def test_hostile_texts_stay_texts() -> None:
    run = hostile()
    page = report("base", run, output=OUT)
    assert sum(tag == "script" for tag, _ in page.tags) == 2 + len(page.run_scripts)
    assert not [a for tag, a in page.tags if tag == "img" or any(name.startswith("on") for name in a)]
    raw = OUT.read_text(encoding="utf-8")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\u2029]", raw)
    assert "49" not in page.data["findings"][0]["text"]
    assert "alert(1)" in page.seen
    assert any("\\u202egnp" in text and "<script>" in text for text in page.texts)


def test_it_loads_nothing() -> None:
    page = report("base", hostile(), output=OUT)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        for name in ("src", "href", "action", "srcset", "data"):
            assert (attributes.get(name) or "#").startswith("#")
    rules = dict(rule.strip().partition(" ")[::2] for rule in page.policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    assert rules["script-src"].split() == page.run_scripts
    styles = Path(OUT).read_text(encoding="utf-8").partition("<style>")[2].partition("</style>")[0]
    assert not re.search(r"url\(|@import", styles)


def test_the_libraries_are_as_they_were_published_with_their_licences() -> None:
    page = report(write_run(Path("run"), cell()), output=OUT)
    for library in LIBRARIES:
        assert sha256(library.text) == library.sha256
        assert library.version in library.file
        assert library.license_text in page.seen


def test_fifty_cells_of_120_prompts_fit_into_two_megabytes() -> None:
    rng = np.random.default_rng(7)
    letters = rng.integers(ord("a"), ord("z") + 1, size=(5000, 9), dtype=np.uint8)
    lexicon = [bytes(word[: 2 + i % 8]).decode() for i, word in enumerate(letters)]

    def told(i: int) -> dict[str, Any]:
        text = " ".join([lexicon[at] for at in rng.integers(5000, size=90).tolist()])
        return {"text": text, "text_hash": hash_of(text), "token_ids": tuple(range(answer(i).output_tokens))}

    once = [answer(i) for i in range(120)]
    for name in ("base", "new"):
        many = (
            cell(f"l{at:02d}", prompts=tuple(p.model_copy(update=told(i)) for i, p in enumerate(once)))
            for at in range(50)
        )
        write_run(Path(name), *many)
    page = report("base", "new", output=OUT)
    assert OUT.stat().st_size < 2_000_000
    assert sum(map(len, page.prompts)) == 6000
    assert 500 < len(page.texts) < page.data["texts"]


def test_a_page_that_is_full_shows_what_needs_a_look_and_says_what_it_leaves_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.report.html.page._CELLS", 2)
    monkeypatch.setattr("harness.report.html.page._PAIRS", 30)
    for name in ("old", "new"):
        worse = 3 * (name == "new")
        write_run(Path(name), cell(), cell("zh", worse=worse), cell("fr", worse=worse), plain())
    page = report("new", "--baseline", "old", output=OUT)
    assert [c["became"] for c in page.data["cells"]] == ["regressed", "regressed"]
    assert sum(bool(prompts) for prompts in page.prompts) == 1
    assert len(page.data["left_out"]) == 2
    assert all(text in page.seen for text in page.data["left_out"])
    assert page.data["sentence"].startswith("▼ 4 cells")


@pytest.mark.parametrize("at_most", [0, 100, 5000, 10**7])
def test_packing_keeps_the_first_texts_that_fit(at_most: int) -> None:
    words = random.Random(3)  # noqa: S311
    texts = ["".join(words.choices('abc好"\\\n', k=words.randint(0, 400))) for _ in range(200)]
    carried = packed(texts, at_most)
    page = Page(f'<script id="answers" type="text/plain">{carried}</script>')
    assert page.texts == texts[: len(page.texts)]
    assert len(carried) <= at_most + 120
    assert (len(page.texts) == len(texts)) == (at_most == 10**7)
