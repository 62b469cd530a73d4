from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from harness.errors import BadInput, BadRecord
from harness.judge.baselines import untimed
from harness.results.files import read_text, write_atomically
from harness.results.journal import Journal, in_order
from harness.results.records import CellRecord, Finding, PromptRecord, RunRecord, dump_cell, load
from tests.factories.records import cell_name, cell_record, failed_record, prompt_record

HEAD: dict[str, Any] = {"cell": "chat-en-instruct-ngram-k4", "identity": {"max_tokens": 64}, "seed": 0}
NESTED = b"[" * 100_000
LONG_NUMBER = b"1" * 5000
"""More digits than Python turns into a number: json raises a bare ValueError."""


@pytest.fixture
def cell() -> CellRecord:
    return cell_record(
        prompt_record("instruct-001"),
        prompt_record("instruct-002", text="一位燈塔管理員\n收到「大海」的信\u2028。", language="zh"),
        failed_record("instruct-003"),
        findings=(Finding(code="loops", hard=False, text="1 of 3 answers end in a loop"),),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat-en-instruct-ngram-k4.json"


@pytest.fixture
def journal_path(tmp_path: Path) -> Path:
    return tmp_path / "chat-en-instruct-ngram-k4.jsonl"


def files_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# The cell file


def test_a_cell_file_reads_back_as_what_was_written(cell: CellRecord, path: Path) -> None:
    write_atomically(path, dump_cell(cell))

    assert load(path, CellRecord) == cell


def test_a_cell_without_prompts_reads_back(path: Path) -> None:
    write_atomically(path, dump_cell(cell_record()))

    assert load(path, CellRecord).prompts == ()


def test_a_cell_file_has_one_prompt_a_line(cell: CellRecord) -> None:
    lines = dump_cell(cell).split("\n")
    start = lines.index('"prompts": [')

    assert [json.loads(line.rstrip(","))["prompt"] for line in lines[start + 1 : start + 4]] == [
        "instruct-001",
        "instruct-002",
        "instruct-003",
    ]
    assert lines[start + 4 :] == ["]", "}", ""]


def test_a_cell_file_holds_chinese_as_it_is_and_its_schema_first(cell: CellRecord) -> None:
    text = dump_cell(cell)

    assert text.startswith('{\n"schema": 1,\n')
    assert "一位燈塔管理員" in text


def test_a_finding_carries_its_numbers(path: Path) -> None:
    found = Finding.note("loops", "3 of 40 answers end in a loop", count=3, of=40)
    write_atomically(path, dump_cell(cell_record(findings=(found,))))

    assert load(path, CellRecord).findings[0].values == {"count": 3, "of": 40}


def test_a_finding_without_numbers_is_written_as_it_always_was() -> None:
    assert set(Finding.fatal("no-drafts", "none").model_dump()) == {"code", "hard", "text"}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("3 of 40 answers end in a loop", {"count": 3, "of": 40}),
        ("the engine runs with a patch: 3 of 40 ", {}),
        ("3 of them", {}),
    ],
)
def test_the_numbers_of_an_older_files_finding_are_read_from_its_text(
    text: str, values: dict[str, int]
) -> None:
    assert Finding.model_validate({"code": "loops", "hard": False, "text": text}).values == values


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_answer_reads_back(text: str) -> None:
    data = json.loads(dump_cell(cell_record(prompt_record(text=text))))

    assert CellRecord.model_validate(data).prompts[0].text == text


def test_a_file_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(BadRecord, match="No such file") as caught:
        load(path, CellRecord)

    assert str(path) in str(caught.value)


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80"], ids=["no byte", "half", "surrogate"])
def test_a_whole_record_with_a_byte_that_is_no_utf8_is_refused(
    cell: CellRecord, path: Path, bad: bytes
) -> None:
    whole = dump_cell(cell).encode()
    at = whole.index(b'"text":"', whole.index(b'"prompts"')) + len(b'"text":"')
    path.write_bytes(whole[:at] + bad + whole[at:])
    with pytest.raises(BadRecord, match=rf"not UTF-8 text \(byte {at}\)"):
        load(path, CellRecord)


def test_a_folder_is_no_record(tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match="Is a directory"):
        load(tmp_path, CellRecord)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ": the file is empty"),
        (b" \n\n", ": the file is empty"),
        (b"\x89PNG\r\n\x1a\n\xff\xd8", r": not UTF-8 text \(byte 0\)"),
        (b'{"schema": 1,\n\n nonsense}', ", line 3: not JSON: Expecting property name"),
        (b'{"schema": 1,\n"prompts": [\n{"prompt": "instr', r", line 3: not JSON: .*"),
        (b'{"schema": 1,\n"prompts": [\n', r", line 3: not JSON: .* \(the file seems cut off\)"),
        (b"[1, 2]", ": schema is None, this version of draftgate reads 1"),
        (b'"schema"', ": schema is None"),
        (b"{}", ": schema is None"),
        (b'{"schema": 2}', ": schema is 2, this version of draftgate reads 1"),
        (b'{"schema": "1"}', ": schema is '1'"),
        (b'{"schema": true}', ": schema is True"),
        (NESTED, ": nested too deeply"),
        (b'{"schema": ' + LONG_NUMBER + b"}", ": not JSON: .*digits"),
    ],
)
def test_a_file_that_is_no_record_is_refused_with_its_reason(path: Path, content: bytes, says: str) -> None:
    path.write_bytes(content)

    with pytest.raises(BadRecord, match=says) as caught:
        load(path, CellRecord)

    assert str(caught.value).startswith(str(path))


def test_a_cell_file_cut_anywhere_is_refused(cell: CellRecord, path: Path) -> None:
    content = dump_cell(cell).encode()
    for length in range(1, len(content) - 2, 37):
        path.write_bytes(content[:length])
        with pytest.raises(BadRecord, match=str(path)):
            load(path, CellRecord)


def changed(record: CellRecord, change: Callable[[dict[str, Any]], None]) -> str:
    data = record.model_dump(mode="json", by_alias=True)
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.pop("identity"), "field identity: it is missing"),
        (lambda d: d.update(warmups="some"), "field warmups: must be a whole number"),
        (lambda d: d.update(surprise=1), "field surprise: unknown key"),
        (lambda d: d["cell"].update(k="four"), "field cell.k: must be a whole number"),
        (
            lambda d: d["prompts"][1].update(undrafted=-1),
            "field prompts.1.undrafted: must be 0 or more, not -1",
        ),
        (
            lambda d: d["prompts"][0].update(histogram=[]),
            "field prompts.0.histogram: must be 1 values or more, not a list of 0",
        ),
        (
            lambda d: d["prompts"][0].update(histogram=[5, -1]),
            "field prompts.0.histogram.1: must be 0 or more, not -1",
        ),
        (
            lambda d: d["prompts"][0].update(drafted=[4]),
            "field prompts.0: 6 accepted counts, but 1 drafted ones",
        ),
        (lambda d: [d.pop("stack"), d.pop("suite")], "field stack: it is missing (and 1 more)"),
    ],
)
def test_a_field_that_does_not_fit_is_named(
    cell: CellRecord, path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    path.write_text(changed(cell, change), encoding="utf-8")

    with pytest.raises(BadRecord) as caught:
        load(path, CellRecord)

    assert str(caught.value).startswith(f"{path}: {says}")


def test_another_kind_of_record_is_refused(cell: CellRecord, path: Path) -> None:
    write_atomically(path, dump_cell(cell))

    with pytest.raises(BadRecord, match="field run: it is missing"):
        load(path, RunRecord)


def quietly(path: Path, content: bytes, use: Callable[[Path], object]) -> None:
    """Nothing but BadRecord may come of a damaged file, and it must name the file."""
    path.write_bytes(content)
    try:
        use(path)
    except BadRecord as error:
        assert str(path) in str(error)  # noqa: PT017 - success is allowed too


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
VALID_CELL = dump_cell(cell_record(prompt_record())).encode()


@example(NESTED)
@example(b'{"schema":1,"a":' + NESTED)
@example(LONG_NUMBER)
@example(b'{"schema": 1, "stack": "\\ud800"}')
@given(st.binary() | json_values.map(lambda value: json.dumps({"schema": 1, "cell": value}).encode()))
def test_arbitrary_bytes_in_a_cell_file_are_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        quietly(Path(folder) / "cell.json", content, lambda path: load(path, CellRecord))


@given(st.integers(0, len(VALID_CELL) - 1), st.binary(max_size=4))
def test_a_damaged_cell_file_is_refused_or_read(at: int, damage: bytes) -> None:
    content = VALID_CELL[:at] + damage + VALID_CELL[at + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        quietly(Path(folder) / "cell.json", content, lambda path: load(path, CellRecord))


# Writing


def test_a_file_is_written_into_folders_that_were_not_there(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "c.json", "{}\n")

    assert (tmp_path / "a" / "b" / "c.json").read_text() == "{}\n"


def test_a_full_disk_is_named_and_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match=r"cannot write .*run.json: No space left on device"):
        write_atomically(path, "new")

    assert path.read_text() == "old"
    assert files_in(tmp_path) == ["run.json"]


def test_a_target_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    with pytest.raises(BadInput, match=r"cannot write .*: (Not a directory|File exists)"):
        write_atomically(tmp_path / "file" / "run.json", "new")

    assert (tmp_path / "file").read_text() == "old"


def test_a_folder_in_the_target_place_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()

    with pytest.raises(BadInput, match=r"cannot write .*run.json: Is a directory"):
        write_atomically(tmp_path / "run.json", "new")

    assert files_in(tmp_path) == ["run.json"]


def test_an_interrupt_while_writing_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    path.write_text("old")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")

    assert path.read_text() == "old"
    assert files_in(tmp_path) == ["run.json"]


def test_read_text_gives_the_text(path: Path) -> None:
    path.write_text("一\n", encoding="utf-8")

    assert read_text(path) == "一\n"


# The journal


def test_a_journal_goes_on_where_it_ended(journal_path: Path) -> None:
    first = Journal(journal_path, HEAD)
    first.append(prompt_record("instruct-001"))
    first.append(prompt_record("instruct-002", text="兩行\n\u2028"))

    second = Journal(journal_path, HEAD)

    assert [r.prompt for r in second.records] == ["instruct-001", "instruct-002"]
    assert second.records == first.records


def test_a_journal_has_a_head_and_a_line_a_prompt(journal_path: Path) -> None:
    Journal(journal_path, HEAD).append(prompt_record(text="一\n二"))

    head, record, end = journal_path.read_text(encoding="utf-8").split("\n")
    assert json.loads(head) == {"schema": 1, **HEAD}
    assert json.loads(record)["text"] == "一\n二"
    assert end == ""


def test_each_resumption_is_a_segment_of_its_own(journal_path: Path) -> None:
    first = Journal(journal_path, HEAD)
    first.append(prompt_record("instruct-001", segment=first.segment))
    second = Journal(journal_path, HEAD)
    second.append(prompt_record("instruct-002", segment=second.segment))

    assert (first.segment, second.segment, Journal(journal_path, HEAD).segment) == (0, 1, 2)


def test_a_torn_last_line_is_dropped_and_written_anew(journal_path: Path) -> None:
    first = Journal(journal_path, HEAD)
    first.append(prompt_record("instruct-001"))
    first.append(prompt_record("instruct-002", text="燈塔"))
    whole = journal_path.read_bytes()
    for cut in (1, 20, whole.index("燈".encode()) - len(whole) + 1):
        journal_path.write_bytes(whole[: len(whole) - abs(cut)])

        again = Journal(journal_path, HEAD)
        assert [r.prompt for r in again.records] == ["instruct-001"]
        again.append(prompt_record("instruct-002", text="燈塔"))
        assert journal_path.read_bytes() == whole


def test_a_torn_head_is_written_anew(journal_path: Path) -> None:
    journal_path.write_bytes(b'{"cell": "chat-en-ins')

    journal = Journal(journal_path, HEAD)

    assert journal.records == []
    assert journal_path.read_text() == json.dumps({"schema": 1, **HEAD}, sort_keys=True) + "\n"


def test_an_empty_journal_is_begun_anew(journal_path: Path) -> None:
    journal_path.touch()

    assert Journal(journal_path, HEAD).records == []
    assert journal_path.stat().st_size > 0


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ({**HEAD, "seed": 1}, "seed was 0, is 1"),
        ({**HEAD, "identity": {"max_tokens": 96}}, "identity.max_tokens was 64, is 96"),
        ({**HEAD, "more": True}, "more was null, is true"),
        ({**HEAD, "cell": "x" * 100}, 'is "' + "x" * 76 + r"\.\.\."),
    ],
)
def test_a_journal_of_other_conditions_is_refused_naming_them(
    journal_path: Path, head: dict[str, Any], says: str
) -> None:
    Journal(journal_path, HEAD).append(prompt_record())
    before = journal_path.read_bytes()

    with pytest.raises(BadRecord, match=says) as caught:
        Journal(journal_path, head)

    assert str(caught.value).startswith(f"{journal_path}, line 1: these prompts were measured under other")
    assert journal_path.read_bytes() == before


@pytest.mark.parametrize("head", [b"[]", b"nonsense", b"\xff\xfe", NESTED, LONG_NUMBER])
def test_a_journal_without_a_head_of_ours_is_refused(journal_path: Path, head: bytes) -> None:
    journal_path.write_bytes(head + b"\n")

    with pytest.raises(BadRecord, match=r", line 1: .*its first line is not the head of this cell"):
        Journal(journal_path, HEAD)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"prompt": "instr', "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xff\xff", "not UTF-8 text (byte 0 of the line)"),
        (NESTED, "not JSON"),
        (LONG_NUMBER, "not JSON"),
        (b"{}", "field prompt: it is missing"),
        (b"[]", "not an object, but list"),
    ],
)
def test_damage_in_the_middle_of_a_journal_is_refused_with_its_line(
    journal_path: Path, line: bytes, says: str
) -> None:
    journal = Journal(journal_path, HEAD)
    journal.append(prompt_record("instruct-001"))
    journal.append(prompt_record("instruct-002"))
    lines = journal_path.read_bytes().split(b"\n")
    lines.insert(2, line)
    journal_path.write_bytes(b"\n".join(lines))
    before = journal_path.read_bytes()

    with pytest.raises(BadRecord) as caught:
        Journal(journal_path, HEAD)

    assert str(caught.value).startswith(f"{journal_path}, line 3: {says}")
    assert journal_path.read_bytes() == before


HEAD_LINE = json.dumps({"schema": 1, **HEAD}, sort_keys=True).encode() + b"\n"


@example(NESTED + b"\n")
@example(LONG_NUMBER + b"\n")
@example(b"\x00{\x00}\n")
@given(
    st.binary(max_size=60).map(lambda b: b + b"\n")
    | st.binary(max_size=60)
    | json_values.map(lambda v: json.dumps(v).encode() + b"\n")
)
def test_arbitrary_bytes_in_a_journal_are_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for before in (b"", HEAD_LINE):
            quietly(Path(folder) / "cell.jsonl", before + content, lambda path: Journal(path, HEAD))


def test_a_full_disk_stops_a_journal_and_what_was_written_stays_readable(
    journal_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(journal_path, HEAD)
    journal.append(prompt_record("instruct-001"))
    real = os.fsync

    def full_after_half_a_line(_: int) -> None:
        os.truncate(journal_path, journal_path.stat().st_size - 30)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_after_half_a_line)
    with pytest.raises(BadInput, match="No space left on device; the 1 prompts before are kept"):
        journal.append(prompt_record("instruct-002"))
    monkeypatch.setattr(os, "fsync", real)
    journal.append(prompt_record("instruct-003"))

    assert [r.prompt for r in Journal(journal_path, HEAD).records] == ["instruct-001", "instruct-003"]


# Small things that files are made of


def test_a_cell_is_called_by_its_values() -> None:
    assert str(cell_name(endpoint="raw", language="zh", drafter="eagle3r1")) == "raw-zh-instruct-eagle3r1-k4"


def test_a_cell_that_drafts_nothing_has_no_k_in_its_name() -> None:
    assert str(cell_name(drafter="none", k=0)) == "chat-en-instruct-none"


def test_a_hard_finding_makes_a_cell_invalid_and_a_soft_one_does_not() -> None:
    soft = Finding(code="loops", hard=False, text="")
    hard = Finding(code="warm-cache", hard=True, text="")

    assert cell_record(findings=(soft,)).valid
    assert not cell_record(findings=(soft, hard)).valid


def test_records_stand_as_in_the_prompt_file_repeats_together() -> None:
    records = [prompt_record(p, repeat=r) for r in (1, 0) for p in ("zebra", "b", "a", "strange")]

    ordered = [(r.prompt, r.repeat) for r in in_order(records, ["b", "zebra", "a"])]

    assert ordered == [
        ("b", 0), ("b", 1), ("zebra", 0), ("zebra", 1), ("a", 0), ("a", 1), ("strange", 0), ("strange", 1),
    ]  # fmt: skip


def test_the_tally_of_a_record_trims_at_a_stop_but_not_at_max_tokens() -> None:
    # Steps of 1, 1, 4, 4, 2, 5 and two of one token make 20 tokens, one more than the answer has.
    cut: PromptRecord = prompt_record(output_tokens=19, finish="length")
    stopped = prompt_record(output_tokens=19, finish="stop")

    assert (cut.tally.committed, stopped.tally.committed) == (19, 18)
    assert cut.tally.decode_steps == 8


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"accepted": [0, 0, 3, 3, 1, 3]}, id="another histogram"),
        pytest.param({"accepted": [0, 0, 3, 3, 1, 5]}, id="more than k"),
        pytest.param({"token_ids": [5] * 19}, id="too few ids"),
        pytest.param({"token_ids": [-1] * 20}, id="no token id"),
        pytest.param({"steps": [1, 1, 4, 4, 2, 5, 2]}, id="a step too few"),
        pytest.param({"steps": [1, 1, 4, 4, 2, 5, 1, 2]}, id="other tokens"),
        pytest.param({"steps": [2, 4, 4, 2, 5, -1, 2, 1]}, id="no step"),
        pytest.param({"parts": [["reasoning", 9], ["content", 9]]}, id="parts of another text"),
    ],
)
def test_steps_and_token_ids_that_do_not_make_the_answer_are_refused(
    path: Path, changes: dict[str, Any]
) -> None:
    data = json.loads(dump_cell(cell_record(prompt_record())))
    data["prompts"][0] |= changes
    path.write_text(json.dumps(data), encoding="utf-8")

    with pytest.raises(BadRecord, match=r"prompts\.0"):
        load(path, CellRecord)


def test_a_baseline_keeps_steps_and_token_ids_on_one_short_line() -> None:
    record = prompt_record(steps=(1, 1, 4, 4, 1, 2, 5, 1), token_ids=tuple(range(20)))

    [line] = [x for x in dump_cell(untimed(cell_record(record))).splitlines() if "instruct-001" in x]

    assert '"steps":[1,1,4,4,1,2,5,1],"token_ids":[0,1,2,' in line
    assert PromptRecord.model_validate_json(line).accepted_by_step == (0, 0, 3, 3, -1, 1, 4, -1)


def test_steps_without_a_place_are_not_told_apart() -> None:
    assert prompt_record().accepted_by_step is None
    assert prompt_record(accepted=None, drafted=None).accepted_by_step is None
    assert prompt_record(undrafted=0, output_tokens=18).accepted_by_step == (0, 0, 3, 3, 1, 4)
