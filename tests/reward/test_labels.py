"""Labels of recorded steps, the split by problem, and weights in balance."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.records import (
    Branch,
    Chain,
    FinishReason,
    LabelledStep,
    Problem,
    Rollout,
    StageName,
    Step,
    Verdict,
)
from sphere_ray.reward.labels import (
    LARGEST_WEIGHT,
    Balance,
    Target,
    label_of,
    labelled_steps,
    split_by_problem,
)
from tests.method.fakes import candidate

PROBLEM = Problem(problem_id="p", question="2 + 2?", answer="4", source="test")


def valued(text, *outcomes, reward=None, audit=None):
    share = sum(outcomes) / len(outcomes) if outcomes else None
    return replace(
        candidate(text),
        reward=share if reward is None else reward,
        values=tuple(map(float, outcomes)) or None,
        audit=audit,
    )


def chain(*steps, branch=Branch.MAX):
    return Chain(
        chain_id=f"c-{branch}",
        stage=StageName.SELF_GENERATION,
        branch=branch,
        model="m",
        steps=tuple(Step(candidates=c, chosen=chosen) for c, chosen in steps),
        answer=None,
        verdict=Verdict.WRONG,
        finish_reason=FinishReason.ANSWER,
        num_tokens=1,
        seed=0,
    )


def rollout(*chains, error=None):
    return Rollout(problem=PROBLEM, chains=chains, error=error)


def labelled(problem_id="p", depth=0, value=0.5, text="s", outcomes=4):
    return LabelledStep(
        problem_id=problem_id,
        question="q",
        prefix=("t",) * depth,
        text=text,
        final=False,
        value=value,
        outcomes=outcomes,
        reward=value,
    )


FIRST = (valued("a\n\n", 1, 1, 0), valued("b\n\n", 0, 0), valued("cut", reward=None))
TWO_CHAINS = rollout(
    chain((FIRST, 0), ((valued("#### 4", 1), valued("#### 5", 0)), 0)),
    chain((FIRST, 1), ((valued("#### 6", 0),), 0), branch=Branch.MIN),
)


def test_every_scored_candidate_is_a_label_once_however_many_chains_share_it():
    found = {
        (s.prefix, s.text): (s.value, s.outcomes, s.final)
        for s in labelled_steps(TWO_CHAINS, trained=False)
    }
    assert found == {
        ((), "a\n\n"): (pytest.approx(2 / 3), 3, False),
        ((), "b\n\n"): (0.0, 2, False),
        (("a\n\n",), "#### 4"): (1.0, 1, True),
        (("a\n\n",), "#### 5"): (0.0, 1, True),
        (("b\n\n",), "#### 6"): (0.0, 1, True),
    }


def test_a_step_that_was_scored_twice_pools_its_outcomes():
    first = chain(((valued("a\n\n", 1, 1, 0),), 0))
    again = chain(((valued("a\n\n", 0),), 0), branch=Branch.MIN)
    (pooled,) = labelled_steps(rollout(first, again), trained=False)
    assert (pooled.value, pooled.outcomes) == (pytest.approx(2 / 4), 4)


def test_a_failed_row_labels_nothing():
    assert labelled_steps(replace(TWO_CHAINS, error="lost"), trained=False) == []


def test_rewards_of_the_trained_model_are_no_labels_but_audits_are():
    steps = (valued("a\n\n", reward=0.9), valued("b\n\n", 1, 0, reward=0.8, audit=0.5))
    found = labelled_steps(rollout(chain((steps, 0))), trained=True)
    assert [(s.text, s.value, s.outcomes, s.reward) for s in found] == [("b\n\n", 0.5, 2, 0.8)]


def test_an_external_reward_is_a_label_without_outcomes():
    (step,) = labelled_steps(rollout(chain(((valued("a\n\n", reward=0.3),), 0))), trained=False)
    assert (step.value, step.outcomes) == (0.3, 0)
    assert (label_of(0.3, 0, "soft"), label_of(0.3, 0, "hard")) == (0.3, 0.0)


def test_a_hard_label_is_right_if_anything_reached_the_gold():
    assert label_of(0.25, 4, "hard") == 1.0
    assert label_of(0.0, 4, "hard") == 0.0
    assert label_of(0.25, 4, "soft") == 0.25


@given(st.lists(st.integers(0, 500), min_size=1, max_size=80), st.integers(0, 9))
def test_a_problem_is_on_one_side_whatever_else_there_is(problems, seed):
    steps = [labelled(problem_id=str(p)) for p in problems]
    train, held = split_by_problem(steps, share=0.3, seed=seed)
    sides = {s.problem_id for s in train}, {s.problem_id for s in held}
    assert not sides[0] & sides[1]
    assert len(train) + len(held) == len(steps)
    alone = split_by_problem(steps[:1], share=0.3, seed=seed)
    assert (steps[0].problem_id in sides[1]) == bool(alone[1])


def test_the_share_held_out_is_the_share_asked_for():
    steps = [labelled(problem_id=str(p)) for p in range(2000)]
    _, held = split_by_problem(steps, share=0.2, seed=3)
    assert len(held) == pytest.approx(400, abs=60)


def balanced(steps):
    balance = Balance()
    for step in steps:
        balance.count(step.depth, step.value)
    return [balance.target(step.depth, step.value) for step in steps]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
        min_size=1,
        max_size=60,
    )
)
def test_right_and_wrong_weigh_the_same_at_every_depth(rows):
    steps = [labelled(depth=depth, value=value) for depth, value in rows]
    targets = balanced(steps)
    for depth in {step.depth for step in steps}:
        here = [(s.value, t) for s, t in zip(steps, targets, strict=True) if s.depth == depth]
        share = sum(value for value, _ in here) / len(here)
        right = sum(t.weight * t.right for _, t in here)
        wrong = sum(t.weight * (1 - t.right) for _, t in here)
        assert all(0 < t.weight <= LARGEST_WEIGHT for _, t in here)
        if share in (0, 1):
            assert all(t == Target(right=value) for value, t in here)
        elif 0.5 / min(share, 1 - share) <= LARGEST_WEIGHT:
            assert right == pytest.approx(len(here) / 2)
            assert wrong == pytest.approx(len(here) / 2)
        else:
            assert min(right, wrong) < len(here) / 2


@given(st.floats(0.02, 0.98), st.integers(0, 6))
def test_the_best_logit_is_that_of_the_share_of_right_steps(share, depth):
    count = 400
    steps = [labelled(depth=depth, value=share) for _ in range(count)]
    (target, *_) = balanced(steps)
    # Cross entropy is least where the sigmoid of its logit is its target.
    best = math.log(target.right / (1 - target.right)) - target.shift
    assert best == pytest.approx(math.log(share / (1 - share)), abs=1e-6)
