"""Draws a picture by matplotlib: half a page wide, and the same bytes from the same records.

Colour never says anything alone: markers, lines and texts say it too. The colours are those of Okabe and Ito
(2008), which readers with any kind of colour vision tell apart.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import importlib
import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from harness.errors import library
from harness.report.plots import Forest, Panel, Panels, Picture, Point, Series

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
"""Of the last side, and of those before."""
KINDS = {
    "": ("o", COLOURS[0], True),
    "ok": ("o", COLOURS[2], True),
    "identical": ("D", COLOURS[2], True),
    "improved": ("^", COLOURS[0], True),
    "regressed": ("v", COLOURS[1], True),
    "inconclusive": ("o", COLOURS[6], False),
}
"""Of a verdict: marker, colour, and whether the marker is filled."""
FONT = "DejaVu Sans"
"""It comes with matplotlib."""
_PLAIN, _WEIGHT = (re.compile(words, re.IGNORECASE) for words in ("sans|hei|gothic", "bold|black|light|thin"))
"""In the path of a font that looks as FONT does, and in that of one that looks less so."""
_SIZE, _SMALL, _DPI = 8, 7, 300
"""Points, points, dots an inch: letters take whole dots, so a text is measured at the dots that draw it."""
_STYLE = {
    "font.size": _SIZE, "axes.labelsize": _SIZE, "xtick.labelsize": _SMALL, "ytick.labelsize": _SMALL,
    "legend.fontsize": _SMALL, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "xtick.major.size": 2.5, "ytick.major.size": 2.5, "lines.linewidth": 1, "lines.markersize": 3.5,
    "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False,
    "svg.hashsalt": "draftgate", "svg.fonttype": "none", "pdf.fonttype": 42,
}  # fmt: skip
_GREY, _BAND = "#555555", "#f2f2f2"
_WIDTH, _MARGIN, _LEFT, _GAP = 3.3, 0.08, 0.34, 0.14
"""Inches: a column of a paper, what it leaves free, room for the numbers of an axis, and between panels."""
_LINE, _ROW, _PANEL, _AXIS = 0.135, 0.29, 1.1, 0.2
"""Inches: heights of a line of text, a row of a forest, a panel, and the numbers below an axis."""


def draw(picture: Picture, form: str, warn: Callable[[str], None]) -> bytes:
    """The file.

    Args:
        picture: what it shows.
        form: png, svg or pdf.
        warn: is told what the picture cannot show.

    Raises:
        BadInput: matplotlib is not installed.
    """
    mpl = library("matplotlib", f"--format {form}", package="matplotlib", extra="report")
    text = picture.text
    with mpl.rc_context(), _quiet():
        mpl.rcdefaults()  # not those of the user, or the same records would give another file
        fonts, without = _fonts(text)
        mpl.rcParams.update({**_STYLE, "font.family": [*fonts, "sans-serif"]})
        without = without if form != "svg" else frozenset()  # which the reader's own fonts show
        if without:
            lacked = f"no font here has {''.join(sorted(without))}, so escapes stand there"
            warn(f"{lacked}: install one (on Debian, fonts-noto-cjk), or write --format svg")
        file = io.BytesIO()
        figure = _Page(functools.partial(_escaped, without)).of(picture)
        figure.savefig(file, format=form, dpi=_DPI, metadata=_metadata(form, picture.title, text))
    return file.getvalue()


def _fonts(text: str) -> tuple[list[str], frozenset[str]]:
    """The families that show a text, and the characters that they lack."""
    manager: Any = importlib.import_module("matplotlib.font_manager")

    def lacking(path: str, wanted: Iterable[str]) -> frozenset[str]:
        try:
            font = manager.get_font(path)
        except (OSError, RuntimeError):  # no font that it can read
            return frozenset(wanted)
        return frozenset(c for c in wanted if not font.get_char_index(ord(c)))

    left = lacking(manager.findfont(FONT), set(text) - {"\n"})
    best, families = "", [FONT]
    # matplotlib's own list is as old as its cache, and lacks a font that was installed since.
    found = manager.findSystemFonts() if left else []
    wanted = left
    for path in sorted(found, key=lambda path: (not _PLAIN.search(path), bool(_WEIGHT.search(path)), path)):
        still = lacking(path, wanted)
        best, left = (path, still) if len(still) < len(left) else (best, left)
        if not left:
            break
    if best:
        known = manager.fontManager.ttflist
        before = len(known)
        manager.fontManager.addfont(best)
        names = [face.name for face in known[before:]]  # a collection has one for each script
        families.append(next((name for name in names if name.endswith(" SC")), names[0]))
    return families, left


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what matplotlib and fontTools say of glyphs, weights and tables that a font has not."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _escaped(without: frozenset[str], text: str) -> str:
    return "".join(c.encode("unicode_escape").decode() if c in without else c for c in text)


def _metadata(form: str, title: str, text: str) -> dict[str, str | None]:
    """Title and text; no date and no version, which would change the file when nothing changed."""
    if form == "svg":
        return {"Title": title, "Description": text, "Creator": "draftgate", "Date": None}
    if form == "png":
        return {"Title": title, "Description": text, "Software": "draftgate"}
    return {"Title": title, "Subject": text, "Creator": "draftgate", "Producer": None, "CreationDate": None}


class _Page:
    """Lays parts out from top to bottom; all lengths are in inches."""

    def __init__(self, shown: Callable[[str], str]) -> None:
        agg: Any = importlib.import_module("matplotlib.backends.backend_agg")
        self._font: Any = importlib.import_module("matplotlib.font_manager").FontProperties
        self._ruler = agg.RendererAgg(1, 1, _DPI)
        self._shown = shown
        self._subjects: dict[str, int] = {}
        self._pieces: list[tuple[float, Callable[[Any, float], None]]] = []
        """How high each piece is, and what draws it below a height."""

    def of(self, picture: Picture) -> Any:
        """The figure."""
        self._text(picture.title, size=_SIZE, weight="bold")
        for part in picture.parts:
            self._text(part.title, size=_SIZE, above=0.06)
            if isinstance(part, Forest):
                self._forest(part)
            else:
                self._panels(part)
        for i, note in enumerate(picture.notes):
            self._text(note, size=_SMALL, color=_GREY, above=0.02 if i else 0.06)
        height = 2 * _MARGIN + sum(own for own, _ in self._pieces)
        figure = importlib.import_module("matplotlib.figure").Figure(figsize=(_WIDTH, height))
        top = height - _MARGIN
        for own, drawn in self._pieces:
            drawn(figure, top)
            top -= own
        return figure

    def _width(self, text: str, size: float, weight: str = "normal") -> float:
        width, _, _ = self._ruler.get_text_width_height_descent(
            text, self._font(size=size, weight=weight), ismath=False
        )
        return float(width) / _DPI

    def _short(self, text: str, room: float) -> str:
        return shortened(self._shown(text), lambda part: self._width(part, _SMALL) <= room)

    def _text(
        self, text: str, *, size: float, weight: str = "normal", above: float = 0, **style: Any
    ) -> None:
        room = _WIDTH - 2 * _MARGIN
        lines = wrapped(self._shown(text), lambda line: self._width(line, size, weight) <= room)

        def drawn(figure: Any, top: float) -> None:
            for i, line in enumerate(lines):
                at = (top - above - i * _LINE) / figure.get_figheight()
                figure.text(_MARGIN / _WIDTH, at, line, va="top", size=size, weight=weight, **style)

        self._pieces.append((above + _LINE * len(lines), drawn))

    def _forest(self, part: Forest) -> None:
        inner = _ROW * len(part.lines)
        room = _WIDTH - 2 * _MARGIN

        def drawn(figure: Any, top: float) -> None:
            axes = _axes(figure, _MARGIN, top - inner, room, inner)
            _rows(axes, part)
            for i, line in enumerate(part.lines):
                text = self._shown(line.text)
                name = self._short(line.label, room - self._width(text, _SMALL) - 0.15)
                across = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": _SMALL}
                axes.text(0.01, i - 0.22, name, **across)
                axes.text(0.99, i - 0.22, text, ha="right", **across)

        self._pieces.append((inner + _AXIS + _LINE + 0.06, drawn))

    def _panels(self, part: Panels) -> None:
        series = {one.label: one for panel in part.panels for one in panel.series}
        for one in series.values():
            self._subjects.setdefault(one.subject, len(self._subjects))
        columns = min(2, len(part.panels))
        rows, row = math.ceil(len(part.panels) / columns), _LINE + _PANEL + _AXIS
        width = (_WIDTH - _LEFT - _GAP * (columns - 1) - _MARGIN) / columns

        def drawn(figure: Any, top: float) -> None:
            shared = None
            for i, panel in enumerate(part.panels):
                left = _LEFT + (width + _GAP) * (i % columns)
                bottom = top - row * (i // columns) - _LINE - _PANEL
                axes = _axes(figure, left, bottom, width, _PANEL, sharey=shared)
                shared = shared or axes
                self._panel(axes, panel, percent=part.unit == "share")
                axes.set_title(self._short(panel.title, width), fontsize=_SMALL, pad=2)
                axes.tick_params(labelleft=i % columns == 0)
            middle = (_LEFT + _WIDTH - _MARGIN) / 2 / _WIDTH
            at = (top - row * rows) / figure.get_figheight()
            figure.text(middle, at, part.axis, va="top", ha="center")

        self._pieces.append((row * rows + _LINE, drawn))
        self._legend(list(series.values()))

    def _panel(self, axes: Any, panel: Panel, *, percent: bool) -> None:
        scale = 100 if percent else 1
        places = sorted({at for one in panel.series for at in one.points})
        for i, one in enumerate(panel.series):
            # Side by side, so that no interval hides another.
            shift = 0.5 * (i - (len(panel.series) - 1) / 2) / (len(panel.series) + 1)
            x = [places.index(at) + shift for at in one.points]
            y = [scale * p.value for p in one.points.values()]
            errors = _errors(list(one.points.values()), scale)
            axes.errorbar(x, y, yerr=errors, elinewidth=0.8, capsize=1.5, capthick=0.8, **self._style(one))
        axes.set_xticks(range(len(places)), [str(at) for at in places])
        axes.set_xlim(-0.5, len(places) - 0.5)
        if percent:
            axes.set_ylim(0, 100)
        else:
            axes.axhline(1, color=_GREY, linewidth=0.6, zorder=0)

    def _style(self, one: Series) -> dict[str, Any]:
        at = self._subjects[one.subject]
        colour = COLOURS[at % len(COLOURS)]
        return {
            "color": colour, "marker": MARKERS[at % len(MARKERS)],
            "markerfacecolor": "white" if one.side else colour, "linestyle": DASHES[one.side % len(DASHES)],
        }  # fmt: skip

    def _legend(self, series: Sequence[Series]) -> None:
        key = 0.5  # of a line and its marker
        columns = (
            2 if all(self._width(self._shown(s.label), _SMALL) < _WIDTH / 2 - key for s in series) else 1
        )
        column = (_WIDTH - 2 * _MARGIN) / columns
        lines: Any = importlib.import_module("matplotlib.lines").Line2D

        def drawn(figure: Any, top: float) -> None:
            for i, one in enumerate(series):
                left, at = _MARGIN + column * (i % columns), top - 0.06 - _LINE * (i // columns + 0.5)
                y, x = (
                    at / figure.get_figheight(),
                    [left / _WIDTH, (left + key / 2) / _WIDTH, (left + key - 0.1) / _WIDTH],
                )
                figure.add_artist(lines([x[0], x[2]], [y, y], **self._style(one) | {"marker": ""}))
                figure.add_artist(lines([x[1]], [y], **self._style(one) | {"linestyle": ""}))
                name = self._short(one.label, column - key)
                figure.text((left + key) / _WIDTH, y, name, va="center", size=_SMALL)

        self._pieces.append((0.06 + _LINE * math.ceil(len(series) / columns), drawn))


def _axes(figure: Any, left: float, bottom: float, width: float, height: float, **more: Any) -> Any:
    whole = figure.get_figheight()
    return figure.add_axes((left / _WIDTH, bottom / whole, width / _WIDTH, height / whole), **more)


def _rows(axes: Any, part: Forest) -> None:
    """The points of a forest, each in the lower half of its row."""
    scale = 100 if part.none == 0 else 1
    axes.set_ylim(len(part.lines) - 0.5, -0.5)
    axes.margins(x=0.06)
    for i, line in enumerate(part.lines):
        if i % 2:
            axes.axhspan(i - 0.5, i + 0.5, color=_BAND, linewidth=0, zorder=0)
        for j, point in enumerate(line.points):
            at = i + 0.2 + 0.16 * (j - (len(line.points) - 1) / 2)
            marker, colour, filled = KINDS[point.kind]
            axes.errorbar(
                [scale * point.value], [at], xerr=_errors([point], scale), color=colour, marker=marker,
                markerfacecolor=colour if filled and not point.old else "white", markersize=4, elinewidth=1,
                capsize=2, capthick=0.8, zorder=3,
            )  # fmt: skip
        ends = (i, i + 0.5)
        axes.vlines(scale * part.none, *ends, color=_GREY, linewidth=0.6, zorder=1)
        if part.margin is not None:
            axes.vlines(scale * part.margin, *ends, color=_GREY, linewidth=0.8, linestyle=":", zorder=1)
    low, high = axes.get_xlim()
    inside = 0.05 * (high - low)  # a number at the edge would be cut
    axes.set_xticks([tick for tick in axes.get_xticks() if low + inside < tick < high - inside])
    axes.set_xlim(low, high)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    dotted = "" if part.margin is None else f" (dotted: {scale * part.margin:+g} %)"
    axes.set_xlabel(part.axis + dotted, labelpad=1)


def _errors(points: Sequence[Point], scale: float) -> list[list[float]]:
    """How far the ends of intervals lie below and above."""
    known = [(p.value, *(p.ends or (p.value, p.value))) for p in points]
    below = [scale * max(0, value - low) for value, low, _ in known]
    return [below, [scale * max(0, high - value) for value, _, high in known]]


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """The text, or so much of its beginning and end as fits."""
    if fits(text):
        return text
    cut = bisect.bisect_left(range(2, len(text)), 1, key=lambda kept: not fits(_around(text, kept)))
    return _around(text, cut + 1)


def _around(text: str, kept: int) -> str:
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"


def wrapped(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Lines that fit; a word that does not is broken. What a text that fits begins with fits too."""
    lines = [""]
    for word in (f"{part} " for part in text.split(" ")):
        if not fits(lines[-1] + word.rstrip()):
            lines.append("")
        for part in [word] if fits((lines[-1] + word).rstrip()) else word:
            if not fits((lines[-1] + part).rstrip()):
                lines.append("")
            lines[-1] += part
    return [line for line in map(str.rstrip, lines) if line]
