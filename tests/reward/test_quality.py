"""Figures of reward sources against independent implementations, and the gates of hand-over."""

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config.scorers import HandoverSettings
from sphere_ray.records import LabelledStep
from sphere_ray.reward.quality import (
    auc,
    first_error_accuracy,
    handover_refusal,
    inversion_rate,
    quality,
    rank_correlation,
    reliability,
    shape_scores,
    sibling_agreement,
)

GATES = HandoverSettings(min_steps=50, min_auc=0.7, min_gain=0.05, max_ece=0.2)
SCORES = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.5001, 0.9, 1.0])


def step(problem="p", prefix=(), text="s", value=1.0, *, final=False):
    return LabelledStep(
        problem_id=problem,
        question="q",
        prefix=prefix,
        text=text,
        final=final,
        value=value,
        outcomes=4,
        reward=value,
    )


def population(count=400, seed=0):
    """Steps whose value says nothing about their length, three siblings each, two deep."""
    draw = random.Random(seed)
    return [
        step(
            f"p{number // 6}",
            ("root",) * (number // 3 % 2),
            f"step {number}" + "x" * draw.randrange(40),
            draw.choice([0.0, 0.25, 0.75, 1.0]),
            final=bool(number // 3 % 2),
        )
        for number in range(count)
    ]


def close_to_values(steps, noise, seed=1):
    draw = random.Random(seed)
    return [min(1.0, max(0.0, s.value + draw.uniform(-noise, noise))) for s in steps]


@given(st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=40))
def test_auc_is_the_share_of_pairs_in_order(rows):
    right = [score for score, is_right in rows if is_right]
    wrong = [score for score, is_right in rows if not is_right]
    found = auc(np.array([s for s, _ in rows]), np.array([r for _, r in rows]))
    if not right or not wrong:
        assert found is None
        return
    wins = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(right, wrong)]
    assert found == pytest.approx(sum(wins) / len(wins))


@given(st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=30))
def test_rank_correlation_is_pearsons_of_average_ranks(rows):
    def ranks(values):
        return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]

    one, other = (ranks([row[i] for row in rows]) for i in (0, 1))
    found = rank_correlation([row[0] for row in rows], [row[1] for row in rows])
    means = [sum(r) / len(r) for r in (one, other)]
    centred = [[x - mean for x in r] for r, mean in zip((one, other), means, strict=True)]
    spread = [math.sqrt(sum(x * x for x in r)) for r in centred]
    if not all(spread):
        assert found is None
        return
    cross = sum(a * b for a, b in zip(*centred, strict=True))
    assert found == pytest.approx(cross / (spread[0] * spread[1]))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=50))
def test_reliability_covers_every_step_and_keeps_the_means(rows):
    scores, values = (np.array([row[i] for row in rows]) for i in (0, 1))
    bins = reliability(scores, values)
    assert sum(b["steps"] for b in bins) == len(rows)
    assert sum(b["steps"] * b["score"] for b in bins) == pytest.approx(scores.sum())
    assert sum(b["steps"] * b["value"] for b in bins) == pytest.approx(values.sum())


def test_the_calibration_error_is_the_gap_by_hand():
    steps = [step(value=v, text=str(i)) for i, v in enumerate([1.0, 0.0, 1.0, 1.0])]
    # One bin of scores near 0.9 with mean value 3/4, none else.
    figures = quality(steps, [0.9, 0.9, 0.92, 0.92])
    assert figures["ece"] == pytest.approx(abs(0.91 - 0.75))


def test_siblings_are_compared_within_their_family_alone():
    steps = [
        step(text="a", value=1.0),
        step(text="b", value=0.0),
        step(text="c", value=1.0),
        step("other", text="d", value=0.5),
    ]
    # a > b is right, b > c is wrong; a and c are equally good; d has no sibling.
    assert sibling_agreement(steps, [0.9, 0.8, 0.1, 0.0]) == 0.5
    assert sibling_agreement(steps[2:], [0.1, 0.2]) is None


def test_the_first_error_is_sought_along_whole_chains():
    steps = [
        step(text="good", value=0.5),
        step(prefix=("good",), text="bad", value=0.0),
        step(prefix=("good", "bad"), text="end", value=0.0, final=True),
        step(prefix=("good",), text="right", value=1.0, final=True),
        step("incomplete", prefix=("unknown",), text="end", value=0.0, final=True),
    ]
    assert first_error_accuracy(steps, [0.9, 0.2, 0.1, 0.8, 0.5]) == 1.0
    # The error is seen too early in the first chain, and one is seen in the second that has none.
    assert first_error_accuracy(steps, [0.3, 0.2, 0.1, 0.8, 0.5]) == 0.0
    assert first_error_accuracy(steps[:2], [0.9, 0.1]) is None


def test_the_baseline_learns_shape_and_nothing_else():
    steps = population()
    shaped = [replace(s, value=float(len(s.text) > 25)) for s in steps]
    train, rest = shaped[:200], shaped[200:]
    learned = quality(rest, shape_scores(train, rest))
    assert learned["auc"] is not None
    assert learned["auc"] > 0.95
    blind = quality(steps[200:], shape_scores(steps[:200], steps[200:]))
    assert blind["auc"] == pytest.approx(0.5, abs=0.1)


def test_the_baseline_is_the_best_fit_of_its_inputs():
    train = population(120)
    inputs = np.array(
        [(1, n := len(s.text), math.log1p(n), s.depth, float(s.final), n * s.depth) for s in train],
        dtype=float,
    )
    values = np.array([s.value for s in train])
    logits = np.log(scores := np.array(shape_scores(train, train))) - np.log1p(-scores)
    # At the optimum of logistic regression the errors are orthogonal to every input.
    assert np.allclose(inputs.T @ (scores - values) / inputs.std(axis=0).clip(1), 0, atol=0.05)
    residual = logits - inputs @ np.linalg.lstsq(inputs, logits, rcond=None)[0]
    assert np.abs(residual).max() < 1e-6


def test_labels_that_one_length_decides_do_not_break_the_fit():
    train = [replace(s, value=float(len(s.text) > 25)) for s in population(60)]
    scores = shape_scores(train, train)
    assert all(math.isfinite(score) for score in scores)
    assert [score > 0.5 for score in scores] == [s.value > 0.5 for s in train]


def test_a_good_model_may_take_over():
    steps = population()
    figures = quality(steps, close_to_values(steps, 0.2), baseline=shape_scores(steps, steps))
    assert handover_refusal(figures, GATES) == ""


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda steps, good: random.Random(5).sample(good, len(good)), "AUC"),
        (lambda steps, good: [0.4] * len(good), "hardly differ"),
        (lambda steps, good: [1 - score for score in good], "AUC"),
        (lambda steps, good: close_to_values(population(len(steps), seed=9), 0.2), "AUC"),
        (lambda steps, good: [score / 4 for score in good], "calibration"),
    ],
    ids=["shuffled", "constant", "inverted", "labels of another run", "out of scale"],
)
def test_a_spoilt_model_is_refused_with_the_figure(spoil, told):
    steps = population()
    scores = spoil(steps, close_to_values(steps, 0.2))
    figures = quality(steps, scores, baseline=shape_scores(steps, steps))
    assert told in handover_refusal(figures, GATES)


def test_a_model_that_knows_shape_alone_is_refused():
    steps = [replace(s, value=float(len(s.text) > 25)) for s in population()]
    shape = shape_scores(steps, steps)
    figures = quality(steps, shape, baseline=shape)
    assert figures["auc"] is not None
    assert figures["auc"] > 0.9
    assert "length and depth" in handover_refusal(figures, GATES)


def test_too_few_or_one_sided_steps_decide_nothing():
    steps = population()
    few = quality(steps[:20], close_to_values(steps[:20], 0.2))
    assert "fewer than min_steps" in handover_refusal(few, GATES)
    all_right = [replace(s, value=1.0) for s in steps]
    assert "tell nothing" in handover_refusal(
        quality(all_right, close_to_values(steps, 0.2)), GATES
    )


def test_scores_that_do_not_belong_to_the_steps_are_refused():
    with pytest.raises(ValueError, match="2 scores for 3 steps"):
        quality(population(3), [0.1, 0.2])


def test_inversions_are_pairs_in_which_the_wrong_chain_is_liked_better():
    assert inversion_rate([(0.9, 0.1), (0.2, 0.6), (0.5, 0.5), (0.7, 0.4)]) == 1.5 / 4
    assert inversion_rate([]) is None
