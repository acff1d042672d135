"""`sphere tune` on a run whose trainings and answers are scripted; the steps and files are real."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import pytest

from sphere_ray import storage
from sphere_ray.commands.tune import tune
from sphere_ray.records import EvaluationRow, FinishReason, ModelRef, Problem, Verdict
from sphere_ray.runs.step import Made, Result, Step, Work
from sphere_ray.runs.steps.evaluation import EvaluationStep
from sphere_ray.runs.steps.pairs import PairsStep
from sphere_ray.runs.steps.policy import COLLAPSED, OUTCOME, PolicyStep
from sphere_ray.runs.steps.reference import ReferenceStep
from sphere_ray.schema import from_table, to_table
from tests.runs.steps import executor, opened

N = 10
BASE = ModelRef(path="", iteration=0, fingerprint="simulated")
SETTINGS: dict[str, Any] = {
    "training": {"learning_rate": 1e-5, "batch_size": 1, "epochs": 2},
    "promotion": {"first_look": N},
}
RATES = "training.learning_rate=2e-5,3e-5,4e-5"


@dataclass
class World:
    """How good each training is, and everything that was done."""

    right: Callable[[str], int] = lambda model: 5
    """How many of ten problems a model solves, by `RATE x EPOCHS` or `simulated`."""
    collapses: tuple[str, ...] = ()
    trained: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    fails_at: int | None = None

    def train(self, step: PolicyStep, work: Work) -> Result:
        name = f"{step.learning_rate:g} x {step.settings.training.epochs}"
        self._count(self.trained, name)
        if name in self.collapses:
            storage.write_json({"error": "it fell"}, f"{work.path}/{OUTCOME}")
            return Result(rows_in=4, rows_out=0, dropped={COLLAPSED: 4})
        storage.write_text(name, f"{work.path}/model/weights")
        storage.write_json({"reward_accuracy": 0.75}, f"{work.path}/{OUTCOME}")
        return Result(rows_in=4, rows_out=4, output=name)

    def answer(self, step: EvaluationStep, work: Work) -> Result:
        assert step.kind == "evaluation"  # never the test
        self._count(self.asked, step.model.fingerprint)
        right = self.right(step.model.fingerprint)
        tables = storage.tables(step.rows_of)
        rows = [_row(p, right) for table in tables for p in from_table(table, Problem)]
        storage.write_table(to_table(rows, EvaluationRow), f"{work.path}/part.parquet")
        return Result(rows_in=len(rows), rows_out=len(rows))

    def _count(self, kept: list[str], name: str) -> None:
        if len(self.trained) + len(self.asked) == self.fails_at:
            raise KeyboardInterrupt
        kept.append(name)


def _row(problem: Problem, right: int) -> EvaluationRow:
    solved = int(problem.problem_id) // 2 % N < right  # alike in both batches
    return EvaluationRow(
        problem_id=problem.problem_id,
        family=None,
        level=None,
        verdict=Verdict.CORRECT if solved else Verdict.WRONG,
        finish_reason=FinishReason.ANSWER,
    )


@dataclass(frozen=True, kw_only=True)
class Given(Step):
    """A step that the run has, from whatever made it."""

    given: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        return {}

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        return self.given

    def run(self, work: Work) -> Result:
        if self.kind == "problems":
            problems = [
                Problem(problem_id=f"{index:03}", question="?", answer="1", source="s")
                for index in range(2 * N)
            ]
            storage.write_table(to_table(problems, Problem), f"{work.path}/validation/p.parquet")
        return Result(rows_in=4, rows_out=4)


@dataclass(frozen=True, kw_only=True)
class Problems(Given):
    kind: ClassVar[str] = "problems"


@dataclass(frozen=True, kw_only=True)
class Rollouts(Given):
    kind: ClassVar[str] = "rollouts"


def play(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the world stand where Ray, engines and workers are."""
    monkeypatch.setattr(PolicyStep, "run", lambda step, work: world.train(step, work))
    monkeypatch.setattr(EvaluationStep, "run", lambda step, work: world.answer(step, work))
    for kind in (PairsStep, ReferenceStep):
        monkeypatch.setattr(kind, "run", lambda step, work: Result(rows_in=4, rows_out=4))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    found = World()
    play(found, monkeypatch)
    return found


@pytest.fixture
def run_dir(tmp_path: Path, finished_run: Path, world: World) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations; it has trained its policies and nothing was asked."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch, opened(directory, **SETTINGS) as run:
        play(World(), monkeypatch)
        make, policy = executor(run).make, BASE
        make(Problems())
        for number in range(2):
            here: dict[str, Any] = {"settings": run.settings, "iteration": number}
            rollouts = make(Rollouts(iteration=number, given={"policy": policy}))
            pairs = make(PairsStep(rollouts=rollouts, **here))
            reference = make(ReferenceStep(pairs=pairs, model=policy, **here))
            trained = make(
                PolicyStep(reference=reference, policy=policy, learning_rate=1e-5, **here)
            )
            assert trained.finished is not None
            assert trained.finished.model is not None
            policy = trained.finished.model
    return directory


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name[0] != "."}


def by_rate(**right: int) -> Callable[[str], int]:
    """Right answers by the rate in units of 1e-5 (`r3=7`), whatever the epochs."""
    return lambda model: right.get(f"r{model[0]}", 5)


def test_the_best_setting_is_chosen_and_the_run_stays_as_it_is(run_dir: Path, world: World) -> None:
    world.right = by_rate(r1=6, r2=4, r3=8, r4=7)
    before = files(run_dir)
    summary = tune(str(run_dir), [RATES], [])
    assert files(run_dir) == before
    assert summary["arguments"] == "--set training.learning_rate=3e-5"
    best = summary["candidates"][0]
    assert best["settings"] == ["training.learning_rate=3e-5"]
    assert (best["score"], best["n"], best["epochs"], best["pair_accuracy"]) == (0.8, 20, 2, 0.75)
    assert json.loads((run_dir.parent / "run-tune/tune.json").read_text()) == summary


def test_pairs_kept_from_a_refused_iteration_are_tuned_on_too(tmp_path: Path, world: World) -> None:
    directory = tmp_path / "refused"
    with opened(directory, **SETTINGS) as run:
        make, kept = executor(run).make, tuple[Made, ...]()
        make(Problems())
        for number in range(2):  # the base makes both rollouts
            here: dict[str, Any] = {"settings": run.settings, "iteration": number, "kept": kept}
            pairs = make(
                PairsStep(rollouts=make(Rollouts(iteration=number, given={"policy": BASE})), **here)
            )
            make(ReferenceStep(pairs=pairs, model=BASE, **here))
            kept = (pairs,)
    world.right = by_rate(r3=8)
    chosen = tune(str(directory), [RATES], [], iteration=1)["arguments"]
    assert chosen == "--set training.learning_rate=3e-5"


def test_losers_are_stopped_early_and_the_runs_own_training_is_taken(
    run_dir: Path, world: World
) -> None:
    world.right = by_rate(r1=2, r2=4, r3=8, r4=7)
    summary = tune(str(run_dir), [RATES], [])
    # Half of the epochs for all, all of them for the best; the run has trained the default itself.
    halves = ["1e-05 x 1", "2e-05 x 1", "3e-05 x 1", "4e-05 x 1"]
    assert world.trained == [*halves, "3e-05 x 2"]
    assert sorted(world.asked) == sorted(
        [*halves, *["3e-05 x 2", "1e-05 x 2", "simulated"] * 2]  # one batch, then both
    )
    assert (summary["trainings"], summary["evaluations"]) == (5, 10)
    assert [found["rung"] for found in summary["candidates"]] == [2, 2, 1, 1]
    assert [found["n"] for found in summary["candidates"]] == [20, 20, 10, 10]
    assert summary["seconds"] == pytest.approx(
        sum(
            json.loads(path.read_text())["report"]["seconds"]
            for path in (run_dir.parent / "run-tune").rglob("manifest.json")
            if "policy" in str(path) or "evaluation" in str(path)
        ),
        abs=0.1,
    )


def test_gains_are_over_the_policy_that_made_the_pairs_and_over_the_default(
    run_dir: Path, world: World
) -> None:
    world.right = by_rate(r1=6, r2=3, r3=8, s=5)
    summary = tune(str(run_dir), ["training.learning_rate=2e-5,3e-5"], [])
    found = {tuple(each["settings"]): each for each in summary["candidates"]}
    best, default, worst = (
        found[("training.learning_rate=3e-5",)],
        found[()],
        found[("training.learning_rate=2e-5",)],
    )
    differences = [float(5 <= index // 2 % N < 8) for index in range(2 * N)]
    assert best["over_policy"]["gain"] == pytest.approx(fmean(differences)) == pytest.approx(0.3)
    spread = sum((d - 0.3) ** 2 for d in differences) / (2 * N - 1)
    assert best["over_policy"]["standard_error"] == pytest.approx((spread / (2 * N)) ** 0.5)
    assert best["over_default"]["gain"] == pytest.approx(0.2)
    assert (default["over_policy"]["gain"], default["over_default"]) == (pytest.approx(0.1), None)
    assert worst["over_default"]["gain"] == pytest.approx(-0.3)  # of the first batch, one epoch


def test_the_same_command_again_makes_nothing(run_dir: Path, world: World) -> None:
    world.right = by_rate(r3=8)
    first = tune(str(run_dir), [RATES], [])
    manifests = {p: t for p, t in files(run_dir.parent).items() if p.name == "manifest.json"}
    world.fails_at = len(world.trained) + len(world.asked)
    assert tune(str(run_dir), [RATES], []) == first
    assert {
        p: t for p, t in files(run_dir.parent).items() if p.name == "manifest.json"
    } == manifests


@pytest.mark.parametrize("fails_at", [1, 4, 6, 11])
def test_a_stopped_tuning_continues(run_dir: Path, world: World, fails_at: int) -> None:
    world.right = by_rate(r1=6, r2=4, r3=8, r4=7)
    world.fails_at = fails_at
    with pytest.raises(KeyboardInterrupt):
        tune(str(run_dir), [RATES], [])
    world.fails_at = None
    assert tune(str(run_dir), [RATES], [])["arguments"] == "--set training.learning_rate=3e-5"
    assert len(world.trained) == len(set(world.trained)) == 5


def test_a_collapsed_training_is_out_at_once(run_dir: Path, world: World) -> None:
    world.right, world.collapses = by_rate(r2=6, r3=4), ("4e-05 x 1",)
    summary = tune(str(run_dir), [RATES], [])
    assert not [model for model in world.asked if model.startswith("4")]
    last = summary["candidates"][-1]
    assert last["settings"] == ["training.learning_rate=4e-5"]
    assert (last["collapsed"], last["score"], last["model"]) == ("it fell", None, None)
    assert summary["arguments"] == "--set training.learning_rate=2e-5"


def test_nothing_is_chosen_where_every_training_collapsed(run_dir: Path, world: World) -> None:
    world.collapses = tuple(f"{rate}e-05 x 1" for rate in (1, 2, 3, 4))
    summary = tune(str(run_dir), [RATES], [])
    assert (summary["arguments"], summary["evaluations"], world.asked) == (None, 0, [])


@pytest.mark.parametrize(
    ("right", "chosen"),
    [
        ({"r1": 5, "r2": 5, "r3": 5, "r4": 5}, ""),
        ({"r1": 5, "r2": 6, "r3": 6, "r4": 4}, "--set training.learning_rate=2e-5"),
        ({"r1": 9, "r2": 6, "r3": 6, "r4": 4}, ""),
    ],
)
def test_ties_go_to_the_default_and_then_to_the_smaller_rate(
    run_dir: Path, world: World, right: dict[str, int], chosen: str
) -> None:
    world.right = by_rate(**right)
    grid = ["training.learning_rate=4e-5,3e-5,2e-5"]
    assert tune(str(run_dir), grid, [])["arguments"] == chosen


def test_with_one_epoch_nothing_is_trained_twice(run_dir: Path, world: World) -> None:
    world.right = by_rate(r3=8, r2=7, r4=6)
    summary = tune(str(run_dir), [RATES], ["training.epochs=1"])
    assert summary["arguments"] == "--set training.epochs=1 --set training.learning_rate=3e-5"
    assert len(world.trained) == len(set(world.trained)) == 4
    assert len([model for model in world.asked if model[0] == "3"]) == 2
    assert len([model for model in world.asked if model[0] == "2"]) == 1


def test_all_combinations_are_tried_or_some_by_the_seed(run_dir: Path) -> None:
    grid = [RATES, "training.loss.beta=0.1,0.3"]
    tried = [found["settings"] for found in tune(str(run_dir), grid, [])["candidates"]]
    assert len(tried) == 1 + 3 * 2
    some = [tune(str(run_dir), grid, [], num_trials=3)["candidates"] for _ in range(2)]
    assert some[0] == some[1]
    names = [found["settings"] for found in some[0]]
    assert [] in names
    assert len(names) == 4
    assert all(name in tried for name in names)
    others = tune(str(run_dir), grid, ["seed=3"], num_trials=3)["candidates"]
    assert [found["settings"] for found in others] != names


def test_groups_of_settings_are_values_too(run_dir: Path) -> None:
    grid = ["training.loss={kind: robust, label_smoothing: 0.1},{kind: ipo, beta: 0.05}"]
    tried = [found["settings"] for found in tune(str(run_dir), grid, [])["candidates"]]
    assert ['training.loss={"kind": "robust", "label_smoothing": 0.1}'] in tried
    assert len(tried) == 3


def test_a_later_iteration_begins_with_its_own_policy(run_dir: Path, world: World) -> None:
    world.right = by_rate(r1=7, r3=9)
    summary = tune(str(run_dir), ["training.learning_rate=3e-5"], [], iteration=1)
    assert summary["iteration"] == 1
    best = summary["candidates"][0]
    assert best["over_policy"]["gain"] == pytest.approx(0.2)  # over iteration 0's, not the base's
    assert "simulated" not in world.asked


GOOD = "training.learning_rate=3e-5"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "needs a grid"),
        (("--grid", "training.learning_rate="), "expected KEY=VALUE"),
        (("--grid", "training.learning_rate"), "expected KEY=VALUE"),
        (("--grid", "training.loss={kind: ipo"), "expected KEY=VALUE"),
        (("--grid", "training.learning_rate=1e-5"), "nothing but the run's own settings"),
        (("--grid", "training.betta=1"), "--grid training.betta=1: training.betta is not a known"),
        (("--grid", "training.learning_rate=-1"), "must be greater than 0"),
        (("--grid", GOOD, "--set", "training.betta=1"), "--set training.betta=1: "),
        (("--grid", "method.pairs.max_per_problem=1"), "--grid method.pairs.max_per_problem: "),
        (("--grid", "seed=1,2"), "--grid seed: "),
        (("--grid", "trainer.max_failures=2"), "--grid trainer.max_failures: "),
        (("--grid", "training.max_length=9"), "reference table that the run has"),
        (("--grid", "training.precision=bf16"), "reference table that the run has"),
        (("--grid", "training.reference=initial"), "--grid training.reference: "),
        (("--grid", "training.micro_batch_size=1"), "--grid training.micro_batch_size: "),
        (("--grid", GOOD, "--iteration", "2"), "no finished rollouts of iteration 2"),
        (("--grid", GOOD, "--set", "training.max_length=9"), "max_length: 2048 there, 9 here"),
        (("--grid", GOOD, "--set", "training.min_pairs=9"), "4 pairs"),
    ],
)
def test_mistakes_are_one_sentence(
    run_dir: Path, world: World, sphere: Any, arguments: tuple[str, ...], told: str
) -> None:
    code, _, err = sphere("tune", str(run_dir), *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert told in err
    assert not world.trained
    assert not (run_dir.parent / "run-tune").exists()


def test_unfinished_pairs_are_a_sentence(run_dir: Path, sphere: Any) -> None:
    (run_dir / "iter-000/reference/manifest.json").unlink()
    code, _, err = sphere("tune", str(run_dir), "--grid", GOOD)
    assert code == 2
    assert "no finished pairs and reference table of iteration 0" in err


def test_the_command_shows_the_candidates_and_the_choice(
    run_dir: Path, world: World, sphere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    world.right, world.collapses = by_rate(r3=8), ("4e-05 x 1",)
    code, out, _ = sphere("tune", str(run_dir), "--grid", RATES)
    assert code == 0
    for text in ("default", "+30.0 (10.5)", "+30.0 (+8.0 to +52.0)", "80.0", "collapsed"):
        assert text in out
    assert "too good by selection" in out
    assert out.endswith("chosen: --set training.learning_rate=3e-5\n")
