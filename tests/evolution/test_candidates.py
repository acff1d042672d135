"""Candidates, looks at the validation problems, and what a refused policy never does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sphere_ray.config import RunSettings
from sphere_ray.config.evaluation import PromotionSettings
from sphere_ray.evolution.decision import groups_of
from sphere_ray.evolution.outcome import Iteration
from sphere_ray.method.decision import Ruling, decide
from sphere_ray.records import EvaluationRow, Verdict
from sphere_ray.runs.steps.average import AverageStep
from sphere_ray.runs.steps.budget import BudgetStep
from sphere_ray.runs.steps.evaluation import EvaluationStep, HeldOutStep
from sphere_ray.runs.steps.pairs import PairsStep
from sphere_ray.runs.steps.policy import HalfRateStep, PolicyStep
from sphere_ray.runs.steps.reference import ReferenceStep
from sphere_ray.runs.steps.rollouts import RolloutsStep
from tests.evolution.script import N, Script, answers, policy_of, settings_of

ALL = {"candidates": ["trained", "halfway", "half_rate"]}


def by_name(**right: int) -> Callable[[EvaluationStep], list[EvaluationRow]]:
    """Answers by the name of the model; 5 right where it is not given."""

    def answer(step: EvaluationStep) -> list[EvaluationRow]:
        name = step.label.partition("-")[0]
        return answers(right.get(name, 5), batch=step.problems.name)

    return answer


def tried(iteration: Iteration) -> list[str]:
    return [trial.candidate for trial in iteration.trials]


@pytest.mark.parametrize(
    ("right", "expected", "promoted"),
    [
        ({"trained": 6}, ["trained"], policy_of(0)),
        ({"trained": 4, "halfway": 6}, ["trained", "halfway"], "output of iter-000/halfway"),
        (
            {"trained": 4, "halfway": 4, "half_rate": 6},
            ["trained", "halfway", "half_rate"],
            "output of iter-000/half_rate",
        ),
        ({"trained": 4, "halfway": 4, "half_rate": 4}, ["trained", "halfway", "half_rate"], "base"),
    ],
)
def test_candidates_are_tried_in_order_until_one_is_promoted(
    run: Any, right: dict[str, int], expected: list[str], promoted: str
) -> None:
    script = Script(after=[], answer=by_name(**right))
    iterations = run(script, promotion=ALL, iterations=2)
    assert tried(iterations[0]) == expected
    assert script.policies == ["base", promoted]
    assert len(script.every(ReferenceStep)) == 2  # all candidates read one table


def test_a_refusal_costs_no_second_rollout_and_no_second_answers_of_the_policy(run: Any) -> None:
    script = Script(after=[], answer=by_name(trained=4, halfway=4, half_rate=6))
    run(script, promotion=ALL, iterations=1)
    assert len(script.every(RolloutsStep)) == 1
    validated = [s.label for s in script.every(EvaluationStep) if s.kind == "evaluation"]
    assert validated == ["base", "trained", "halfway", "half_rate"]


def pairs_read(script: Script) -> list[list[str]]:
    """The steps whose pairs each reference table is made of."""
    steps = script.every(ReferenceStep)
    return [[str(pairs.output) for pairs in (*step.kept, step.pairs)] for step in steps]


def test_pairs_that_made_nothing_better_are_trained_on_again(run: Any) -> None:
    script = Script(after=[answers(4), answers(6), answers(7)])
    run(script, iterations=3)
    first, second, third = (f"output of iter-{number:03}/pairs" for number in range(3))
    # The second iteration promotes: the third one's policy is another.
    assert pairs_read(script) == [[first], [first, second], [third]]
    assert [len(step.kept) for step in script.every(PairsStep)] == [0, 1, 0]


def test_too_few_pairs_become_enough_with_those_of_the_next_iteration(run: Any) -> None:
    script = Script(after=[answers(6), answers(6)], pairs=4)
    one, other = run(script, training={"min_pairs": 6}, iterations=2)
    assert one.refusal.startswith("4 pairs are fewer than training.min_pairs (6)")
    assert other.refusal is None
    assert [len(pairs) for pairs in pairs_read(script)] == [2]


def test_what_the_last_rollouts_settled_gets_less_in_the_next_ones(run: Any) -> None:
    script = Script(after=[answers(6), answers(7)])
    run(script, iterations=2, method={"search": {"settled_candidates": 2}})
    first, second = script.every(RolloutsStep)
    (budget,) = script.every(BudgetStep)
    assert (first.problems.name, second.problems.name) == ("problems", "budget")
    assert budget.rollouts.output == "output of iter-000/rollouts"
    assert budget.iteration == second.iteration == 1


def test_the_rate_that_won_goes_on(run: Any) -> None:
    script = Script(after=[], answer=by_name(trained=4, halfway=4, half_rate=6))
    run(script, promotion=ALL, iterations=2)
    assert script.rates == [1.0, 0.5, 0.5, 0.25]
    kinds = [type(step) for step in script.every(PolicyStep)]
    assert kinds == [PolicyStep, HalfRateStep] * 2


def test_the_average_is_of_the_policy_and_of_what_was_trained_from_it(run: Any) -> None:
    script = Script(after=[], answer=by_name(trained=4))
    run(script, promotion=ALL, iterations=1)
    (step,) = script.every(AverageStep)
    assert (step.start.fingerprint, step.trained.output) == ("base", policy_of(0))


def test_there_is_nothing_halfway_to_a_training_that_collapsed(run: Any) -> None:
    script = Script(
        after=[], answer=by_name(half_rate=6), collapses=("iter-000/policy",), num_problems=N
    )
    (this,) = run(script, promotion=ALL, iterations=1)
    assert tried(this) == ["trained", "half_rate"]
    assert this.refusal is None
    assert this.trials[0].refusal == "training collapsed: it fell"


def test_every_refused_candidate_has_its_reason(run: Any) -> None:
    script = Script(after=[], answer=by_name(trained=4, halfway=3, half_rate=2))
    (this,) = run(script, promotion=ALL, iterations=1)
    for text in ("trained: ", "-10.0", "halfway: ", "-20.0", "half_rate: ", "-30.0"):
        assert text in this.refusal


@pytest.mark.parametrize("collapses", [(), ("iter-000/policy", "iter-001/policy")])
def test_a_planted_bad_policy_answers_validation_and_nothing_else(
    run: Any, collapses: tuple[str, ...]
) -> None:
    """Trained at 30 times the rate: a model in ruins, or none where the guard saw it first."""
    script = Script(after=[], answer=by_name(trained=0, halfway=1, half_rate=0))
    script.collapses = collapses
    iterations = run(script, promotion=ALL, training={"learning_rate": 30.0}, iterations=3)
    assert [item.winner for item in iterations] == [None, None]  # and the run ends
    assert set(script.policies) == {"base"}
    assert {step.model.fingerprint for step in script.every(HeldOutStep)} == {"base"}
    assert script.rates == [30.0, 15.0, 15.0, 7.5]


def looked_at(script: Script, name: str) -> list[str]:
    steps = [step for step in script.asked if step.kind == "evaluation"]
    return [s.problems.name for s in steps if s.label.partition("-")[0] == name]


def test_a_clear_gain_is_promoted_at_the_first_look(run: Any) -> None:
    script = Script(after=[], answer=by_name(trained=9), num_problems=4 * N)
    (this,) = run(script, promotion={"max_loss": 0.03}, iterations=1)
    assert this.refusal is None
    assert (this.trials[0].looks, this.trials[0].decision.n) == (1, N)
    assert looked_at(script, "trained") == ["validation/1"]


def test_more_problems_are_drawn_while_it_is_undecided_up_to_all(run: Any) -> None:
    script = Script(after=[], answer=by_name(trained=5), num_problems=4 * N)
    (this,) = run(script, iterations=1)
    assert this.refusal is None  # no change, and nothing was demanded
    assert (this.trials[0].looks, this.trials[0].decision.n) == (3, 4 * N)
    drawn = [f"validation/{index}" for index in (1, 2, 3, 4)]
    assert looked_at(script, "trained") == drawn
    assert looked_at(script, "base") == drawn


def test_the_next_iteration_begins_with_problems_that_have_decided_nothing(run: Any) -> None:
    script = Script(after=[], answer=lambda step: later_is_better(step), num_problems=2 * N)
    iterations = run(script, iterations=3)
    assert [item.trials[0].fresh for item in iterations] == [N, N, 0]
    first = [each.trials[0].after[0].name for each in iterations]
    assert first == ["evaluation/trained", "evaluation/trained-2", "evaluation/trained"]
    for before, after in ((t.before, t.after) for item in iterations for t in item.trials):
        assert len(before) == len(after) == 1


def later_is_better(step: EvaluationStep) -> list[EvaluationRow]:
    right = 1 if step.iteration is None else 4 + 3 * step.iteration
    return answers(min(right, N), batch=step.problems.name)


def test_batches_share_out_every_family_and_every_problem(run: Any) -> None:
    script = Script(after=[], answer=by_name(trained=5), num_problems=4 * N + 3)
    run(script, iterations=1)
    batches = {s.label: s.problems for s in script.asked if s.kind == "validation"}
    ids = [problem.problem_id for batch in batches.values() for problem in batch]
    assert len(set(ids)) == len(ids) == 4 * N + 3
    for batch in batches.values():
        ages = sum(problem.family == "ages" for problem in batch)
        assert abs(2 * ages - len(batch)) <= 2


@pytest.mark.parametrize("names", [["halfway"], [], ["trained", "trained"]])
def test_candidates_begin_with_the_trained_one_and_differ(names: list[str]) -> None:
    with pytest.raises(ValueError, match="begin with trained"):
        settings_of(promotion={"candidates": names})


def test_all_candidates_are_tried_by_default() -> None:
    changed: dict[str, Any] = settings_of().model_dump() | {"promotion": {}}
    settings = RunSettings.model_validate(changed)
    assert list(settings.promotion.candidates) == ALL["candidates"]


@pytest.mark.parametrize(
    ("family", "level", "expected"),
    [
        ("gather", 2, {"gather", "+ +"}),
        ("times", 1, {"times", "*"}),
        ("algebra", 1, {"algebra"}),
        (None, None, set()),
    ],
)
def test_neither_a_family_nor_an_operation_may_fall(
    family: str | None, level: int | None, expected: set[str]
) -> None:
    (row,) = answers(1)[:1]
    assert groups_of(replace(row, family=family, level=level)) == expected


def test_an_operation_that_falls_in_all_its_families_refuses_the_candidate() -> None:
    # Four of five sums are lost in each of two families, too few in each alone; products win.
    kinds = [("gather", 5), ("compare", 5), ("times", 60)]
    rows = [
        replace(row, problem_id=f"{family}/{index}", family=family, level=1)
        for family, count in kinds
        for index, row in enumerate(answers(N)[:1] * count)
    ]
    wrong = [replace(row, verdict=Verdict.WRONG) for row in rows]
    before = [*rows[:10], *wrong[10:]]
    after = [rows[0], *wrong[1:5], rows[5], *wrong[6:10], *rows[10:]]
    settings = PromotionSettings()
    assert decide(before, after, settings).ruling is Ruling.PROMOTE
    decision = decide(before, after, settings, groups_of=groups_of)
    assert decision.ruling is Ruling.REFUSE
    assert "+" in str(decision.reason)
