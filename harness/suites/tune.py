"""A search over a stack's parameters with Optuna: which trial comes next, and which has won.

Optuna's journal lies beside the runs of the trials. Whoever asks again goes on where it ended: a trial is
known by its values, and what it has measured is on disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from harness.config.cells import canonical
from harness.config.parameter import Parameter
from harness.config.space import Search, Space, Values
from harness.errors import BadInput, BadRecord, ServerFailed
from harness.results.files import drop_torn_line, json_lines, json_object, read_bytes, write_atomically
from harness.results.records import CellRecord
from harness.suites.objective import UNITS, flaw_of, unmet, worth
from harness.suites.trials import Trials, named
from harness.text.console import Say
from harness.text.numbers import duration, number

JOURNAL, ASKED = "optuna.log", "search.json"
"""In the folder of a search: Optuna's storage; and what was searched."""
_RANDOM = 5
"""Trials before Optuna's sampler (TPE, Bergstra et al. 2011) has something to go by."""
_OF_ITS_VALUES = frozenset({"command-failed", "engine-died", "engine-slow", "server-stalled"})
"""Errors that end a trial and not the search."""
_WHY = "why"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a search at one number of requests in flight came to."""

    in_flight: int
    trials: int
    winner: Values | None
    sentence: str


def tune(search: Search, folder: Path, *, trials: int, say: Say) -> Iterator[Found]:
    """Search at each number of requests in flight, and measure each winner again.

    Args:
        search: what to search.
        folder: of its runs and of Optuna's journal.
        trials: how many in all, with those of earlier calls.
        say: called with each line of progress.

    Raises:
        BadInput: Optuna is missing, the folder has another search, or something cannot be measured.
        ServerFailed: there is no engine.
    """
    optuna = _optuna()
    measuring = Trials(search=search, folder=folder, say=say)
    measuring.refuse()
    with _claimed(folder):
        _refuse_another(search, folder / ASKED)
        most = min(trials, search.size)
        seconds = sum(most * measuring.seconds(level) for level in search.levels)
        size = "any number of" if search.size == float("inf") else f"{search.size:,.0f}"
        loads = ", ".join(map(str, search.levels))
        say(f"{most:g} of {size} combinations, with {loads} in flight; about {duration(seconds)}")
        measuring.self_check()
        for level in search.levels:
            study = _study(optuna, folder / JOURNAL, f"{level} in flight")
            yield _Level(optuna, study, measuring, level).found(trials)


def _optuna() -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError:
        what = "draftgate tune takes the package optuna: pip install 'draftgate[tune]'"
        raise BadInput(what, code="extra-missing") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", blocking=False)
        lock.acquire()
    except Timeout:
        raise BadInput(
            f"{folder}: another process searches there; wait for its end", code="cannot-resume"
        ) from None
    except OSError as error:
        raise BadInput(f"cannot write {folder}: {error.strerror}", code="cannot-write") from None
    with lock:
        yield


def _refuse_another(search: Search, path: Path) -> None:
    """One folder holds one search: trials of another space or stack are not its own."""
    asked = search.recorded()
    if not path.exists():
        write_atomically(path, json.dumps(asked, indent=1) + "\n")
        return
    known = json_object(read_bytes(path), str(path))
    asked_of_it = {key: value for key, value in known.items() if not key.endswith("_hash")}
    with contextlib.suppress(ValidationError):  # one of an older version lacks keys
        known |= Space.model_validate(asked_of_it).model_dump(mode="json", by_alias=True)
    if differ := [key for key, value in asked.items() if known.get(key) != value]:
        raise BadInput(
            f"{path.parent} holds a search of another space ({', '.join(differ)} differ): name another "
            "folder with --results, or move that one away",
            code="other-conditions",
        )


def _study(optuna: Any, path: Path, name: str) -> Any:
    """Optuna's study of one load."""
    drop_torn_line(path)
    if path.exists():
        for _ in json_lines(path, may_be_empty=True):
            pass  # says which line is damaged
    try:
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        storage = optuna.storages.JournalStorage(backend)
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
        study.get_trials(deepcopy=False)
    except Exception as error:  # noqa: BLE001 - whatever Optuna raises of a file that is not its own
        what = f"not a journal of Optuna's that can be read ({type(error).__name__}: {error})"
        raise BadRecord(
            f"{path}: {what}; move it away: trials that were measured are found by their runs"
        ) from None
    return study


class _Level:
    """The search at one number of requests in flight."""

    def __init__(self, optuna: Any, study: Any, measuring: Trials, in_flight: int) -> None:
        self._study, self._measuring, self._in_flight = study, measuring, in_flight
        self._search = measuring.search
        self._state = optuna.trial.TrialState
        self._sampler = optuna.samplers.TPESampler
        self._kinds = {
            key: _distribution(optuna, parameter) for key, parameter in self._search.space.space.items()
        }

    def found(self, most: int) -> Found:
        """Search, and measure the winner again."""
        self._ask_again()
        while (done := len(self._tried())) < min(most, self._search.size):
            self._next(done, most)
        done = len(self._tried())
        say, head = self._measuring.say, f"{self._in_flight} in flight"
        if done >= self._search.size:
            say(f"{head}: nothing is left to try: all {done} combinations of the space were measured")
        if (best := self._best()) is None:
            reasons = dict.fromkeys(
                t.user_attrs.get(_WHY, "") for t in self._trials() if _WHY in t.user_attrs
            )
            why = f"no winner: none of {done} trials can win; the last one: {list(reasons)[-1]}"
            return Found(in_flight=self._in_flight, trials=done, winner=None, sentence=why)
        winner = self._values(best)
        if winner == self._search.default:
            said = f"the default has won: {named(winner)}; there is nothing to change"
        else:
            said = f"{named(winner)}: {self._measuring.compared(winner, self._in_flight)}"
        return Found(in_flight=self._in_flight, trials=done, winner=winner, sentence=said)

    def _best(self) -> Any | None:
        """The trial that leads; of two alike the earlier one."""
        kept = (trial for trial in self._trials() if trial.state == self._state.COMPLETE)
        return max(kept, key=lambda trial: (trial.value, -trial.number), default=None)

    def _trials(self) -> list[Any]:
        return [t for t in self._study.get_trials(deepcopy=False) if t.state.is_finished() and t.params]

    def _tried(self) -> set[str]:
        """The values of all trials that came to an end, also where they cannot win."""
        ended = (self._state.COMPLETE, self._state.PRUNED)
        return {canonical(self._values(trial)) for trial in self._trials() if trial.state in ended}

    def _values(self, trial: Any) -> dict[str, Any]:
        parameters = self._search.space.space
        return {
            key: json.loads(trial.params[key]) if parameters[key].choices else trial.params[key]
            for key in parameters
        }

    def _ask_again(self) -> None:
        """Trials that were interrupted come first, and before all others the default."""
        there = self._study.get_trials(deepcopy=False)
        for trial in (trial for trial in there if trial.state == self._state.RUNNING):
            self._study.tell(trial.number, state=self._state.FAIL)
            if trial.params:
                self._study.enqueue_trial(trial.params)
        if not there and self._search.is_inside(self._search.default):
            self._enqueue(self._search.default)

    def _enqueue(self, values: Values) -> None:
        parameters = self._search.space.space
        params = {key: json.dumps(v) if parameters[key].choices else v for key, v in values.items()}
        self._study.enqueue_trial(params)

    def _next(self, done: int, most: int) -> None:
        """Measure one more trial, of values that were not tried yet."""
        tried, asked = self._tried(), len(self._study.get_trials(deepcopy=False))
        seed = self._search.space.seed * 1000 + asked
        self._study.sampler = self._sampler(seed=seed, n_startup_trials=_RANDOM)
        trial = self._study.ask(self._kinds)
        if canonical(self._values(trial)) in tried:
            self._study.tell(trial, state=self._state.FAIL)
            chance = random.Random(seed)  # noqa: S311 - no secret
            values = self._search.drawn(chance)
            while canonical(values) in tried:
                values = self._search.drawn(chance)
            self._enqueue(values)
            trial = self._study.ask(self._kinds)
        values, space = self._values(trial), self._search.space
        number = f"trial {done + 1} of {min(most, self._search.size):g}, {self._in_flight} in flight"
        self._measuring.say(f"{number}: {named(values)}")
        value = None
        try:
            record = self._measured(values)
        except (BadInput, ServerFailed) as error:
            if error.code not in _OF_ITS_VALUES:
                raise
            why = str(error)
        else:
            value = worth(record, space)
            why = self._why_not(record, value)
            if record.stopped_at and value:
                trial.report(value, record.stopped_at)
        if why:
            for line in f"this trial cannot win: {why}".splitlines():
                self._measuring.say(line)
            trial.set_user_attr(_WHY, why.splitlines()[0])
            self._study.tell(trial, state=self._state.PRUNED)
        else:
            self._study.tell(trial, value)

    def _measured(self, values: Values) -> CellRecord:
        best = self._best()
        leading = self._measuring.known(self._values(best), self._in_flight) if best else None
        return self._measuring.measured(values, self._in_flight, best=leading)

    def _why_not(self, record: CellRecord, value: float | None) -> str:
        """Why a trial cannot win; empty where it can."""
        space = self._search.space
        if flaw := flaw_of(record):
            return flaw
        if value is None:
            return "its objective was not measured"
        if record.stopped_at:
            unit = UNITS[space.objective]
            return f"surely worse than the best after {record.stopped_at} prompts ({number(value)} {unit})"
        other = space.bounds.other_text is not None
        default = self._measuring.measured(self._search.default, self._in_flight) if other else None
        return unmet(record, space, default)


def _distribution(optuna: Any, parameter: Parameter) -> Any:
    """Optuna's name for the values of a parameter. Of choices the JSON: it takes no lists."""
    of = optuna.distributions
    if parameter.low is None or parameter.high is None:
        return of.CategoricalDistribution([json.dumps(choice) for choice in parameter.choices])
    if parameter.whole:
        return of.IntDistribution(parameter.low, parameter.top, step=parameter.step or 1)
    return of.FloatDistribution(parameter.low, parameter.top, step=parameter.step)
