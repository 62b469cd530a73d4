"""What a node of a Ray cluster sends of its files: what is new, once, and whole lines of what grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.commands.ray_task import OUTPUT, News

JOURNAL = "r/acceptance/x.jsonl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What an earlier task has sent, and a lock."""
    (tmp_path / "r/acceptance").mkdir(parents=True)
    (tmp_path / "r/run.json").write_text("{}")
    (tmp_path / "r/.lock").touch()
    (tmp_path / JOURNAL).write_text("head\nold\n")
    return tmp_path


def test_what_was_there_is_no_news_and_a_line_comes_whole(folder: Path) -> None:
    news = News(folder)
    assert news.files() == {}
    with (folder / JOURNAL).open("a") as file:
        file.write("new\nhal")
    assert news.files() == {JOURNAL: (9, b"new\n")}
    assert news.files() == {}
    with (folder / JOURNAL).open("a") as file:
        file.write("f\n")
    (folder / OUTPUT).write_bytes(b"1 of 2\r2 of 2\nnot yet")
    assert news.files() == {JOURNAL: (13, b"half\n"), OUTPUT: (0, b"1 of 2\r2 of 2\n")}


def test_a_run_is_sent_as_finished_at_the_end_alone(folder: Path) -> None:
    news = News(folder)
    (folder / "r/run.json").write_text('{"finished": true}')
    assert news.files() == {}
    (folder / JOURNAL).unlink()
    (folder / "r/acceptance/x.json").write_text("cell")
    (folder / "w.safetensors").write_text("weights")
    assert news.files() == {JOURNAL: None, "r/acceptance/x.json": (0, b"cell")}
    assert news.files(ended=True) == {"r/run.json": (0, b'{"finished": true}')}


def test_a_new_run_is_sent_at_once(folder: Path) -> None:
    news = News(folder)
    (folder / "new").mkdir()
    (folder / "new/run.json").write_text("{}")
    assert news.files() == {"new/run.json": (0, b"{}")}
