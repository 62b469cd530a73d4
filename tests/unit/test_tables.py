from __future__ import annotations

import pytest
from wcwidth import wcswidth

from harness.judge.verdict import Verdict
from harness.report.run_table import (
    acceptance_table,
    common_lines,
    footnotes,
    report,
    speed_table,
    verdict_table,
    written,
)
from harness.results.records import CellRecord, Finding
from harness.text.numbers import number
from harness.text.render import text_table
from tests.factories.records import cell_name, cell_record, prompt_record

NGRAM = cell_record(prompt_record("a"), prompt_record("b"))
PLAIN_PROMPT = prompt_record(
    source="none", accepted=None, drafted=None, histogram=(0,), draft_tokens=0, undrafted=19,
    began_s=0.0, ttft_s=0.5, total_s=4.0,
)  # fmt: skip
PLAIN = cell_record(PLAIN_PROMPT, cell=cell_name(drafter="none", k=0))
SHORT = cell_record(
    prompt_record(
        histogram=(1, 1, 2), accepted=None, drafted=None, draft_tokens=None, undrafted=0, output_tokens=10
    ),
    cell=cell_name(drafter="suffix", k=2),
)


def row(text: str) -> list[str]:
    return text.split()


@pytest.mark.parametrize(
    ("value", "digits", "scale", "text"),
    [
        (1.005, 1, 1, "1.0"),
        (0.0, 2, 1, "0.00"),
        (None, 2, 1, "—"),
        (0.12345, 1, 100, "12.3"),
        (2, 0, 1000, "2000"),
    ],
)
def test_a_figure_is_rounded_or_a_dash(value: float | None, digits: int, scale: float, text: str) -> None:
    assert number(value, digits, scale=scale) == text


def test_the_acceptance_table_of_hand_computed_cells() -> None:
    header, rows = written(*acceptance_table([NGRAM, SHORT, PLAIN]))

    assert header == ["cell", "n", "tok/step", "tau", "acc/draft", "tok acc", "pos 0", "pos 1", "pos 2",
                      "pos 3", "1|0", "2|1", "3|2"]  # fmt: skip
    # Per prompt: six verify steps with 0, 0, 3, 3, 1, 4 accepted of 24 drafted, two steps without drafts.
    assert rows[0] == row(
        "chat-en-instruct-ngram-k4 2 2.38 2.83 1.83 45.8 66.7 50.0 50.0 16.7 75.0 100.0 33.3"
    )
    # 0, 1, 2, 2 accepted; what was drafted is not known, and there are no positions 2 and 3.
    assert rows[1] == row("chat-en-instruct-suffix-k2 1 2.25 2.25 1.25 — 75.0 50.0 — — 66.7 — —")
    assert rows[2] == row("chat-en-instruct-none 1 1.00 — — — — — — — — — —")


def test_every_row_is_as_long_as_its_header() -> None:
    for cells in ([PLAIN], [NGRAM], [NGRAM, SHORT, PLAIN], [SHORT, cell_record(cell=cell_name(k=1))]):
        header, rows = written(*acceptance_table(cells))
        assert {len(r) for r in rows} == {len(header)}, cells[0].cell


def test_a_cell_without_an_answer_has_dashes_only() -> None:
    _, rows = written(*acceptance_table([cell_record(cell=cell_name(k=1))]))

    assert rows == [["chat-en-instruct-ngram-k1", "0", "—", "—", "—", "—", "—"]]


def test_the_speed_table_has_dashes_where_nothing_was_timed() -> None:
    untimed = cell_record(
        prompt_record(began_s=None, ttft_s=None, total_s=None), cell=cell_name(language="zh")
    )

    header, rows = written(*speed_table([NGRAM, untimed, PLAIN]))

    assert header == ["cell", "aggregate tok/s", "mean-prompt tok/s", "TTFT ms", "TPOT ms", "speed-up"]
    # Two prompts of 20 tokens in the same 2.5 s; `none` made 20 in 4 s: 16 against 5 tokens a second.
    assert rows[0] == row("chat-en-instruct-ngram-k4 16.0 8.0 500 105.3 3.20")
    assert rows[1] == row("chat-zh-instruct-ngram-k4 — — — — —")
    assert rows[2] == row("chat-en-instruct-none 5.0 5.0 500 184.2 —")


def speed_ups(*cells: CellRecord) -> list[str]:
    """The last column of the speed table."""
    return [row[-1] for row in written(*speed_table(cells))[1]]


def test_a_speed_up_is_over_none_of_the_same_place_only() -> None:
    elsewhere = cell_record(PLAIN_PROMPT, cell=cell_name(drafter="none", k=0, language="zh"))

    assert speed_ups(NGRAM, elsewhere) == ["—", "—"]
    assert speed_ups(NGRAM, elsewhere, PLAIN) == ["3.20", "—", "—"]


GOLDEN = """\
cell                 tok/step  mark
chat-en-ngram-k4         2.38     ✓
中文-摘要                   —  變慢
chat-中文-ngram-k16     10.00     ▲"""


def test_a_table_with_chinese_in_it_is_aligned() -> None:
    text = text_table(
        ["cell", "tok/step", "mark"],
        [
            ["chat-en-ngram-k4", "2.38", "✓"],
            ["中文-摘要", "—", "變慢"],
            ["chat-中文-ngram-k16", "10.00", "▲"],
        ],
    )

    assert text == GOLDEN
    assert {wcswidth(line) for line in text.splitlines()} == {35}


def test_a_table_does_not_read_figures_into_names() -> None:
    assert text_table(["cell", "n"], [["1e5", "007"]]) == "cell    n\n1e5   007"


def test_what_all_cells_share_stands_above() -> None:
    assert common_lines([NGRAM]) == [
        (
            "stack smollm2-cpu · profile quick · target smollm2-135m-instruct bfloat16 · vLLM 0.32.0 · T=0 · "
            "max_tokens 64 · concurrency 1 · prefix cache cold"
        ),
        "device A CPU · threads 2",
    ]


def test_a_gpu_is_the_device_where_there_is_one() -> None:
    both = [{"name": "NVIDIA H200"}, {"name": "NVIDIA H200"}]
    cell = cell_record(environment={"cpu": "A CPU", "threads": 2, "gpus": both})

    assert common_lines([cell])[1] == "device NVIDIA H200, NVIDIA H200"


def test_a_server_elsewhere_has_an_unverified_device() -> None:
    assert common_lines([cell_record(environment={})])[1] == "device unverified"


def finding(text: str, *, hard: bool = False) -> Finding:
    return Finding(code="x", hard=hard, text=text)


def test_equal_footnotes_are_one_line_and_what_makes_invalid_comes_first() -> None:
    patched = finding("a patch")
    cells = [
        cell_record(cell=cell_name(k=1), findings=(patched,)),
        cell_record(cell=cell_name(k=2), findings=(finding("loops"), patched)),
        cell_record(cell=cell_name(k=3), findings=(patched, finding("loops"), finding("warm", hard=True))),
    ]

    assert footnotes(cells) == [
        "INVALID: chat-en-instruct-ngram-k3: warm",
        "note: all 3 cells: a patch",
        "note: chat-en-instruct-ngram-k2, chat-en-instruct-ngram-k3: loops",
    ]


def test_a_single_cell_is_named_in_its_footnote() -> None:
    assert footnotes([cell_record(findings=(finding("loops"),))]) == [
        "note: chat-en-instruct-ngram-k4: loops"
    ]


def test_a_report_has_both_tables_and_its_footnotes_last() -> None:
    text = report(
        [NGRAM, cell_record(PLAIN_PROMPT, cell=cell_name(drafter="none", k=0), findings=(finding("x"),))]
    )

    lines = text.splitlines()
    assert lines[0].startswith("stack smollm2-cpu")
    assert [line.split()[0] for line in lines if line.startswith("chat-")] == [
        "chat-en-instruct-ngram-k4", "chat-en-instruct-none",
    ] * 2  # fmt: skip
    assert lines[-2:] == ["", "note: chat-en-instruct-none: x"]


def test_a_cell_of_loops_is_marked_in_every_table_and_has_no_speed_up() -> None:
    loops = Finding(code="mostly-loops", hard=False, text="2 of 2 answers end in a loop")
    stuck = NGRAM.model_copy(update={"findings": (loops,)})
    stuck_plain = PLAIN.model_copy(update={"findings": (loops,)})
    verdict = Verdict(kind="invalid", text="")

    for header, rows in (
        written(*acceptance_table([stuck])),
        written(*speed_table([stuck, PLAIN])),
        written(*verdict_table([(stuck, verdict)])),
    ):
        assert rows[0][header.index("cell")] == "chat-en-instruct-ngram-k4 ↻"
    assert speed_ups(stuck, PLAIN)[0] == speed_ups(NGRAM, stuck_plain)[0] == "—"
    assert written(*speed_table([stuck, PLAIN]))[1][0][1:3] == ["16.0", "8.0"]
