"""Which policy writes which rollouts, what is done at once, and what that saves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.evolution.schedule import next_turn
from sphere_ray.runs.step import Made, Step
from sphere_ray.runs.steps.evaluation import EvaluationStep
from sphere_ray.runs.steps.policy import PolicyStep
from sphere_ray.runs.steps.reference import ReferenceStep
from sphere_ray.runs.steps.reward_model import RewardModelStep
from sphere_ray.runs.steps.rollouts import RolloutsStep
from tests.evolution.script import Script, answers, policy_of

BETTER, WORSE = 1, 0


@dataclass
class Played:
    """A run by the schedule alone, for decisions that are known in advance."""

    wrote: list[int] = field(default_factory=list)
    """How many promotions each iteration's rollouts know."""
    lags: list[int] = field(default_factory=list)
    """How many more there are when an iteration is learned from."""
    learned: list[int] = field(default_factory=list)
    turns: list[tuple[int | None, int | None]] = field(default_factory=list)


def play(schedule: Any, decisions: Sequence[bool], patience: int) -> Played:
    played, promotions, refusals, learned = Played(), 0, 0, 0
    while turn := next_turn(
        schedule,
        rolled=len(played.wrote),
        learned=learned,
        iterations=len(decisions),
        ended=refusals >= patience,
    ):
        played.turns.append((turn.rolls_out, turn.learns))
        known = promotions  # both begin now
        if turn.learns:
            number = turn.learns - 1
            played.learned.append(number)
            played.lags.append(promotions - played.wrote[number])
            promotions += decisions[number]
            refusals = 0 if decisions[number] else refusals + 1
        if turn.rolls_out is not None:
            assert turn.rolls_out == len(played.wrote)
            played.wrote.append(known)
        learned += turn.learns is not None
    assert learned == len(played.wrote) + 1
    return played


RUNS = st.tuples(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 4))


@given(RUNS)
def test_overlapped_rollouts_are_one_iteration_behind_at_most(run: Any) -> None:
    decisions, patience = run
    played = play("overlapped", decisions, patience)
    assert all(0 <= lag <= 1 for lag in played.lags)
    for number, lag in enumerate(played.lags):
        if lag:  # the iteration before promoted a policy: then alone is anything newer
            assert decisions[number - 1]
    # Whatever is rolled out is learned from, once and in order.
    assert played.learned == list(range(len(played.wrote)))


@given(RUNS)
def test_sequential_rollouts_know_every_decision_before_them(run: Any) -> None:
    decisions, patience = run
    played = play("sequential", decisions, patience)
    assert set(played.lags) <= {0}
    assert played.wrote == [sum(decisions[:number]) for number in range(len(played.wrote))]
    assert all(None in turn for turn in played.turns)


@given(RUNS)
def test_a_run_ends_for_want_of_a_better_policy_and_for_nothing_else(run: Any) -> None:
    decisions, patience = run
    for schedule in ("sequential", "overlapped"):
        made = len(play(schedule, decisions, patience).wrote)
        refused = [*decisions[max(made - patience, 0) : made]]
        assert made == len(decisions) or (len(refused) == patience and not any(refused))


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_overlapped_every_rollout_but_the_first_has_a_lesson_beside_it(decisions: Any) -> None:
    played = play("overlapped", decisions, len(decisions) + 1)
    count = len(decisions)
    assert played.turns == [*((n, n) for n in range(count)), (None, count)]


HOURS = {RolloutsStep: 3.0, PolicyStep: 1.0, EvaluationStep: 1 / 3}


@dataclass
class Timed(Script):
    """A script with a clock: what is done at once takes the longest of its works."""

    now: float = 0.0

    def make(self, step: Step) -> Made:
        self.now += next((h for kind, h in HOURS.items() if isinstance(step, kind)), 0.0)
        return super().make(step)

    def together(self, works: Sequence[Callable[[], object]]) -> None:
        began, ends = self.now, []
        for work in works:
            self.now = began
            work()
            ends.append(self.now)
        self.now = max(ends)


def hours(run: Any, schedule: str) -> float:
    script = Timed(after=[answers(5 + number) for number in range(4)])
    run(script, iterations=4, schedule=schedule)
    assert len(script.every(RolloutsStep)) == len(script.every(PolicyStep)) == 4
    return script.now


def test_four_iterations_take_three_quarters_of_the_time(run: Any) -> None:
    """Generation 3 h, training 1 h, each evaluation 20 min."""
    sequential, overlapped = hours(run, "sequential"), hours(run, "overlapped")
    # Validation and test of the base model, four validations, and the test of the final model.
    assert sequential == pytest.approx(4 * (3 + 1) + 7 / 3)
    # The rollouts, then the last iteration's lesson and the test of the final model.
    assert overlapped == pytest.approx(4 * 3 + 1 + 2 / 3)
    assert overlapped / sequential <= 0.75


def test_each_lesson_begins_from_the_last_accepted_policy(run: Any) -> None:
    script = Script(after=[answers(6), answers(7), answers(7), answers(8)])
    iterations = run(script, iterations=4, schedule="overlapped")
    assert script.policies == ["base", "base", policy_of(0), policy_of(1)]
    started = [step.policy.fingerprint for step in script.every(PolicyStep)]
    assert started == ["base", policy_of(0), policy_of(1), policy_of(2)]
    assert [step.model.fingerprint for step in script.every(ReferenceStep)] == started
    writers = [[(w.iteration, w.policy, w.lag) for w in each.writers] for each in iterations]
    policies = ["base", "base", policy_of(0), policy_of(1)]
    assert writers == [[(n, policies[n], min(n, 1))] for n in range(4)]
    assert [step.writers for step in script.every(PolicyStep)] == [i.writers for i in iterations]


def test_a_refused_policy_wastes_no_rollouts(run: Any) -> None:
    script = Script(after=[answers(4), answers(6), answers(7)])
    iterations = run(script, iterations=3, schedule="overlapped")
    assert [each.refusal is None for each in iterations] == [False, True, True]
    assert script.policies == ["base", "base", "base"]
    # The second iteration's are by the policy that is still current, the third's are one behind.
    assert [[w.lag for w in each.writers] for each in iterations] == [[0], [0, 0], [1]]
    (kept, own) = iterations[1].writers
    assert (kept.iteration, own.iteration) == (0, 1)
    assert len(script.every(RolloutsStep)) == 3


def test_rollouts_that_are_there_when_patience_ends_are_learned_from(run: Any) -> None:
    script = Script(after=[answers(4), answers(3), answers(2), answers(9), answers(9)])
    iterations = run(script, iterations=5, schedule="overlapped")
    assert [each.number for each in iterations] == [0, 1, 2]
    assert script.said[-1] == "3 iterations in a row promoted nothing; the run ends"
    last = Script(after=[answers(4), answers(3), answers(6), answers(7), answers(8)])
    iterations = run(last, iterations=5, schedule="overlapped")
    assert [each.number for each in iterations] == [0, 1, 2, 3, 4]
    assert [each.writers[-1].lag for each in iterations] == [0, 0, 0, 0, 1]


def test_a_reward_model_scores_the_rollouts_after_the_next(run: Any) -> None:
    shaped = {"pool": {"kv_cache_gib": 1}, "shape": "classifier", "training": {"batch_size": 8}}
    script = Script(after=[answers(6)] * 4, handover_refusals=[None, None])
    scorer = {"kind": "rollout_value", "trained": shaped}
    run(script, iterations=4, schedule="overlapped", engines={"scorer": scorer})
    scored = [step.trained and step.trained.fingerprint for step in script.every(RolloutsStep)]
    rewards = [f"output of iter-{number:03}/reward" for number in range(2)]
    assert scored == [None, None, *rewards]
    assert len(script.every(RewardModelStep)) == 2  # nobody would be scored by a third
