"""Promotion and refusal over several iterations: a maker hands out what a test scripts."""

from pathlib import Path
from typing import Any

import pytest

from sphere_ray.errors import ModelError, RunDirectoryError
from sphere_ray.evolution import evolve
from sphere_ray.evolution.outcome import Iteration
from sphere_ray.runs.directory import Run
from sphere_ray.runs.step import Planner, State
from sphere_ray.runs.steps.evaluation import BenchmarkStep
from sphere_ray.runs.steps.problems import ProblemsStep
from sphere_ray.runs.steps.reference import ReferenceStep
from sphere_ray.runs.steps.reward_model import RewardModelStep
from sphere_ray.runs.steps.rollouts import RolloutsStep
from tests.evolution.script import BASE, Script, answers, policy_of, settings_of


def decisions(iterations: list[Iteration]) -> list[bool]:
    return [item.refusal is None for item in iterations]


def test_each_better_policy_makes_the_next_rollout(run: Any) -> None:
    script = Script(after=[answers(5), answers(6), answers(8)])
    assert decisions(run(script)) == [True, True, True]
    policies = ["base", policy_of(0), policy_of(1)]
    assert script.policies == policies
    assert [step.model.fingerprint for step in script.every(ReferenceStep)] == policies
    assert script.rates == [1.0, 1.0, 1.0]
    assert script.finished == [0, 1, 2]
    assert script.asked[-1].place == "test/iter-002"


def test_a_worse_policy_is_refused_and_the_rate_halved(run: Any) -> None:
    script = Script(after=[answers(4), answers(6), answers(6)])
    iterations = run(script)
    assert decisions(iterations) == [False, True, True]
    assert script.policies == ["base", "base", policy_of(1)]
    assert script.rates == [1.0, 0.5, 0.5]
    assert "-10.0 points" in iterations[0].refusal


def test_two_refusals_in_a_row_end_the_run(run: Any) -> None:
    script = Script(after=[answers(4), answers(3), answers(9)])
    assert decisions(run(script)) == [False, False]
    assert script.said[-1] == "2 iterations in a row promoted nothing; the run ends"
    assert script.asked[-1].place == "iter-001/evaluation/trained"


def test_a_collapse_halves_the_rate_and_keeps_the_policy(run: Any) -> None:
    script = Script(after=[[], answers(7), answers(7)], collapses=("iter-000/policy",))
    iterations = run(script)
    assert decisions(iterations) == [False, True, True]
    assert script.rates == [1.0, 0.5, 0.5]
    assert iterations[0].trials[0].after == []
    assert iterations[0].refusal == "training collapsed: it fell"


def test_too_few_pairs_keep_the_policy_and_the_rate(run: Any) -> None:
    script = Script(after=[[], answers(7), answers(7)], unfit=(0,))
    assert decisions(run(script)) == [False, True, True]
    assert script.rates == [1.0, 1.0]
    few = Script(after=[], pairs=1)
    iterations = run(few, training={"min_pairs": 3})
    assert decisions(iterations) == [False, False]
    assert "min_pairs (3)" in iterations[0].refusal
    assert few.every(ReferenceStep) == []  # no worker is asked to find out


def test_answers_that_run_away_are_refused(run: Any) -> None:
    script = Script(after=[answers(6, truncated=4)] * 2)
    iterations = run(script, promotion={"max_truncated_rise": 0.3})
    assert decisions(iterations) == [False, False]
    assert "40%" in iterations[0].refusal


def test_problems_that_could_not_be_asked_decide_nothing(run: Any) -> None:
    script = Script(after=[answers(5, failed=5)] * 3)
    assert decisions(run(script)) == [True, True, True]  # five of the five answered are right


def test_the_reference_can_stay_the_base_model(run: Any) -> None:
    script = Script(after=[answers(6), answers(7), answers(8)])
    run(script, training={"reference": "initial"})
    assert [step.model for step in script.every(ReferenceStep)] == [BASE] * 3


def test_checkpoints_stay_when_an_iteration_fails(run: Any) -> None:
    script = Script(after=[])  # there are no answers to hand out
    with pytest.raises(IndexError):
        run(script)
    assert script.finished == []


def trained(**schedule: Any) -> dict[str, Any]:
    training = {"batch_size": 8}
    # Not step tags: those ask for a base with a configuration.
    shaped = {"pool": {"kv_cache_gib": 1}, "shape": "classifier"}
    settings = shaped | {"training": training, "schedule": schedule}
    return {"scorer": {"kind": "rollout_value", "trained": settings}}


def scorers(script: Script) -> list[str | None]:
    return [step.trained and step.trained.fingerprint for step in script.every(RolloutsStep)]


def reward_of(iteration: int) -> str:
    return f"output of iter-{iteration:03}/reward"


def test_a_good_trained_reward_model_takes_over_and_learns_on(run: Any) -> None:
    script = Script(after=[answers(6)] * 3, handover_refusals=[None, None])
    iterations = run(script, engines=trained())
    assert scorers(script) == [None, reward_of(0), reward_of(1)]
    learned = [[each.trained for each in step.recorded] for step in script.every(RewardModelStep)]
    assert learned == [[False], [False, True]]
    assert [item.scored_by is not None for item in iterations] == [False, True, True]


def test_a_refused_trained_reward_model_leaves_the_source_and_says_why(run: Any) -> None:
    script = Script(after=[answers(6)] * 3, handover_refusals=["AUC 0.5", None])
    run(script, engines=trained())
    assert scorers(script) == [None, None, reward_of(1)]
    assert "the reward source stays (AUC 0.5)" in script.said[0]


def test_a_trained_reward_model_that_grew_worse_is_not_taken(run: Any) -> None:
    script = Script(after=[answers(6)] * 3, handover_refusals=[None, "AUC 0.5"])
    run(script, engines=trained())
    assert scorers(script) == [None, reward_of(0), reward_of(0)]


def test_the_hand_over_waits_for_its_time(run: Any) -> None:
    script = Script(after=[answers(6)] * 3, handover_refusals=[None, None])
    run(script, engines=trained(from_iteration=2))
    assert scorers(script) == [None, None, reward_of(1)]


def test_a_base_of_the_trained_model_that_is_not_there_ends_the_run_at_its_start(
    run: Any, tmp_path: Path
) -> None:
    script = Script(after=[answers(6)] * 3)
    engines = trained()
    engines["scorer"]["trained"]["base"] = {"path": str(tmp_path / "nowhere")}
    with pytest.raises(ModelError, match="nowhere"):
        run(script, engines=engines)
    assert script.asked == []


def test_a_run_directory_must_be_a_path_where_models_are_trained() -> None:
    with pytest.raises(RunDirectoryError, match="mount"):
        evolve.run(settings_of(run_dir="memory://bucket/run"))


def test_a_plan_of_a_new_run_lists_every_step_of_every_iteration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evolve, "model_to_train", lambda engines: BASE)
    monkeypatch.setattr(evolve, "roles_of", lambda engines, policy: None)
    planner = Planner(Run(str(tmp_path / "run")))
    settings = settings_of(iterations=2, engines=trained())
    evolve._Loop(settings=settings, steps=planner).evolve()
    assert [plan.step.place for plan in planner.plans] == [
        *("problems", "validation/1", "evaluation/base", "test/base"),
        *("iter-000/rollouts", "iter-000/pairs", "iter-000/reward", "iter-000/reference"),
        *("iter-000/policy", "iter-000/evaluation/trained"),
        *("iter-001/rollouts", "iter-001/pairs", "iter-001/reference"),
        *("iter-001/policy", "iter-001/evaluation/trained", "test/iter-001"),
    ]
    assert {plan.state for plan in planner.plans} == {State.MAKE}
    reasons = {plan.step.place: plan.reason for plan in planner.plans}
    assert reasons["problems"] == "not made yet"
    assert reasons["iter-001/rollouts"] == "problems, trained, policy will be new"


def test_all_is_corrected_once_the_iteration_before_repaired_enough(run: Any) -> None:
    failed, repaired = "self_correction:both_wrong", "self_correction:pair"
    routes = ((failed,) * 20, (*(failed,) * 3, repaired), (failed,))
    script = Script(after=[answers(6), answers(7), answers(8)], routes=routes)
    run(script, method={"stages": {"correction_share": 0.25}})
    shares = [s.settings.method.stages.correction_share for s in script.every(RolloutsStep)]
    assert shares == [0.25, 0.25, 1.0]


def benchmark_run(tmp_path: Path, run: Any, after: list[list[Any]]) -> Script:
    for name in ("gsm8k", "aime24"):
        (tmp_path / f"{name}.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}')
    script = Script(after=after)
    evaluation = {"benchmarks": ["gsm8k", "aime24"], "benchmark_dir": str(tmp_path)}
    run(script, evaluation=evaluation)
    return script


def test_base_and_final_model_answer_each_benchmark_as_it_is_asked(
    tmp_path: Path, run: Any
) -> None:
    script = benchmark_run(tmp_path, run, [answers(5), answers(6), answers(8)])
    asked = script.every(BenchmarkStep)
    assert [step.place for step in asked] == [
        *("benchmarks/gsm8k/base", "benchmarks/aime24/base"),
        *("benchmarks/gsm8k/iter-002", "benchmarks/aime24/iter-002"),
    ]
    fingerprints = [step.model.fingerprint for step in asked]
    assert fingerprints == ["base", "base", policy_of(2), policy_of(2)]
    assert [step.settings.evaluation.num_samples for step in asked] == [0, 32, 0, 32]
    assert [step.split for step in asked] == ["gsm8k", "aime24"] * 2
    (problems,) = script.every(ProblemsStep)
    places = [made.finished.name for made in problems.held_out]
    assert places == ["benchmarks/gsm8k/problems", "benchmarks/aime24/problems"]


def test_a_policy_that_was_never_replaced_answers_benchmarks_once(tmp_path: Path, run: Any) -> None:
    script = benchmark_run(tmp_path, run, [answers(4), answers(3), answers(9)])
    places = [step.place for step in script.every(BenchmarkStep)]
    assert places == ["benchmarks/gsm8k/base", "benchmarks/aime24/base"]
