"""What `draftgate compare` draws: all figures of the tables with intervals, legible, the same every time."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from harness.cli import main
from harness.errors import BadInput
from harness.judge.collect import collect, of_drafter
from harness.judge.compare import Comparison, compare
from harness.report import drawing
from harness.report.plots import Forest, Picture, picture
from harness.results.records import Finding
from harness.text.numbers import number, share
from tests.factories.refusals import refused
from tests.factories.runs import HARD, cell, plain, write_cell, write_run

pytestmark = pytest.mark.usefixtures("here")

ROOT = Path(__file__).parents[2]
MAGIC = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
CHINESE = "草稿模型"
HOSTILE = "a$b_{1}$<script>\u202e&\n" + "长" * 300


@pytest.fixture
def worse() -> str:
    return str(write_run(Path("worse"), plain(seconds=4.0), cell(worse=3), cell("zh", k=4)))


def comparison(*paths: str, **words: Any) -> Comparison:
    return compare([collect(Path(path)) for path in paths], **words)


def drawn(shown: Picture, form: str = "svg") -> bytes:
    return drawing.draw(shown, form, pytest.fail)


def of_svg(raw: bytes) -> str:
    """The text that a picture says itself to hold."""
    (found,) = ET.fromstring(raw).iter("{http://purl.org/dc/elements/1.1/}description")  # noqa: S314 - ours
    return found.text or ""


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """Those that are drawn, but for their bytes."""
    found: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: found.append(self))
    yield found
    found.clear()


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Those that are drawn, in whole."""
    found: list[Figure] = []
    save = Figure.savefig

    def spy(self: Figure, *args: Any, **words: Any) -> None:
        save(self, *args, **words)
        found.append(self)

    monkeypatch.setattr(Figure, "savefig", spy)
    return found


# The command


@pytest.mark.parametrize("form", MAGIC)
def test_the_end_of_the_files_name_says_what_is_drawn(
    form: str, base: str, worse: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.commands.pictures.draw", lambda _picture, form, _warn: form.encode())
    assert main(["compare", base, worse, "--output", f"x.{form}"]) == 1  # as without a picture
    assert main(["compare", base, "--format", form, "--output", "one"]) == 0
    assert {Path(name).read_text(encoding="utf-8") for name in (f"x.{form}", "one")} == {form}


@pytest.mark.parametrize("form", MAGIC)
def test_a_picture_needs_a_file(form: str, base: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", base, "--format", form]) == 2
    assert main(["compare", base, "--output", f"x.{form}", "--pivot", "language"]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.count("[compare-option]") == 2
    assert not Path(f"x.{form}").exists()


def test_without_matplotlib_one_sentence_names_the_extra(
    base: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["compare", base, "--output", "x.png"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with refused(BadInput, "extra-missing", "draftgate[report]"):
        drawn(picture(comparison(base)))


def test_more_rows_than_a_picture_holds_are_refused() -> None:
    for i in range(101):
        write_cell(Path("many"), cell(drafter=f"d{i}"))
    with refused(BadInput, "no-cells", "101"):
        picture(comparison("many"))


# Figures


def ends(points: list[dict[str, Any]]) -> list[str]:
    return [f"({share(low)}..{share(high)})" for low, high in (p for p in points if p)]


def test_a_pair_shows_what_the_json_says(base: str, worse: str) -> None:
    main(["compare", base, worse, "--output", "x.json"])
    main(["compare", base, worse, "--output", "x.svg"])
    data, text = json.loads(Path("x.json").read_text(encoding="utf-8")), of_svg(Path("x.svg").read_bytes())
    (en,) = (c for c in data["cells"] if c["base"]["cell"]["language"] == "en" and c["base"]["cell"]["k"])
    (against,) = en["against"]
    old, new = against["tokens_per_step"]
    assert f"{number(old)} → {number(new)}  {100 * against['change']:+.1f} % ▼" in text
    for side in (en["base"], against["new"]):
        for rate, interval in zip(side["acceptance"], side["acceptance_ci"], strict=True):
            assert f": {share(rate)} ({share(interval[0])}..{share(interval[1])})" in text
    assert f"{number(en['base']['speed_up'])}× → {number(against['new']['speed_up'])}×" in text
    assert "-none" not in text  # commits one token a step, whatever it is


def test_one_run_shows_tokens_per_step_of_each_cell(base: str) -> None:
    text = picture(comparison(base)).text
    for row in comparison(base).rows:
        if row.figures.drafts:
            assert row.figures.tokens_per_step_ci
            low, high = row.figures.tokens_per_step_ci
            shown = f"{number(row.figures.tokens_per_step)} ({number(low)}..{number(high)})"
            assert f"{row.figures.entry.cell}: {shown}" in text


def test_points_and_intervals_lie_where_the_figures_are(base: str, worse: str, figures: list[Figure]) -> None:
    found = comparison(base, worse)
    drawn(picture(found))
    forest, en, zh = figures[0].axes
    wanted = {
        (round(100 * end, 6))
        for row in found.rows if row.figures.drafts
        for a in row.others if a and a.verdict.interval
        for end in a.verdict.interval
    }  # fmt: skip
    assert wanted <= {round(x, 6) for bar in forest.containers for x in bar[2][0].get_segments()[0][:, 0]}
    for axes, row in zip((en, zh), [row for row in found.rows if row.figures.drafts], strict=True):
        assert row.others[0]
        for bar, side in zip(axes.containers, (row.figures, row.others[0].figures), strict=True):
            assert bar[0].get_ydata() == pytest.approx([100 * (rate or 0) for rate in side.acceptance])
            spans = [segment[:, 1] for segment in bar[2][0].get_segments()]
            assert np.array(spans) == pytest.approx(100 * np.array(side.acceptance_ci))


def test_cells_that_may_not_be_compared_have_no_figure_side_by_side(base: str) -> None:
    write_cell(Path("hard"), cell(findings=(HARD,)))
    shown = picture(comparison(base, "hard"))
    (forest,) = shown.parts
    assert isinstance(forest, Forest)
    assert [line.points for line in forest.lines] == [()]
    assert "✗" in shown.text
    assert drawn(shown)
    assert main(["compare", base, "hard", "--output", "x.svg"]) == 2


def test_an_identical_cell_is_a_point_at_0(base: str) -> None:
    forest = picture(comparison(base, base)).parts[0]
    assert isinstance(forest, Forest)
    assert {(p.value, p.kind) for line in forest.lines for p in line.points} == {(0.0, "identical")}


# Legible


def inside(figure: Figure, size: float = 7) -> None:
    """All text is on the page, large enough, and above no other text."""
    figure.set_dpi(300)  # as it is drawn
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    boxes = [t.get_window_extent(renderer) for t in texts]
    page = figure.bbox
    for text, box in zip(texts, boxes, strict=True):
        assert text.get_fontsize() >= size
        assert -1 <= box.x0 <= box.x1 <= page.x1 + 1, text
        assert -1 <= box.y0 <= box.y1 <= page.y1 + 1, text
    for (a, first), (b, second) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        apart = first.shrunk(0.9, 0.8), second.shrunk(0.9, 0.8)
        assert not apart[0].overlaps(apart[1]), (a, b)


def hostile(name: str) -> Path:
    return write_run(Path("in") / name, cell(drafter=name), cell("zh", drafter=name), cell(drafter="x"))


@pytest.mark.parametrize("name", ["ngram", CHINESE, "W" * 60, "$x_1^2$ <b>&amp; %_#~"])
def test_all_text_is_on_the_page_and_apart(name: str, figures: list[Figure]) -> None:
    run = hostile(name.replace("/", "_"))
    warned: list[str] = []
    for shown in (picture(comparison(str(run))), picture(comparison(str(run), str(run)))):
        drawing.draw(shown, "png", warned.append)
    for figure in figures:
        assert figure.get_figwidth() == pytest.approx(3.3)
        inside(figure)


def test_sentences_of_any_words_end_on_the_page(figures: list[Figure]) -> None:
    words = "20261130-000729-smollm2-cpu-e7be: the run is not finished: some of its cells are missing illicit"
    notes = [" ".join(words.split()[i:] + words.split()[:i]) for i in range(len(words.split()))]
    drawn(dataclasses.replace(picture(comparison(str(hostile("ngram")))), notes=(*notes, words * 3)), "png")
    inside(figures[0])


def test_a_change_from_little_to_much_keeps_its_numbers_on_the_page(figures: list[Figure]) -> None:
    write_run(Path("a"), cell("en"), cell("zh", worse=6))
    for old, new in (("in", "on"), ("on", "in")):
        write_run(Path(old), cell(worse=5), *(cell(f"l{i}") for i in range(9)))
        write_run(Path(new), cell(), *(cell(f"l{i}", worse=i % 4) for i in range(9)))
        drawn(picture(comparison(old, new)), "png")
    for figure in figures:
        inside(figure)


def luminous(colour: str) -> np.ndarray[Any, Any]:
    """Linear RGB of `#rrggbb`."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


BLIND = {
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
"""Machado, Oliveira and Fernandes 2009, severity 1."""
LAB = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(rgb: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """CIE L*a*b* of linear RGB, under D65."""
    x, y, z = np.cbrt(np.clip(LAB @ np.clip(rgb, 0, 1) / (0.9505, 1, 1.089), 0.009, None))
    return np.array((116 * y - 16, 500 * (x - y), 200 * (y - z)))


@pytest.mark.parametrize("kind", BLIND)
def test_the_first_colours_are_told_apart_by_any_reader(kind: str) -> None:
    seen = [lab(np.array(BLIND[kind]) @ luminous(colour)) for colour in drawing.COLOURS[:4]]
    apart = [float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)]
    assert min(apart) > 12


def test_colour_says_nothing_alone(base: str, worse: str, figures: list[Figure]) -> None:
    """Lines of one panel differ in marker, fill or dashes too, and so do verdicts."""
    write_run(Path("three"), *(cell(drafter=d, k=k) for d in ("a", "b") for k in (2, 4)))
    drawn(picture(comparison("three")))
    drawn(picture(comparison(base, worse)))
    for figure in figures:
        for axes in figure.axes[1:]:
            lines = [bar[0] for bar in axes.containers]
            styles = {(x.get_marker(), x.get_linestyle(), x.get_markerfacecolor() == "white") for x in lines}
            assert len(styles) == len(lines) > 1
    judged = [(marker, filled) for kind, (marker, _, filled) in drawing.KINDS.items() if kind]
    assert len(set(judged)) == len(judged)


# Chinese, and what no font has


def one_with_chinese() -> Picture:
    write_run(Path("runs"), cell(drafter=CHINESE))
    return picture(comparison("runs"))


def font(path: Path, characters: str) -> str:
    """A font that has a square for each of these characters."""
    pen = TTGlyphPen(None)
    for i, at in enumerate(((0, 0), (0, 700), (700, 700), (700, 0))):
        (pen.lineTo if i else pen.moveTo)(at)
    pen.closePath()
    names = [".notdef", *(f"u{ord(c):x}" for c in characters)]
    made = FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder(names)
    made.setupCharacterMap({ord(c): f"u{ord(c):x}" for c in characters})
    made.setupGlyf(dict.fromkeys(names, pen.glyph()))
    made.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    made.setupHorizontalHeader(ascent=800, descent=-200)
    made.setupNameTable({"familyName": "Test Hei", "styleName": "Regular"})
    made.setupOS2()
    made.setupPost()
    made.save(path)
    return str(path)


@pytest.mark.parametrize("form", MAGIC)
def test_a_font_with_chinese_is_found_among_those_of_the_system(
    form: str, monkeypatch: pytest.MonkeyPatch, saved: list[Figure]
) -> None:
    broken = Path("broken.ttf")
    broken.write_bytes(b"no font")
    found = [str(broken), font(Path("latin.ttf"), "abc"), font(Path("hei.ttf"), CHINESE)]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: found)
    drawn(one_with_chinese(), form)  # no warning
    families = [t.get_fontfamily() for t in saved[0].findobj(Text) if CHINESE in t.get_text()]
    assert families
    assert all("Test Hei" in family for family in families)


@pytest.mark.parametrize("form", ["png", "pdf"])
def test_what_no_font_has_is_an_escape_and_one_warning(
    form: str, monkeypatch: pytest.MonkeyPatch, saved: list[Figure]
) -> None:
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    warned: list[str] = []
    drawing.draw(one_with_chinese(), form, warned.append)
    assert len(warned) == 1
    assert all(c in warned[0] for c in (*CHINESE, "fonts-noto-cjk"))
    shown = "".join(t.get_text() for t in saved[0].findobj(Text))
    assert not set(CHINESE) & set(shown)
    assert "\\u8349" in shown


def test_an_svg_holds_text_and_needs_no_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    texts = ET.fromstring(drawn(one_with_chinese())).iter("{http://www.w3.org/2000/svg}text")  # noqa: S314 - ours
    assert any(CHINESE in (text.text or "") for text in texts)


@pytest.mark.parametrize("form", MAGIC)
def test_a_hostile_name_is_text(form: str) -> None:
    bad = cell(findings=(Finding(code="loops", hard=False, text=HOSTILE),))
    write_cell(Path("in") / HOSTILE.replace("\n", " ")[:60], bad)
    raw = drawing.draw(picture(comparison("in", "in")), form, lambda _: None)
    assert "\u202e".encode() not in raw
    if form == "svg":
        assert not list(ET.fromstring(raw).iter("script"))  # noqa: S314 - ours
        assert b"<script" not in raw


# The same every time


@pytest.mark.parametrize("form", MAGIC)
def test_the_same_records_give_the_same_bytes(
    form: str, base: str, worse: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["compare", base, worse, "--output", f"x.{form}"])
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")  # matplotlib would write that date
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": None, "pdf.fonttype": 3}):
        main(["compare", base, worse, "--output", f"again.{form}"])
        assert mpl.rcParams["font.size"] == 20
    first = Path(f"x.{form}").read_bytes()
    assert first == Path(f"again.{form}").read_bytes()
    assert first.startswith(MAGIC[form])
    assert capsys.readouterr().err == ""
    for said in (b"matplotlib.org", b"CreationDate", b"dc:date", mpl.__version__.encode()):
        assert said not in first


def test_other_records_give_another_text(base: str, worse: str) -> None:
    assert picture(comparison(base, worse)).text != picture(comparison(worse, base)).text


def test_the_pictures_in_the_docs_are_those_of_the_committed_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures that a picture says itself to show, since other versions of matplotlib draw other bytes."""
    monkeypatch.chdir(ROOT)
    made = {}
    for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines():
        if "draftgate compare" in line:
            _, _, command = line.partition("draftgate compare ")
            run, _, old, _, new, _, path = command.split()[:7]
            sides = [of_drafter(collect(Path(run)), name) for name in (old, new)]
            made[Path(path)] = picture(compare(sides)).text
    assert {path: of_svg(path.read_bytes()) for path in made} == made
    assert set(made) == set(Path("docs/images").glob("*.svg"))
    assert any(str(path) in (ROOT / "README.md").read_text(encoding="utf-8") for path in made)


# Lines


@pytest.mark.parametrize("text", ["", "one", "one two three", "a" * 30, "中文" * 12 + " ab", "ab  cd"])
@pytest.mark.parametrize("most", [1, 5, 12])
def test_wrapped_lines_fit_and_lose_nothing(text: str, most: int) -> None:
    lines = drawing.wrapped(text, lambda line: len(line) <= most)
    assert all(len(line) <= most for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("most", [3, 8, 20])
def test_a_shortened_text_keeps_both_ends(most: int) -> None:
    text = "chat-en-instruct-ngram-k4"
    short = drawing.shortened(text, lambda part: len(part) <= most)
    assert len(short) == most
    head, tail = short.split("…")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert drawing.shortened(text, lambda _: True) == text
