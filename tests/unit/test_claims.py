from __future__ import annotations

import html
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from harness.cli import main
from harness.errors import BadRecord
from harness.report.figures import figures_before, figures_in, has_more
from harness.report.references import comment, read
from harness.results.records import Finding
from tests.factories.refusals import refused
from tests.factories.runs import cell, plain, write_cell, write_run

pytestmark = pytest.mark.usefixtures("here")

ROOT = Path(__file__).parents[2]
NGRAM = "chat-en-instruct-ngram-k4"
LOOPS = Finding(code="loops", hard=False, text="3 of 24 answers end in a loop")


@pytest.fixture
def before() -> str:
    return str(write_run(Path("before"), plain(seconds=4.0), cell(findings=(LOOPS,)), cell("zh")))


@pytest.fixture
def after() -> str:
    return str(write_run(Path("after"), plain(seconds=4.0), cell(worse=3), cell("zh"), cell(k=2)))


def claims(
    capsys: pytest.CaptureFixture[str], text: str, *runs: str, options: tuple[str, ...] = ()
) -> tuple[int, str]:
    """Exit code and all that was said of a file with this text."""
    Path("page.md").write_text(text, encoding="utf-8")
    code = main(["claims", "page.md", *(runs or ("before",)), *options])
    out, err = capsys.readouterr()
    return code, out + err


def one(figure: str, field: str, more: str = "") -> str:
    return f"so {figure}<!-- draftgate: run=before cell={NGRAM} field={field}{more} -->, it says\n"


# Figures that stand in a text


@pytest.mark.parametrize(
    ("figure", "field"),
    [
        ("3.5", "tokens_per_step"),
        ("3.51", "tokens_per_step"),
        ("**3.51**", "tokens_per_step"),
        ("*(3.51)* ", "tokens_per_step"),
        ("`3.51`", "tokens_per_step"),
        ("2.64", "accepted_per_draft"),
        ("3.64", "tau"),
        ("78.3 %", "pos_0"),
        ("**78** %", "pos_0"),
        ("78.3%", "pos_0"),
        ("0.783", "pos_0"),
        ("78.3", "pos_0%"),
        ("89.6 %", "conditional_1"),
        ("70.1 %", "pos_1"),
        ("—", "pos_4"),
        ("66.1 %", "token_acceptance"),
        ("24", "prompts"),
        ("24", "asked"),
        ("34.5 tok/s", "tok_s"),
        ("4.46x", "speed_up"),
        ("4.46×", "speed_up"),
        ("500 ms", "ttft_ms"),
        ("3", "loops"),
        ("0", "left_out"),
    ],
)
def test_a_figure_holds_at_the_precision_that_is_printed(
    figure: str, field: str, before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = claims(capsys, one(figure, field), before)
    assert (code, said) == (0, "page.md: 1 checked, all hold\n")


@pytest.mark.parametrize(
    ("figure", "field", "said"),
    [
        ("3.52", "tokens_per_step", "3.52 stands there, the record says 3.51 (3.5"),
        ("4", "tau", ""),
        ("3.7", "tau", "the record says 3.6 ("),
        ("3.6500", "tau", "the record says 3.64"),
        ("-3.51", "tokens_per_step", "-3.51 stands there"),
        ("78.4 %", "pos_0", "78.4 % stands there, the record says 78.3 % ("),
        ("78.3", "pos_0", "78.3 stands there, the record says 0.8 ("),
        ("0.783 %", "pos_0", "the record says 78.281 % ("),
        ("0.783", "pos_0%", "the record says 78.281 % ("),
        ("351 %", "tokens_per_step", "is not in %"),
        ("3.51 ms", "tokens_per_step", "is not in ms"),
        ("12.0", "pos_4", "12.0 stands there, it was not measured"),
        ("—", "tau", "— stands there, the record says 3.6"),
        ("24.5", "prompts", "the record says 24.0"),
        ("1,024", "prompts", "1,024 stands there, the record says 24"),
    ],
)
def test_a_figure_that_is_not_the_records_is_named(
    figure: str, field: str, said: str, before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = claims(capsys, "a\n" + one(figure, field), before)
    if figure == "4":  # tau is 3.64
        assert code == 0
        return
    assert code == 1
    assert out.startswith(f"page.md:2: {field.rstrip('%')} of {NGRAM} in before")
    assert said in out
    assert out.endswith("page.md: 1 of 1 not as recorded\n")


@pytest.mark.parametrize(
    ("figure", "field"),
    [
        ("-11.8 %", "change"),
        ("−11.8 %", "change"),
        ("-15.2..-8.1 %", "ci"),
        ("(−15.2..−8.1)", "ci%"),
        ("3.51 -> 3.09", "base_paired_tokens_per_step/paired_tokens_per_step"),
        ("3.51 → 3.09", "paired_tokens_per_step"),
        ("24 of 24", "same_text/pairs"),
        ("24/24", "same_text/pairs"),
        ("78.3 → 67.4 (-10.9)", "conditional_0%"),
        ("78.3 → 67.4 (-10.9) %", "conditional_0"),
        ("0.783 → 0.674 (-0.109)", "conditional_0"),
        ("**78.3 %** → **67.4 %** (−10.9)", "conditional_0%"),
        ("3.94", "speed_up"),
        ("4.46", "base_speed_up"),
        ("3.09", "tokens_per_step"),
    ],
)
def test_a_comparison_is_a_claim_about_two_cells(
    figure: str, field: str, before: str, after: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = one(figure, field, " base=before").replace("run=before", "run=after")
    code, said = claims(capsys, text, before, after)
    assert code == 0, said
    code, said = claims(capsys, text.replace("base=before", "base=after"), before, after)
    assert code == (0 if field in ("same_text/pairs", "paired_tokens_per_step", "speed_up", "tokens_per_step")
                    else 1), said  # fmt: skip


def test_nothing_is_compared_across_what_differs_unless_told(
    before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(Path("fp8"), cell(worse=3, identity={"quantization": "fp8"}))
    text = one("-11.8 %", "change", " base=before").replace("run=before", "run=fp8")
    code, said = claims(capsys, text, before, "fp8")
    assert code == 1
    assert "it was not measured" in said
    code, _ = claims(capsys, text.replace(" -->", " across=quantization -->"), before, "fp8")
    assert code == 0
    code, said = claims(capsys, text.replace(" -->", " across=colour -->"), before, "fp8")
    assert code == 2
    assert "page.md:1: --across colour: no field" in said


def test_no_figure_of_what_is_no_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    hard = Finding(code="x", hard=True, text="foreign traffic")
    write_run(Path("before"), cell(findings=(hard,)))
    assert claims(capsys, one("3.51", "tokens_per_step"))[0] == 1
    assert claims(capsys, one("—", "tokens_per_step"))[0] == 0


# References that lead nowhere


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (one("3.51", "tau").replace("=before", "=Before"), " Before; there are: before"),
        (one("3.51", "tau").replace("-k4", "-k8"), "k8; there are: chat-en-instruct-none, "),
        (one("3.51", "tao"), " tao; there are: asked, tokens_per_step, tau"),
        (one("3.51", "change"), "(with base=RUN also what a comparison says)"),
        (one("3.51", "Tau"), "'Tau'"),
        (one("a", "tau"), " tau"),
        (one("3.51 or so", "tau"), " tau"),
        (one("k4", "tau"), " tau"),
        (one("1,5", "tau"), " tau"),
        (one("1e5", "tau"), " tau"),
        (one("3-4", "tau"), " tau"),
        (one("3.51", "ci", " base=before"), "ci is 2 figures, but 1 "),
        ("3.51<!-- draftgate: run=before field=tau -->", "tau names no cell"),
        (f"3.51<!-- draftgate: cell={NGRAM} field=tau -->", "tau names no run"),
        (f"3.51<!-- draftgate: run=.. cell={NGRAM} field=tau -->", " ..; there are: before"),
        (f"3.51<!-- draftgate: run=before cell={NGRAM} -->", "field=FIELD"),
        ("3.51<!-- draftgate: run=before cell=x\nfield=tau -->", "-->"),
        ("3.51<!-- draftgate run=before -->", "<!-- draftgate: run=RUN"),
        ("3.51<!-- draftgate: run=a run=b field=tau -->", "run="),
        ("3.51<!-- draftgate: tau -->", "'tau'"),
        ("3.51<!-- draftgate: fields=tau -->", "'fields=tau'"),
        (one("3.64", "tau", " cell2=x"), "'cell2=x'"),
        (one("3.64", "tau@base"), "'tau@base'"),
        ("3.51<!-- draftgate: run=%FF field=tau -->", "'run=%FF'"),
        ("3.51<!-- draftgate: columns=tau -->", "columns="),
        ("<!-- draftgate: columns=tau -->\n\ntext", "<!-- draftgate: cell=CELL -->"),
        ("<!-- draftgate: columns=tau -->", "<!-- draftgate: cell=CELL -->"),
        ("<!-- draftgate: columns=tau -->\n| 1 |", "<!-- draftgate: cell=CELL -->"),
        ("<!-- draftgate: columns=- -->\n| 1 | 2 <!-- draftgate: cell=x --> |", "the row has 2 columns"),
        (
            f"<!-- draftgate: run=before columns=tau -->\n| 3.64 (3) <!-- draftgate: cell={NGRAM} --> |",
            "tau is said to hold 1 figures, but 2 ",
        ),
    ],
)  # fmt: skip
def test_a_reference_that_leads_nowhere_says_what_there_is(
    text: str, said: str, before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = claims(capsys, text, before)
    assert code == 2
    assert re.search(r"^draftgate: page.md:\d: .*\[claim-reference\]$", out, re.MULTILINE)
    assert said in out
    assert "all hold" not in out
    assert "Traceback" not in out


def test_one_bad_reference_hides_no_mismatch(before: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = claims(capsys, one("9", "tau") + one("3.64", "tau") + one("a", "tau"), before)
    assert code == 2
    assert f"page.md:1: tau of {NGRAM} in before: 9 stands there" in out
    assert "page.md: 1 of 2 not as recorded; references that cannot be checked: 1" in out


def test_nothing_to_check_is_no_success(before: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = claims(capsys, "tau is 9\n", before)
    assert code == 2
    assert "page.md" in out
    assert out.endswith("[claim-reference]\n")
    assert claims(capsys, "9\n", before, options=("--allow-none",)) == (0, "page.md: 0 checked, all hold\n")


@pytest.mark.parametrize(
    "text",
    [
        f"```\n{one('9', 'tau')}```\n",
        f"~~~~ text\n~~~\n{one('9', 'tau')}~~~~\n",
        f"- a\n  ```\n  {one('9', 'tau')}  ```\n",
        f"write `{one('9', 'tau').strip()}` so\n",
        f"write `` `{one('9', 'tau').strip()} `` so\n",
    ],
)
def test_an_example_in_code_claims_nothing_but_is_counted(
    text: str, before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = claims(capsys, text + one("3.64", "tau"), before)
    assert (code, out) == (0, "page.md: 1 checked, all hold (1 in code left alone)\n")


@pytest.mark.parametrize("text", ["```a``` ", "``` ` ", "\\`", "`a` and `b` ", "> ", "    ", "` "])
def test_what_only_looks_like_code_is_checked(
    text: str, before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert claims(capsys, text + one("9", "tau"), before)[0] == 1


# Runs


def test_a_run_is_named_by_the_parts_of_its_path_that_lead_to_one_cell(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for suite, worse in (("acceptance", 0), ("other", 3)):
        write_cell(Path("baselines/cpu/gate", suite), cell(worse=worse, suite=suite))
    text = one("3.51", "tokens_per_step")
    code, out = claims(capsys, text.replace("=before", "=baselines/cpu/gate"), "baselines")
    assert code == 2
    assert f"has 2 cells named {NGRAM} (baselines/cpu/gate/acceptance/{NGRAM}.json and " in out
    for name in (
        "gate/acceptance",
        "acceptance",
        "baselines/cpu/gate/acceptance",
        f"acceptance/{NGRAM}.json",
    ):
        assert claims(capsys, text.replace("=before", f"={name}"), "baselines", "baselines/cpu")[0] == 0, name
    assert claims(capsys, text.replace("=before", "=other"), "baselines")[0] == 1
    assert claims(capsys, text.replace("=before", "=accept"), "baselines")[0] == 2
    assert (
        claims(capsys, text.replace("=before", "=gate"), f"baselines/cpu/gate/acceptance/{NGRAM}.json")[0]
        == 0
    )


def test_what_cannot_be_read_is_one_sentence(before: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "nowhere.md", before]) == 2
    assert capsys.readouterr().err == "draftgate: nowhere.md: No such file or directory [cannot-read]\n"
    assert claims(capsys, one("1", "tau"), "nowhere") == (
        2,
        "draftgate: nowhere: no such file or folder [no-cells]\n",
    )
    Path(before, "acceptance", f"{NGRAM}.json").write_text("{", encoding="utf-8")
    assert claims(capsys, one("1", "tau"), before)[0] == 2


# Tables that draftgate made


@pytest.fixture
def third() -> str:
    elsewhere = {"cpu": "Another", "threads": 4, "gpus": []}
    return str(write_run(Path("third"), cell(environment=elsewhere), cell("zh", worse=3)))


@pytest.mark.parametrize(
    ("arguments", "least"),
    [
        (["before", "after"], 32),
        (["before", "third"], 20),
        (["before", "fp8"], 0),
        (["before", "fp8", "--across", "quantization"], 8),
        ([f"before/acceptance/{NGRAM}.json", "after/acceptance/chat-en-instruct-ngram-k2.json"], 8),
        (["two", "two"], 30),
        (["a/run", "b/run"], 15),
        ([".", "../after"], 32),
    ],
)
@pytest.mark.usefixtures("here", "before", "after", "third")
def test_a_table_holds_and_no_figure_changed_in_it_does(
    arguments: list[str], least: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(Path("fp8"), cell(worse=3, identity={"quantization": "fp8"}))
    for suite in ("a", "b"):
        write_cell(Path("two", suite), cell(suite=suite, worse=3 * (suite == "b")))
        write_run(Path(suite, "run"), cell(worse=3 * (suite == "b")))
    if "." in arguments:
        monkeypatch.chdir("before")
    main(["compare", *arguments, "--format", "markdown", "--output", "table.md"])
    text = Path("table.md").read_text(encoding="utf-8")
    runs = [a for a in arguments if Path(a).exists()]
    code, said = claims(capsys, text, *runs)
    assert code == 0, said
    changed = 0

    def another(found: re.Match[str]) -> str:
        nonlocal changed
        changed += 1
        return found[0][:-1] + str((int(found[0][-1]) + 5) % 10)

    lines = text.split("\n")
    for i, line in enumerate(lines):
        if line.startswith("|") and "<!--" in line:
            label, *cells, last = line.split(" | ")
            shown, comment_begin, rest = last.partition("<!--")
            figures = [re.sub(r"\d+(\.\d+)?", another, html.unescape(cell)) for cell in (*cells, shown)]
            lines[i] = " | ".join([label, *figures]) + comment_begin + rest
    code, said = claims(capsys, "\n".join(lines), *runs)
    assert changed >= least
    assert code == (1 if least else 0)
    assert not least or f"page.md: {changed} of " in said, said


@pytest.mark.parametrize("more", [["third"], ["--pivot", "language"]])
@pytest.mark.usefixtures("here", "before", "after", "third")
def test_a_row_of_several_cells_refers_to_none(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "before", "after", *more, "--format", "markdown"])
    assert "<!--" not in capsys.readouterr().out


def test_the_comments_of_a_table_are_short_and_name_runs_not_machines(
    before: str, after: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["compare", str(Path(before).absolute()), after, "--format", "markdown"])
    out = capsys.readouterr().out
    heads = re.findall(
        r"^<!-- draftgate: base=before/acceptance run=after/acceptance columns=\S+ -->$", out, re.MULTILINE
    )
    assert len(heads) == 2
    assert f" <!-- draftgate: cell={NGRAM} --> |" in out
    assert len(re.findall(r"<!-- draftgate: cell=[a-z0-9-]+ -->", out)) == 5


def test_an_absolute_path_is_written_by_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    write_cell(Path("baselines/s/cpu/gate/acceptance"), cell())
    gate = str(Path("baselines/s/cpu/gate").absolute())
    main(["compare", gate, gate, "--format", "markdown"])
    out = capsys.readouterr().out
    folder = "baselines/s/cpu/gate/acceptance"
    assert f"<!-- draftgate: base={folder} run={folder} columns=" in out
    assert claims(capsys, out, "baselines")[0] == 0


HOSTILE = "a--b-->|<script>`x`\x1b[31m\nc 中文 --!> ---"


def test_a_name_cannot_end_its_comment(capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a--b", "c d|-->"):
        record = cell(drafter="x")
        record = record.model_copy(update={"cell": record.cell.model_copy(update={"drafter": HOSTILE})})
        Path(folder).mkdir()
        Path(folder, "cell.json").write_text(json.dumps(record.model_dump(by_alias=True)), encoding="utf-8")
    main(["compare", "a--b", "c d|-->", "--format", "markdown", "--output", "table.md"])
    text = Path("table.md").read_text(encoding="utf-8")
    for found in re.findall(r"<!--(.*)", text):
        inside, end, rest = found.partition("-->")
        assert end
        assert "--" not in inside
        assert not set("<>|`\x1b") & set(inside)
        assert rest in ("", " |")
    code, said = claims(capsys, text, "a--b", "c d|-->")
    assert code == 0, said
    assert int(said.split()[1]) > 10


# The parser


@given(st.text(st.characters(), min_size=1), st.text(st.characters(), min_size=1))
@example("--", "---")
@example("-->", "--!>")
@example("%2D", "a b")
def test_what_is_written_is_read_again(run: str, name: str) -> None:
    written = comment({"run": run, "cell": name, "field": "pos_0%"})
    assert written.isprintable()
    assert "--" not in written[4:-3]
    (claim,) = read(f"| 12.5 {written} |").claims
    assert (claim.keys["run"], claim.keys["cell"]) == (run, name)


PIECES = [*"a1—-−+.,%|`~>\\ \n\r*_()/<!=:", "<!-- draftgate:", "-->", "columns=a", "cell=a", "```", "field="]


@given(st.lists(st.sampled_from(PIECES)))
@example(["<!-- draftgate:", "columns=a", "-->", "\n", "|"])
def test_no_text_breaks_the_parser(pieces: list[str]) -> None:
    text = "".join(pieces)
    found = read(text)
    assert not found.claims
    figures_in(text)
    figures_before(text)


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9),
    st.integers(0, 3),
    st.sampled_from(["", ",", "\u202f", "\u00a0"]),
    st.sampled_from(["{}", "**{}**", "({}", "is {}", "~{} %", "a → {}", "{}x"]),
)
def test_a_number_is_read_as_it_is_printed(value: Decimal, digits: int, between: str, around: str) -> None:
    text = f"{value:,.{digits}f}".replace(",", between)
    expected = Decimal(f"{value:.{digits}f}")
    for minus in ("-", "−"):
        (*_, figure) = figures_before(around.format(text.replace("-", minus)))
        assert (figure.value, figure.digits) == (expected, digits)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("-15.2..-8.1", ["-15.2", "-8.1"]),
        ("+1.0..+2.0 %", ["1.0", "2.0"]),
        ("a 1 and 2", ["2"]),
        ("1, 2", ["2"]),
        ("(1..2)", ["1", "2"]),
        ("1 (2)", ["1", "2"]),
        ("**24** of **120**", ["24", "120"]),
        ("1 — ", [None]),
        ("—..—", [None, None]),
        ("1.2.3", []),
        ("12 456", ["456"]),
        ("1_2", []),
        ("是2.40", ["2.40"]),
        ("从1.21到2.40", ["2.40"]),
        ("k4", []),
        ("é4", []),
        ("1e5", []),
        ("10⁵", []),
        ("1.2万", []),
        ("٣5", []),
        ("54.1％", ["54.1"]),
    ],
)
def test_figures_right_before(text: str, values: list[str | None]) -> None:
    expected: list[Any] = [Decimal(v) if v else None for v in values]
    assert [f.value for f in figures_before(text)] == expected


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        ("2.40的", [("2.40", "")]),
        ("接受率54.1%，共24个", [("54.1", "%"), ("24", "")]),
        ("54.1 %的步", [("54.1", "%")]),
        ("34.5 tok/s左右", [("34.5", "tok/s")]),
        ("54.1％的步", [("54.1", "%")]),
        ("2.40은", [("2.40", "")]),
        ("约 1,024个", [("1,024", "")]),
        ("1.2万个", []),
        ("3мс k4", []),
    ],
)
def test_a_figure_ends_where_its_number_ends_in_any_script(text: str, figures: list[tuple[str, str]]) -> None:
    assert [(f.text, f.unit) for f in figures_in(text)] == figures


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        ("２．４０的", [("2.40", "")]),
        ("１，０２４个", [("1,024", "")]),
        ("24，120", [("24", ""), ("120", "")]),
        ("－11.8％", [("-11.8", "%")]),
        ("\u201111.8 %", [("-11.8", "%")]),
        ("−\u202f11.8 %", [("−\u202f11.8", "%")]),
        ("-**11.8** %", [("-11.8", "%")]),
        ("78.3 → ６７.４（－10.9）", [("78.3", ""), ("67.4", ""), ("-10.9", "")]),
        ("2.40一样", [("2.40", "")]),
        ("2.40ครั้ง", [("2.40", "")]),
        ("7.5回", [("7.5", "")]),
        ("2.\u200b40", [("2.40", "")]),
        ("[2.40](runs/3.5)", [("2.40", "")]),
        ("2\\.40", [("2.40", "")]),
        ("1\u2007024", [("1\u2007024", "")]),
        ("54.1\u3000％", [("54.1", "%")]),
        ("2.40 ¹ ²", [("2.40", "")]),
        ("ngram-k4 v0.32.0 2.40", [("2.40", "")]),
    ],
)
def test_a_figure_is_what_a_reader_sees(text: str, figures: list[tuple[str, str]]) -> None:
    assert [(f.text, f.unit) for f in figures_in(text)] == figures
    assert not has_more(text)


UNREAD = (
    "1.2万", "1.2 万", "1.2만", "2.40раз", "2024-11-29", "10:30", "0.32.0", "1'024",
    "2^10", "10⁵", "24×5", "3.5×10⁵", "3～4", "3-4", "3–4", "1.21—2.40",
    "24%-30%", "54‰", "**2**.40", ".5", "٢٫٤", "๒.๔", "½", "1½",
    "1.2e-3", "1,00,000", "1\u202f234,56",
)  # fmt: skip


@pytest.mark.parametrize("text", UNREAD)
def test_what_is_read_only_in_part_is_no_figure(
    text: str, before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert has_more(text)
    assert not figures_before(text)
    assert claims(capsys, one(text, "tau"), before)[0] == 2
    row = (
        f"<!-- draftgate: columns=tau/tau -->\n\n| 3.64 {{}} <!-- draftgate: run=before cell={NGRAM} --> |\n"
    )
    assert claims(capsys, row.format(""), before)[0] == 0
    code, said = claims(capsys, row.format(text), before)
    assert code == 2, said
    assert "[claim-reference]" in said


_SIGNS = "+-−–—‐‑‒－＋﹣"
_NO_DIGITS = st.characters(exclude_categories=("Nd", "Nl", "No", "Cs", "Cf"), exclude_characters=_SIGNS)
_AROUND = st.text(_NO_DIGITS, max_size=6)


@given(left=_AROUND, value=st.decimals(0, 10**6, places=2), wide=st.booleans(), right=_AROUND)
def test_no_text_around_a_number_makes_another_of_it(
    *, left: str, value: Decimal, wide: bool, right: str
) -> None:
    digits = f"{value:,.2f}"
    number = digits.translate({c: c + 0xFEE0 for c in map(ord, "0123456789.,")}) if wide else digits
    found = [figure.value for figure in figures_in(left + number + right)]
    assert found in ([value], [])
    if not found:  # a word that ends in digits, like k4, is none; all else is refused where it is claimed
        assert has_more(left + number + right) or left[-1].isalpha() or left[-1] in "_."


def test_an_entity_in_a_table_is_no_figure() -> None:
    assert [f.text for f in figures_in(html.unescape("78.3 → 67.4 (-10.9) &#126;"))] == [
        "78.3",
        "67.4",
        "-10.9",
    ]


# Ours


def test_our_own_figures_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    held = {}
    for page in [Path("README.md"), *sorted(Path("docs").glob("*.md"))]:
        runs = ("baselines", "tests/data/recordings")
        assert main(["claims", str(page), *runs, "--allow-none"]) == 0, capsys.readouterr()
        held[page.name] = int(capsys.readouterr().out.split()[1])
    assert held["README.md"] >= 29
    assert held["measuring.md"] >= 3
    assert held["claims.md"] >= 4


MERGED = "<<<<<<< HEAD\ntau 2.5\n=======\ntau 2.6\n>>>>>>> theirs\n"


@pytest.mark.parametrize("left", [MERGED, MERGED.partition("\n")[2], MERGED.replace(">>>>>>> theirs\n", "")])
def test_an_unfinished_merge_is_refused_with_its_line_but_not_in_an_example(left: str) -> None:
    number = 2 + left.splitlines().index(next(line for line in left.splitlines() if line[0] in "<>"))
    with refused(BadRecord, "damaged-file", f"README.md, line {number}"):
        read(f"# Title\n{left}", name="README.md")
    assert read(f"```\n{left}```\n").claims == ()
