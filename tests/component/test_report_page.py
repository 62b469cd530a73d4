"""The page of `draftgate report` in a real Chromium: what a reader does with a mouse, a keyboard and a phone.

Skipped where there is no Chromium or no Playwright: `apt-get install chromium`, and the extra `browser`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.report.html import write
from harness.results.records import PromptRecord
from tests.factories.pages import report
from tests.factories.runs import answer, cell, plain, write_run

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="no Playwright here: pip install 'draftgate[browser]'", exc_type=ImportError
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install chromium, or put one on PATH"
)

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
LINE = "a line of 100 kB " * 6000
COMMON = "The same beginning. "
HOSTILE = (
    "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'>",
    "\u202eback to front\u2066",
    LINE,
)
CELLS = "#paired tbody tr:visible th"
DOTS = '[data-chart="prompts"] circle'


def told(i: int, *, new: bool) -> PromptRecord:
    """An answer whose text parts after 5 tokens in the new run, into something hostile."""
    parted = new and i < len(HOSTILE)
    record = answer(
        i, text=COMMON + (HOSTILE[i] if parted else f"And its end {i}."), text_hash=f"h{i}{parted}"
    )
    ids = [1] * record.output_tokens
    ids[5:] = [2 + parted] * len(ids[5:])
    return record.model_copy(update={"token_ids": tuple(ids)})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a run with a worse cell, one whose answers part, and identical ones."""
    folder = tmp_path_factory.mktemp("report")
    for name in ("old", "new"):
        parted = cell("zh", prompts=tuple(told(i, new=name == "new") for i in range(24)))
        others = [cell(worse=3 * (name == "new")), cell("en", k=2), cell(endpoint="raw"), plain()]
        write_run(folder / name, parted, *others)
    report(folder / "new", "--baseline", folder / "old", output=folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    alone = ["--no-sandbox"] if os.getuid() == 0 else []  # root has no other way
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=alone)
        yield browser
        browser.close()


def opened(chromium: Any, file: Path, said: list[str], viewport: dict[str, int] = DESKTOP, **how: Any) -> Any:
    """The page, opened from disk and ready; `said` takes what its console says and what it asks for."""
    page = chromium.new_context(viewport=viewport, **how).new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url != file.as_uri() else None)
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready]")
    return page


@pytest.fixture
def page(chromium: Any, file: Path) -> Iterator[Any]:
    """It says nothing to the console, throws nothing, and asks for nothing but itself."""
    said: list[str] = []
    page = opened(chromium, file, said)
    yield page
    page.wait_for_timeout(50)  # what a handler started may still fail
    page.context.close()
    assert said == []


def test_several_runs_have_a_chart_over_time(chromium: Any, tmp_path: Path) -> None:
    days = [
        write_run(
            tmp_path / f"run-{i}",
            cell(worse=3 * (i > 5)),
            plain(),
            began=f"2026-03-{1 + i:02}T04:00:00+00:00",
        )
        for i in range(12)
    ]
    report(*days, output=tmp_path / "report.html")
    said: list[str] = []
    page = opened(chromium, tmp_path / "report.html", said)

    charts = page.locator('[data-chart="history"] svg')
    assert charts.count() == 1
    assert page.locator('[data-chart="history"] circle').count() == 12
    page.locator('[data-chart="history"] summary').click()
    assert page.locator('[data-chart="history"] tbody tr:visible').count() == 24
    page.context.close()
    assert said == []


def test_the_table_sorts_both_ways_and_says_so(page: Any) -> None:
    head = page.locator("#paired th", has_text="new tok/step")
    for direction in ("ascending", "descending"):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == direction
        at = head.evaluate("head => head.cellIndex")
        shown = page.locator(f"#paired tbody tr td:nth-child({at + 1})").all_inner_texts()
        rates = [float(text.split(" ")[0]) for text in shown]
        assert rates == sorted(rates, reverse=direction == "descending")
        assert len(set(rates)) > 1


def test_the_table_filters_by_words_and_by_verdict(page: Any) -> None:
    everything = page.locator(CELLS).all_inner_texts()
    page.locator("#filter input").fill("CHAT k4")
    assert page.locator(CELLS).all_inner_texts() == ["chat-en-instruct-ngram-k4", "chat-zh-instruct-ngram-k4"]
    page.locator("#filter select").select_option("regressed")
    assert page.locator(CELLS).all_inner_texts() == ["chat-en-instruct-ngram-k4"]
    assert page.locator("#filter output").inner_text().startswith("1 of ")
    page.locator("#filter select").select_option("")
    page.locator("#filter input").fill("")
    assert page.locator(CELLS).all_inner_texts() == everything


def test_every_chart_is_drawn_and_has_its_table(page: Any) -> None:
    for figure in page.locator("figure").all():
        assert figure.locator("svg").count() > 0, figure.get_attribute("data-chart")
        assert figure.locator("table").count() > 0


def test_the_chart_of_few_changes_has_a_line_for_each_and_its_margin_is_seen(
    chromium: Any, tmp_path: Path
) -> None:
    for name in ("old", "new"):
        write_run(tmp_path / name, *(cell(one, worse=3 * (name == "new")) for one in ("en", "zh")))
    report(tmp_path / "old", tmp_path / "new", output=tmp_path / "report.html")
    page = opened(chromium, tmp_path / "report.html", [])
    chart = page.locator('[data-chart="changes"] svg')
    names = [name.bounding_box() for name in chart.locator("text", has_text="-instruct-").all()]
    assert len(names) == 2
    assert names[0]["y"] + names[0]["height"] <= names[1]["y"]
    margin = chart.locator("[stroke-dasharray] line, line[stroke-dasharray]")
    assert margin.bounding_box()["height"] > names[1]["y"] - names[0]["y"]
    page.context.close()


@pytest.mark.parametrize("how", [{}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"])
def test_a_checker_of_accessibility_finds_nothing(
    chromium: Any, file: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="no axe here: pip install 'draftgate[browser]'"
    ).Axe()
    report(file.parent / "new", output=tmp_path / "alone.html")
    for shown in (file, tmp_path / "alone.html"):
        given = {"viewport": how} if how is PHONE else {"viewport": DESKTOP, **how}
        page = opened(chromium, shown, [], bypass_csp=True, **given)  # it is a script of its own
        for opening in ("", "details", "dialog"):
            if opening == "details":
                page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
            elif opening and page.locator(DOTS).count():
                page.locator(DOTS).first.press("Enter")
                page.wait_for_selector("dialog[open]")
            found = axe.run(page).response["violations"]
            assert [(one["id"], [n["target"] for n in one["nodes"][:3]]) for one in found] == []
        page.context.close()


@pytest.mark.parametrize("i", range(len(HOSTILE)))
def test_a_pair_shows_both_answers_from_where_they_part_and_hostile_ones_do_no_harm(
    page: Any, i: int
) -> None:
    page.get_by_role("button", name="chat-zh-instruct-ngram-k4").click()
    page.locator("#pairs").get_by_role("button", name=f"instruct-00{i}").click()
    dialog = page.locator("dialog[open]")
    old, new = dialog.locator(".sides pre").nth(0), dialog.locator(".sides pre").nth(1)
    escaped = HOSTILE[i].replace("\u202e", "\\u202e").replace("\u2066", "\\u2066")
    assert old.text_content() == f"{COMMON}And its end {i}."
    assert new.text_content() == COMMON + escaped
    assert new.locator("mark").text_content() == escaped
    assert "token 5," in dialog.locator(".facts").inner_text()
    assert page.evaluate("window.hit") is None
    assert page.evaluate("document.querySelectorAll('pre img, pre script').length") == 0
    box, screen = new.bounding_box(), page.viewport_size
    assert box["x"] + box["width"] <= screen["width"]  # a line of 100 kB is wrapped
    assert box["height"] <= screen["height"]


def test_dots_open_their_prompt_with_the_mouse_and_steps_lead_on(page: Any) -> None:
    page.locator(DOTS).nth(2).click(force=True)
    name = page.locator("dialog[open] h2")
    first = name.inner_text()
    page.get_by_role("button", name="Next").click()
    assert name.inner_text() != first
    page.get_by_role("button", name="Previous").click()
    assert name.inner_text() == first
    page.get_by_role("button", name="Close").click()
    assert page.locator("dialog[open]").count() == 0


def test_a_keyboard_does_all_of_it(page: Any) -> None:
    def tab_to(selector: str) -> None:
        for _ in range(200):
            page.keyboard.press("Tab")
            if page.evaluate("what => document.activeElement.matches(what)", selector):
                return
        pytest.fail(f"Tab does not reach {selector}")

    tab_to("#filter input")
    page.keyboard.type("zh")
    assert page.locator(CELLS).all_inner_texts() == ["chat-zh-instruct-ngram-k4"]
    tab_to("#paired th button")
    page.keyboard.press("Enter")
    assert page.locator("#paired th[aria-sort]").count() == 1
    tab_to(DOTS)
    first = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert first != second
    page.keyboard.press("Enter")
    assert page.locator("dialog[open] h2").inner_text().startswith(second.split(":")[0])
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == second
    tab_to("#pairs button.link")  # the dots are one stop


def test_the_button_changes_the_colours(page: Any) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.locator("#theme").click()
    assert page.evaluate(colour) != light
    page.locator("#theme").click()
    assert page.evaluate(colour) == light


@pytest.mark.parametrize(
    ("name", "viewport", "how"),
    [
        ("desktop", DESKTOP, {}),
        ("phone", PHONE, {"is_mobile": True, "has_touch": True}),
        ("dark", DESKTOP, {"color_scheme": "dark"}),
    ],
)
def test_it_fits_a_desktop_and_a_phone(  # noqa: PLR0917 - three fixtures, three parameters
    chromium: Any, file: Path, tmp_path: Path, name: str, viewport: dict[str, int], how: dict[str, Any]
) -> None:
    said: list[str] = []
    page = opened(chromium, file, said, viewport, **how)
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (name != "dark")
    page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#filter").is_hidden()
    page.screenshot(path=tmp_path / f"{name}-print.png", full_page=True)
    page.context.close()
    assert said == []


def test_the_policy_lets_no_script_in_and_nothing_out(chromium: Any, file: Path) -> None:
    said: list[str] = []
    page = opened(chromium, file, said)
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.hit = 3'}))"
    )
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=http://127.0.0.1:9/x onerror=window.hit=4>')"
    )
    left = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', error => error.name)")
    page.wait_for_timeout(50)
    assert left == "TypeError"
    assert page.evaluate("window.hit") is None
    assert len([line for line in said if "Content Security Policy" in line]) >= 3
    page.context.close()


def test_answers_without_room_are_said_to_be_left_out(
    chromium: Any, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_MOST", 0)
    monkeypatch.setattr(write, "_LEAST_ROOM", 400)
    small = tmp_path / "small.html"
    runs = file.parent / "new", "--baseline", file.parent / "old"
    held = len(report(*runs, output=small).texts)
    said: list[str] = []
    page = opened(chromium, small, said)
    page.get_by_role("button", name="chat-zh-instruct-ngram-k4").click()
    page.locator("#pairs").get_by_role("button", name="instruct-020").click()
    assert f"holds {held} of" in page.locator("dialog[open] pre").last.inner_text()
    page.context.close()
    assert said == []
