"""Every place where a file of ours is read: cut off, empty, binary, or another version's.

What a verdict rests on is refused with the file's name and left as it is; what is only remembered is done
again.
"""

from __future__ import annotations

import codecs
import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.config import prompts, stack
from harness.config.prompts import load_held_out
from harness.engine import facts, models, orphans
from harness.engine.models import cache_folder
from harness.engine.watchdog import stalls_in
from harness.errors import BadInput, DraftgateError
from harness.judge import baselines
from harness.judge.speedup import SpeedRecord
from harness.plugin import DATA
from harness.provenance.record import _cached_hash
from harness.results.journal import Journal
from harness.results.records import CellRecord, RunRecord, dump_cell, load
from harness.suites import selfcheck
from harness.suites.self_drafting import Check, SelfCheck
from tests.factories.records import cell_record, prompt_record
from training import recipe
from training.answers import rows
from training.export import export
from training.hidden.extract import check as check_states
from training.stages import Planned, Stage
from training.trainer import metrics
from training.trainer.checkpoints import Checkpoints

SHIPPED = DATA.parent
CELL = cell_record(*(prompt_record(f"instruct-{i:03}") for i in range(3)))
RUN = RunRecord(run="r", stack="tiny", profile="quick", options={}, provenance={}, environment={})
HEAD = {"cell": "chat-en-instruct-ngram-k4", "seed": 0}
JOURNAL = "".join(
    json.dumps(line, sort_keys=True) + "\n"
    for line in [{"schema": 1, **HEAD}, *(record.model_dump(mode="json") for record in CELL.prompts)]
)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def another_version(valid: bytes) -> bytes:
    """As the next version may write it: its number is another one; a file without a number gets one."""
    for old, new in (
        (b'"schema": 1', b'"schema": 2'),
        (b'"schema":1', b'"schema":2'),
        (b"schema = 1", b"schema = 2"),
    ):
        if old in valid:
            return valid.replace(old, new)
    return b"v2\n" + valid


def truncated(valid: bytes) -> bytes:
    """Half of it; of TOML, which may be whole after any line, up to the next value."""
    half = len(valid) // 2
    return valid[: valid.index(b" = ", half) + 3] if b"schema = 1" in valid else valid[:half]


def merged(valid: bytes) -> bytes:
    """As git leaves it where both sides changed its first line."""
    first, *rest = valid.split(b"\n", 1)
    return b"\n".join([b"<<<<<<< ours", first, b"=======", first, b">>>>>>> theirs", *rest])


def doubled(valid: bytes) -> bytes:
    """A key of its deepest object twice, as after "accept both changes"; the last one is as it was."""
    if b"schema = 1" in valid:
        return b"schema = 1\n" + valid
    keys = list(re.finditer(rb'\{\s*("(?:[^"\\]|\\.)*"\s*:)', valid))
    if not keys:
        return b"7\n" + valid
    at = keys[-1].start() + 1
    return valid[:at] + keys[-1][1] + b" 7, " + valid[at:]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": truncated,
    "empty": lambda _: b"",
    "binary": lambda _: bytes(range(256)) * 4,
    "zeros": lambda valid: b"\0" * len(valid),  # what a power cut may leave of a file
    "another version": another_version,
    "a list": lambda _: b"[]",
    "a merge": merged,
    "a key twice": doubled,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where a file is read; `valid` is one that is read well."""

    name: str
    valid: bytes
    read: Callable[[Path], object]


def reader_of_prompts(path: Path) -> object:
    return prompts.load_prompts(path.parent.parent, path.parent.name, path.stem, at_most=9)


STALL = {
    "schema": 1, "at": "2026-01-01T00:00:00+00:00", "url": "u", "kind": "still", "reason": "r", "note": "n",
    "processes": [], "readings": [], "log": [], "metrics": [],
}  # fmt: skip
SPEED = {
    **{k: v for k, v in json.loads(dump_cell(CELL)).items()
       if k in ("schema", "stack", "profile", "cell", "identity", "subject", "environment")},
    "provenance": {}, "ratios": [1.2, 1.3, 1.2, 1.3, 1.2, 1.3],
}  # fmt: skip

REFUSED = (
    Place(name="c.json", valid=dump_cell(CELL).encode(), read=lambda path: load(path, CellRecord)),
    Place(
        name="run.json",
        valid=RUN.model_dump_json(by_alias=True, indent=1).encode(),
        read=lambda path: load(path, RunRecord),
    ),
    Place(name="s.json", valid=as_json(SPEED), read=lambda path: load(path, SpeedRecord)),
    Place(name="x.stall.json", valid=as_json(STALL), read=lambda path: stalls_in(path.parent, "n")),
    Place(
        name="s.toml",
        valid=(DATA / "stacks" / "smollm2-cpu.toml").read_bytes(),
        read=stack.load_stack,
    ),
    Place(
        name="r.toml",
        valid=(recipe.RECIPES / "smoke-cpu.toml").read_bytes(),
        read=recipe.load_recipe,
    ),
    Place(
        name="en.jsonl",
        valid=b"".join(as_json({"id": f"i{i}", "text": "Tell me."}) + b"\n" for i in range(3)),
        read=reader_of_prompts,
    ),
    Place(
        name="held_out.jsonl",
        valid=b"".join(as_json({"id": f"i{i}", "language": "en", "text": f"t{i}"}) + b"\n" for i in range(3)),
        read=load_held_out,
    ),
    Place(name="training.json", valid=as_json({"schema": 1}), read=lambda path: export.load(path.parent)),
    Place(name="j.jsonl", valid=JOURNAL.encode(), read=lambda path: Journal(path, HEAD)),
)

TORN = {("j.jsonl", "truncated"), ("j.jsonl", "empty")}
"""A journal that was cut off goes on: its last prompt is measured again."""


def test_what_a_verdict_rests_on_is_refused_and_left_as_it_is(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for place, damage in itertools.product(REFUSED, DAMAGE):
        with subtests.test(place.name, damage=damage):
            path = tmp_path / f"{place.name} {damage}" / place.name
            path.parent.mkdir()
            path.write_bytes(place.valid)
            place.read(path)  # it is read well before
            if (place.name, damage) in TORN:
                continue
            broken = DAMAGE[damage](place.valid)
            path.write_bytes(broken)

            with pytest.raises(DraftgateError, match=place.name) as caught:
                place.read(path)

            assert "\n" not in str(caught.value).strip()
            assert path.read_bytes() == broken
            assert [p.name for p in path.parent.iterdir()] == [place.name]


def test_a_byte_order_mark_before_the_text_is_passed_over(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for place in REFUSED:
        with subtests.test(place.name):
            path = tmp_path / "a" / place.name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(place.valid)
            read = place.read(path)
            path.write_bytes(codecs.BOM_UTF8 + place.valid)

            again = place.read(path)

            assert again == read or isinstance(read, Journal)


def test_a_journal_that_was_cut_off_anywhere_goes_on(tmp_path: Path) -> None:
    for end in range(0, len(JOURNAL), 7):
        path = tmp_path / "j.jsonl"
        path.write_bytes(JOURNAL.encode()[:end])
        kept = Journal(path, HEAD).records
        assert kept == list(CELL.prompts[: max(0, JOURNAL[:end].count("\n") - 1)])


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_baseline_is_neither_used_nor_written_over(tmp_path: Path, damage: str) -> None:
    path = baselines.store(tmp_path, CELL)
    broken = DAMAGE[damage](path.read_bytes())
    path.write_bytes(broken)

    for use in (baselines.find, baselines.store):
        with pytest.raises(BadInput, match=path.name):
            use(tmp_path, CELL)

    assert path.read_bytes() == broken


# What is only remembered: it is done again


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRAFTGATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=DAMAGE)
def damaged(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(DAMAGE[request.param](path.read_bytes()))

    return damage


Damaged = Callable[[Path], None]


def test_a_damaged_hash_is_made_again(tmp_path: Path, damaged: Damaged) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    assert _cached_hash(weights) == right
    (note,) = (cache_folder() / "hashes").iterdir()
    damaged(note)

    assert _cached_hash(weights) == right
    assert note.read_text() == right


def test_a_damaged_self_check_is_made_again(tmp_path: Path, damaged: Damaged) -> None:
    path = tmp_path / "c.json"
    checks = tuple(Check(name=name, outcome="ok", text="t") for name in selfcheck.CHECKS)
    found = SelfCheck(engine="e", patches=(), checks=checks)
    path.write_text(found.model_dump_json(by_alias=True, indent=1))
    assert selfcheck._remembered(path) == found
    damaged(path)

    assert selfcheck._remembered(path) is None


def test_a_stage_whose_record_is_damaged_is_not_done(tmp_path: Path, damaged: Damaged) -> None:
    stage = Stage(name="s", version=1, inputs=lambda _: None, run=lambda _: {})
    planned = Planned(stage=stage, folder=tmp_path, before=())
    (tmp_path / "stage.json").write_text(json.dumps({"schema": 1, "made_from": []}))
    assert planned.record is not None
    damaged(tmp_path / "stage.json")

    assert planned.record is None


def test_a_damaged_note_of_a_server_ends_nothing(damaged: Damaged, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(orphans, "end", lambda session, _: killed.append(session))
    monkeypatch.setattr(orphans, "_born", lambda _: None)
    born = orphans.Born(pid=4_000_000, born=1)
    machine = orphans._machine()
    assert machine is not None
    told = orphans.Note(start_id="abcdef012345", label="x", machine=machine, owner=born, session=born)
    path = orphans.folder() / "one.json"
    path.parent.mkdir(parents=True)
    path.write_text(told.model_dump_json(by_alias=True))
    damaged(path)

    orphans.end_orphans(lambda _: None)

    assert killed == []


def test_a_damaged_report_of_the_plugin_claims_no_patch(tmp_path: Path, damaged: Damaged) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"fault": "f", "mended": True}) + "\n")
    assert len(facts.reported(path)[0]) == 1
    damaged(path)

    assert facts.reported(path) == ((), None)


def test_a_model_whose_manifest_is_damaged_is_made_again(tmp_path: Path, damaged: Damaged) -> None:
    (tmp_path / "config.json").write_text("{}")
    manifest = tmp_path / "draftgate.json"
    manifest.write_text(json.dumps({"config.json": hashlib.sha256(b"{}").hexdigest()}))
    assert models._intact(tmp_path)
    damaged(manifest)

    assert not models._intact(tmp_path)


def test_a_checkpoint_whose_state_is_damaged_is_none(tmp_path: Path, damaged: Damaged) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    written = tmp_path / "written"
    written.mkdir()
    step = checkpoints.keep(written, epoch=0, local_step=1, global_step=1)
    assert checkpoints.steps() == [step]
    checkpoints.crown(step, {"loss_epoch": 1.0})
    assert checkpoints.best_loss() == (1.0, 0)
    (state,) = step.path.glob("*.json")
    damaged(state)
    damaged(checkpoints.best / "validation.json")

    assert checkpoints.steps() == []
    assert checkpoints.best_loss() is None


def test_damaged_metrics_of_a_trainer_are_passed_over(tmp_path: Path, damaged: Damaged) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"train": {"loss": 1.5}, "epoch": 0, "step": 1}) + "\n")
    assert "loss 1.5" in metrics.last_line(path)
    damaged(path)

    assert metrics.last_line(path)


def test_damaged_hidden_states_are_told(tmp_path: Path, damaged: Damaged) -> None:
    header = as_json({"hidden_states": {"shape": [2, 1, 4], "data_offsets": [0, 32], "dtype": "F32"}})
    path = tmp_path / "hs_0.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 32)
    check_states(path, tokens=2)
    damaged(path)

    with pytest.raises(ValueError):  # noqa: PT011 - its docstring says no more
        check_states(path, tokens=2)


def test_a_damaged_data_set_is_refused(tmp_path: Path, damaged: Damaged) -> None:
    path = tmp_path / "rows.jsonl"
    row = {
        "input_ids": [1, 2, 3],
        "loss_mask": [0, 1, 1],
        "language": "en",
        "source": "self",
        "temperature": 0.7,
        "prompt": "p",
        "text": "t",
    }
    path.write_text("".join(json.dumps({**row, "id": f"r{i}"}) + "\n" for i in range(3)))
    rows.index(path, 3)
    damaged(path)
    if not path.read_bytes():
        return

    with pytest.raises(DraftgateError, match=r"rows\.jsonl"):
        rows.index(path, 3)
