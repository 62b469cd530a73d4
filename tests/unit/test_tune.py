"""`draftgate tune`: a space is read, values are chosen, and the winner is measured on other prompts."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.cli import main
from harness.config.cells import Cell
from harness.config.parameter import Parameter
from harness.config.prompts import Prompt
from harness.config.space import Search
from harness.errors import BadInput, ServerFailed
from harness.judge.verdict import judge
from harness.plugin import DATA
from harness.results.records import CellRecord, Finding, load
from harness.stats.paired import MIN_PROMPTS
from harness.suites import selfcheck, targets, trials
from harness.suites.objective import MEMORY, surely_worse
from harness.suites.runner import Bench
from tests.factories import simulated
from tests.factories.runs import answer, cell, write_cell

STACK = """\
schema = 1
name = "tiny"
endpoints = ["chat"]
languages = ["en"]
[target]
model = "org/tiny"
[engine.args]
max_num_seqs = 8
[drafters.none]
[drafters.ngram]
method = "ngram"
k = [2, 4]
prompt_lookup_max = 4
"""
HEAD = """\
schema = 1
stack = "./tiny.toml"
drafter = "ngram"
"""
K = """\
[space."drafters.ngram.k"]
low = 1
high = 4
"""
LOOKUP = """\
[space."drafters.ngram.prompt_lookup_max"]
choices = [2, 4, 6]
"""
RATIO = """\
[space."command.ratio"]
choices = [0.25, "a b"]
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def space(*parts: str, name: str = "some") -> Path:
        (tmp_path / "tiny.toml").write_text(STACK, encoding="utf-8")
        path = tmp_path / f"{name}.toml"
        path.write_text(HEAD + "".join(parts), encoding="utf-8")
        return path

    return space


# The file


def test_a_space_makes_the_cell_of_its_values(write: Write) -> None:
    search = Search(write(K, LOOKUP, '[space."engine.args.max_num_seqs"]\nlow = 1\nhigh = 64\nstep = 9\n'))
    values = {"drafters.ngram.k": 3, "drafters.ngram.prompt_lookup_max": 6, "engine.args.max_num_seqs": 19}
    made = search.cell(values, 5)

    assert str(made) == "chat-en-instruct-ngram-k3"
    assert made.spec.speculative == {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 6}
    assert made.spec.args == {"max_num_seqs": 19}
    assert (made.profile.prompts, made.profile.concurrency) == (MIN_PROMPTS, 5)
    assert search.size == 4 * 3 * 8
    assert search.stack.engine.args == {"max_num_seqs": 8}, "the stack itself stays as it is"


def test_a_key_may_stand_without_quotes(write: Write) -> None:
    assert Search(write(K.replace('"', ""))).space == Search(write(K)).space


def test_the_default_is_what_the_stack_measures(write: Write) -> None:
    search = Search(write(K, LOOKUP, '[space."engine.args.block_size"]\nchoices = [16, 32]\n'))

    assert search.default == {"drafters.ngram.k": 4, "drafters.ngram.prompt_lookup_max": 4}
    assert not search.is_inside(search.default), "the stack sets no block_size"
    assert Search(write(K, LOOKUP)).is_inside(search.default)


@pytest.mark.parametrize(
    ("values", "size", "inside", "outside"),
    [
        ({"low": 1, "high": 4}, 4, [1, 4], [0, 5, 2.5, True, "2"]),
        ({"low": 1, "high": 8, "step": 3}, 3, [1, 4, 7], [8, 2]),
        ({"low": 0.0, "high": 0.5, "step": 0.1}, 6, [0.3, 0.5, 0], [0.25]),
        ({"low": 0.0, "high": 0.5}, float("inf"), [0.123], [0.6]),
        ({"choices": [1, True, "a", [1, 2]]}, 4, [True, "a", [1, 2]], [2, "1", False]),
    ],
)
def test_the_values_of_a_parameter(
    values: dict[str, Any], size: float, inside: list[Any], outside: list[Any]
) -> None:
    parameter, chance = Parameter.model_validate(values), random.Random(1)  # noqa: S311 - no secret

    assert parameter.size == size
    assert all(map(parameter.has, inside))
    assert not any(map(parameter.has, outside))
    assert all(parameter.has(parameter.drawn(chance)) for _ in range(50))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[space."drafters.ngram.k"]\nlow = 1\nhgih = 4\n', 6, "high"),
        ('[space."drafters.ngran.k"]\nlow = 1\nhigh = 4\n', 4, "ngram"),
        ('[space."drafter.ngram.k"]\nlow = 1\nhigh = 4\n', 4, "drafters.ngram.k"),
        ('[space."engine.arg.max_num_seqs"]\nlow = 1\nhigh = 4\n', 4, "engine.args.max_num_seqs"),
        ('[space."engine.args.api_key"]\nchoices = ["a"]\n', 4, "secret"),
        ('[space."drafters.ngram.selected"]\nchoices = [true]\n', 4, "selected"),
        ('[space."drafters.ngram.k"]\nlow = 0\nhigh = 4\n', 4, "k is"),
        ('[space."drafters.ngram.k"]\nlow = 1.5\nhigh = 4\n', 4, "k is"),
        ('[space."drafters.ngram.k"]\nlow = 5\nhigh = 4\n', 4, "low"),
        ('[space."drafters.ngram.k"]\nlow = 5\n', 4, "high"),
        ('[space."drafters.ngram.k"]\nlow = 1\nhigh = 2\nchoices = [1]\n', 4, "choices"),
        ('[space."drafters.ngram.k"]\nchoices = [1, 1]\n', 4, "twice"),
        ('[space."drafters.ngram.model"]\nchoices = [1]\n', 4, "text"),
        ("[space.drafters.ngram.k]\nlow = 1\nhgih = 4\n", 6, "high"),
        ('objective = "tokens_per_stp"\n' + K, 4, "tokens_per_step"),
        ("workload = 'instrct'\n" + K, 4, "instruct"),
        ("language = 'zz'\n" + K, 4, "en"),
        ("profile = 'quik'\n" + K, 4, "quick"),
        ("prompts = 2\n" + K, 4, "8"),
        ("concurrency = [1, 1]\n" + K, 4, "once"),
        ("[bounds]\nttft = 3\n" + K, 5, "ttft_ms"),
        ("[space]\n", 4, "1 values"),
        ("[bounds]\nquality = 3\n" + K, 5, "what is measured: ttft_ms, tpot_ms, memory_mib, other_text"),
        ("[bounds]\nother_text = 3\n" + K, 5, "at most 1"),
        ('[space."command.ratio"]\nlow = 1\nhigh = 4\n', 4, "no place {ratio}"),
        ('command = "x {ratio} {output}"\n' + K, 4, "{ratio} is no parameter"),
        ('command = "x {ratio}"\n' + RATIO, 4, "needs {output}"),
        ('command = "x {output}"\n' + K, 4, "and a parameter"),
        ('command = "x \'{ratio} {output}"\n' + RATIO, 4, "not a command"),
        ('command = "x {output}"\n[space."command.output"]\nchoices = ["a"]\n', 5, "itself"),
        ("command = 3\n" + K, 4, "text"),
    ],
)
def test_what_is_wrong_in_a_space_is_said_with_its_line(
    write: Write, text: str, line: int, said: str
) -> None:
    path = write(text)

    with pytest.raises(BadInput) as refused:
        Search(path)
    assert str(refused.value).startswith(f"{path}, line {line}, key ")
    assert said in str(refused.value)


@pytest.mark.parametrize("path", sorted((DATA / "spaces").glob("*.toml")), ids=lambda path: path.stem)
def test_the_shipped_spaces_hold_their_default(path: Path) -> None:
    search = Search(path)

    assert search.is_inside(search.default)


def test_a_command_gets_each_value_as_one_word(write: Write, tmp_path: Path) -> None:
    path = write('command = "{here}/make --keep={ratio} -o {output} \'{\\"a\\": 1}\'"\n', RATIO)
    search = Search(path, tmp_path / "results")
    words = [search.command({"command.ratio": value}) for value in (0.25, "a b")]

    made = [search.made({"command.ratio": value}) for value in (0.25, "a b")]
    assert words[0] == [f"{tmp_path}/make", "--keep=0.25", "-o", str(made[0]), '{"a": 1}']
    assert words[1][1] == "--keep=a b"
    assert made[0] != made[1]
    cell = search.cell({"command.ratio": 0.25}, 1)
    assert cell.spec.target.model == str(made[0])
    assert search.made({"drafters.ngram.k": 3}) is None


def test_a_command_whose_program_is_not_there_is_refused(
    write: Write, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write('command = "pyhton {ratio} {output}"\n', RATIO)

    assert tune(path) == 2
    assert f"{path}, line 4, key command: there is no program pyhton" in capsys.readouterr().err
    assert not asked


# The search


Asked = list[tuple[str, int, tuple[str, ...]]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What was measured: suite, k and prompts. A step accepts most at k = 3, and a lookup of 6 is refused."""
    done: Asked = []

    def measured(ours: Bench, which: Cell, *, suite: str, prompts: Sequence[Prompt], **_: Any) -> CellRecord:
        drafter = which.spec.speculative or {}
        if drafter["prompt_lookup_max"] == 6:
            raise ServerFailed("the engine gave up", code="engine-died")
        done.append((suite, which.name.k, tuple(prompt.id for prompt in prompts)))
        worse = min(abs(which.name.k - 3), 6) + (drafter["prompt_lookup_max"] != 4)
        slow = 2.0 + worse / 10 + len(done) / 1000
        records = [
            answer(i, k=4, worse=worse + i % 2, seconds=slow, ttft_s=0.1 * which.name.k)
            for i, _ in enumerate(prompts)
        ]
        return cell(k=4, prompts=tuple(records)).model_copy(update={"cell": which.name})

    monkeypatch.setattr(Bench, "measured", measured)
    monkeypatch.setattr("harness.commands.tune.end_like_ctrl_c", lambda: None)
    monkeypatch.setattr(trials, "check", lambda *_: None)
    monkeypatch.setattr(selfcheck, "ensure", lambda *_, **__: selfcheck.SelfCheck.model_construct(checks=()))
    monkeypatch.setattr("harness.run.tells_apart", lambda *_: None)
    return done


def tune(path: Path, *words: str) -> int:
    return main(["tune", str(path), "--results", str(path.parent / "results"), *words])


def of_trials(asked: Asked) -> list[int]:
    return [k for suite, k, _ in asked if suite == trials.SUITE]


def test_the_winner_is_measured_beside_the_default_on_prompts_of_its_own(
    write: Write, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(write(K)) == 0

    seen, fresh = (
        {p for suite, _, ps in asked for p in ps if (suite == trials.SUITE) == of} for of in (1, 0)
    )
    assert (len(seen), len(fresh)) == (MIN_PROMPTS, MIN_PROMPTS)
    assert not seen & fresh
    assert [k for suite, k, _ in asked if suite != trials.SUITE] == [4, 3], "the default, and the winner"
    last = capsys.readouterr().out.splitlines()[-1]
    assert "drafters.ngram.k = 3" in last


def test_a_search_ends_when_nothing_is_left_to_try(write: Write, asked: Asked) -> None:
    assert tune(write(K, LOOKUP), "--trials", "100") == 0

    assert of_trials(asked)[0] == 4, "the default comes first"
    assert sorted(of_trials(asked)) == [1, 1, 2, 2, 3, 3, 4, 4], "none twice; a lookup of 6 is refused"


def test_times_are_compared_over_blocks_of_starts(write: Write, asked: Asked) -> None:
    assert tune(write('objective = "tok_s"\n', K)) == 0

    starts = [k for suite, k, _ in asked if suite != trials.SUITE]
    assert len(starts) == 4 * trials.BLOCKS
    assert starts[:8] == [4, 3, 3, 4, 3, 4, 4, 3]


def test_each_load_has_a_winner_of_its_own(
    write: Write, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(write("concurrency = [1, 8]\n", K)) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" in flight")[0] for line in lines if " trials: " in line] == ["1", "8"]


def test_a_search_goes_on_where_it_ended(write: Write, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    path, whole = write(K), Bench.measured

    def stopped(ours: Bench, which: Cell, **words: Any) -> CellRecord:
        if len(asked) == 2:
            raise KeyboardInterrupt
        return whole(ours, which, **words)

    monkeypatch.setattr(Bench, "measured", stopped)
    assert tune(path) == 130
    before = of_trials(asked)
    monkeypatch.setattr(Bench, "measured", whole)
    assert tune(path) == 0
    assert sorted(of_trials(asked)) == [1, 2, 3, 4]
    assert of_trials(asked)[:2] == before


def test_the_seed_decides_which_values_come(write: Write, asked: Asked) -> None:
    orders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        asked.clear()
        tune(write(f"seed = {seed}\n", K.replace("4", "64"), name=name), "--trials", "6")
        orders.append(of_trials(asked))

    assert orders[0] == orders[1] != orders[2]


def test_a_bound_that_no_trial_keeps_leaves_no_winner(write: Write, asked: Asked) -> None:
    assert tune(write("[bounds]\nttft_ms = 50\n", K)) == 1
    assert [suite for suite, *_ in asked] == [trials.SUITE] * 4

    asked.clear()
    assert tune(write("[bounds]\nttft_ms = 250\n", K, name="other")) == 0
    assert [k for suite, k, _ in asked if suite != trials.SUITE] == [4, 2], "k = 3 is too slow to begin"


@pytest.mark.parametrize(("bound", "winner"), [("memory_mib = 250", 2), ("other_text = 0.5", 4)])
def test_memory_and_other_texts_are_bounds_too(
    write: Write, asked: Asked, monkeypatch: pytest.MonkeyPatch, bound: str, winner: int
) -> None:
    """A k takes 100 MiB for each of its tokens; with another k than 4, all texts are other ones."""
    whole = Bench.measured

    def measured(ours: Bench, which: Cell, **words: Any) -> CellRecord:
        found, k = whole(ours, which, **words), which.name.k
        prompts = [r.model_copy(update={"text_hash": f"{k} {r.text_hash}"}) for r in found.prompts]
        return found.model_copy(update={"provenance": {MEMORY: 100 * k}, "prompts": tuple(prompts)})

    monkeypatch.setattr(Bench, "measured", measured)
    assert tune(write(f"[bounds]\n{bound}\n", K)) == 0
    said = [k for suite, k, _ in asked if suite != trials.SUITE]
    assert said == ([4, winner] if winner != 4 else []), "the default need not be measured beside itself"


def test_a_bound_on_memory_that_nobody_measured_is_not_kept(write: Write, asked: Asked) -> None:
    assert tune(write("[bounds]\nmemory_mib = 250\n", K)) == 1
    assert asked


def test_a_figure_of_the_common_beginnings_says_so(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the engine's arguments differ, texts may part, and the drafter is the same."""
    table, at = simulated.drafter(1), np.full(simulated.PROMPTS, 48)
    sides = [
        simulated.cell(simulated.parted(table, simulated.drafter(n), at), text=text, parts=at)
        for n, text in ((2, "a"), (3, "b"))
    ]
    monkeypatch.setattr(targets, "make", lambda *_: {})
    monkeypatch.setattr(trials.Trials, "_bench", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(trials.Trials, "_block", lambda *_: list(enumerate(sides)))
    search = Search(write(K))

    said = trials.Trials(search=search, folder=Path(), say=lambda _: None).compared(search.default, 1)

    assert f"{judge(*sides).share:.0%} of the tokens" in said


def losing(worse: int, *, prompts: int = 16, seconds: float = 2.0) -> CellRecord:
    """Each of its answers has so many steps that accept nothing, or one more."""
    return cell(prompts=tuple(answer(i, worse=worse + i % 2, seconds=seconds) for i in range(prompts)))


@pytest.mark.parametrize(
    ("objective", "record", "pruned"),
    [
        ("tokens_per_step", losing(5), True),
        ("tokens_per_step", losing(0), False),
        ("tokens_per_step", losing(0, seconds=9), False),
        ("tok_s", losing(0, seconds=9), True),
        ("tok_s", losing(0, seconds=2.02), False),  # starts may differ by that
        ("goodput", losing(5, seconds=9), False),
    ],
)
def test_what_is_surely_worse_than_the_best_is_given_up(
    write: Write, objective: str, record: CellRecord, *, pruned: bool
) -> None:
    space = Search(write(f'objective = "{objective}"\n', K)).space
    best = losing(0, prompts=24)

    assert surely_worse(record, best, space, look=16) == pruned
    assert not surely_worse(record, None, space, look=16)


def test_a_trial_stops_at_the_look_that_shows_it(
    write: Write, asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """k = 4 comes first and is the best; what is worse stops after 16 of its 24 prompts."""

    def measured(ours: Bench, which: Cell, *, passes: Any, prompts: Any, suite: str, **_: Any) -> CellRecord:
        asked.append((suite, which.name.k, ()))
        whole = losing(2 * (4 - which.name.k), prompts=len(prompts)).model_copy(update={"cell": which.name})

        def so_far(look: int) -> CellRecord:
            return whole.model_copy(update={"prompts": whole.prompts[:look], "stopped_at": look})

        nothing = dict.fromkeys(("one_pass", "all_passes"), lambda *_, **__: None)
        stopped_at = passes(SimpleNamespace(**nothing, so_far=so_far, seen={}))
        found = so_far(stopped_at) if stopped_at else whole
        write_cell(ours.run.folder / suite, found)
        return found

    monkeypatch.setattr(Bench, "measured", measured)
    monkeypatch.setattr(trials, "_memory", lambda *_: {})
    path = write("prompts = 24\n", K)

    assert tune(path) == 0

    assert "the default has won" in capsys.readouterr().out
    found = [load(one, CellRecord) for one in path.parent.glob("results/*/trial-*/acceptance/*.json")]
    stops = {record.cell.k: (record.stopped_at, len(record.prompts)) for record in found}
    assert stops == {4: (None, 24), **dict.fromkeys((1, 2, 3), (16, 16))}
    (journal,) = path.parent.glob("results/*/optuna.log")
    assert journal.read_text(encoding="utf-8").count("surely worse") == 3


def test_a_block_on_a_busy_machine_is_measured_again(
    write: Write, asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once; then the search says so, and the same command tries again."""
    whole, busy = Bench.measured, [True]

    def measured(ours: Bench, which: Cell, **words: Any) -> CellRecord:
        suite = words["suite"]
        if known := ours.run.finished_cell(suite, which):
            return known
        found = whole(ours, which, **words)
        around = {"surroundings": {"others": 0.4 if busy[0] and "/01" in suite else 0.0}}
        found = found.model_copy(update={"provenance": around, "suite": suite})
        write_cell(ours.run.folder / suite, found)
        return found

    monkeypatch.setattr(Bench, "measured", measured)
    path = write('objective = "tok_s"\n', K)

    assert tune(path) == 2
    assert refusal(capsys) == "device-busy"
    fresh = [suite.split("/")[1] for suite, *_ in asked if suite != trials.SUITE]
    assert list(dict.fromkeys(fresh)) == ["00", "01", "01-again-1"]
    busy[0], count = False, len(asked)
    assert tune(path) == 0
    fresh = [suite.split("/")[1] for suite, *_ in asked[count:]]
    assert list(dict.fromkeys(fresh)) == ["01-again-2", "02"]


def test_a_search_of_an_older_version_goes_on(write: Write, asked: Asked) -> None:
    """Its file lacks what newer ones can say."""
    path = write(K)
    tune(path, "--trials", "1")
    (known,) = path.parent.glob("results/*/search.json")
    old = json.loads(known.read_text(encoding="utf-8"))
    for key in ("command", "command_timeout_s"):
        del old[key]
    del old["bounds"]["memory_mib"]
    known.write_text(json.dumps(old), encoding="utf-8")

    assert tune(path, "--trials", "2") == 0


def test_what_is_no_measurement_does_not_win(
    write: Write, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = Finding(code="foreign-traffic", hard=True, text="the server finished 30 requests")
    whole = Bench.measured

    def spoiled(ours: Bench, which: Cell, **words: Any) -> CellRecord:
        found = whole(ours, which, **words)
        return found.model_copy(update={"findings": (busy,)}) if which.name.k == 3 else found

    monkeypatch.setattr(Bench, "measured", spoiled)
    assert tune(write(K)) == 0
    assert 3 in of_trials(asked)
    assert 3 not in [k for suite, k, _ in asked if suite != trials.SUITE]


# Bad input


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error.rpartition("[")[2].rstrip("]\n")


def test_another_space_in_the_same_folder_is_refused(
    write: Write, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(write(K), "--trials", "1")
    measured = len(asked)

    assert tune(write(K, LOOKUP), "--trials", "2") == 2
    assert refusal(capsys) == "other-conditions"
    assert len(asked) == measured


@pytest.mark.parametrize("damage", ['{"op_code": 0', "not JSON", '{"op_code": 99}', '{"a": 1}', "[]"])
def test_a_damaged_journal_is_refused(
    write: Write, asked: Asked, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = write(K)
    tune(path, "--trials", "1")
    (journal,) = path.parent.glob("results/*/optuna.log")
    lines = journal.read_text(encoding="utf-8").splitlines()
    journal.write_text("\n".join([lines[0], damage, *lines[1:]]) + "\n", encoding="utf-8")
    capsys.readouterr()

    assert tune(path, "--trials", "2") == 2
    assert refusal(capsys) == "damaged-file"


def test_a_journal_that_was_cut_within_its_last_line_goes_on(write: Write, asked: Asked) -> None:
    path = write(K)
    tune(path, "--trials", "2")
    (journal,) = path.parent.glob("results/*/optuna.log")
    journal.write_bytes(journal.read_bytes()[:-9])

    assert tune(path) == 0


def test_a_missing_extra_is_said(
    write: Write, asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)

    assert tune(write(K)) == 2
    assert refusal(capsys) == "extra-missing"


def test_a_field_that_the_engine_does_not_know_is_said_with_its_line(
    write: Write, asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(spec: Any) -> None:
        if "prompt_lookup_mx" in spec.speculative:
            raise BadInput("does not know it", code="unknown-to-engine")

    monkeypatch.setattr(trials, "check", unknown)
    path = write(K, LOOKUP.replace("_max", "_mx"))

    assert tune(path) == 2
    error = capsys.readouterr().err
    assert f"{path}, line 7, key space.drafters.ngram.prompt_lookup_mx" in error
    assert "[unknown-to-engine]" in error
    assert not asked


def test_too_few_prompts_for_the_winner_are_refused(
    write: Write, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(write('workload = "code"\nprompts = 20\n', K)) == 2
    assert refusal(capsys) == "no-reserve"
    assert not asked


@pytest.mark.parametrize(
    ("words", "code"),
    [(["nothing"], "unknown-name"), (["ngram", "--trials", "0"], "option-value")],
)
def test_words_that_mean_nothing_are_refused(
    words: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *words]) == 2
    assert refusal(capsys) == code
