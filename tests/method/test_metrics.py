import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sphere_ray.method.metrics import (
    bootstrap_interval,
    macro_average,
    maj_at_k,
    mean_at_k,
    paired_test,
    pass_at_k,
    wilson_interval,
)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_correct_sample(sample, data):
    total, correct = sample
    k = data.draw(st.integers(1, total))
    draws = list(itertools.combinations([i < correct for i in range(total)], k))
    assert pass_at_k(total, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_agrees_with_the_product_of_the_paper():
    # 1 - prod_{i = n - c + 1..n} (1 - k / i), arXiv 2107.03374.
    expected = 1 - math.prod(1 - 10 / i for i in range(200 - 13 + 1, 201))
    assert pass_at_k(200, 13, 10) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("total", "correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_undefined_pass_at_k_is_refused(total, correct, k):
    with pytest.raises(ValueError, match="undefined"):
        pass_at_k(total, correct, k)


@given(st.lists(st.booleans(), min_size=1))
def test_mean_at_k_is_pass_at_1(correct):
    assert mean_at_k(correct) == pytest.approx(pass_at_k(len(correct), sum(correct), 1))


@pytest.mark.parametrize(
    ("answers", "correct", "right"),
    [
        (["4", "5", "4"], [True, False, True], True),
        (["5", "4", "5"], [False, True, False], False),
        (["4", "5"], [True, False], True),
        (["5", "4"], [False, True], False),
        ([None, None, "4"], [False, False, True], True),
        ([None, None], [False, False], False),
        (["0.5", "1/2", r"\frac{1}{2}", "3", "3"], [True, True, True, False, False], True),
        (["3", "0.5", "3", "1/2", "3"], [False, True, False, True, False], False),
        ([], [], False),
    ],
)
def test_the_majority_decides_ties_go_to_the_first_and_none_has_no_vote(answers, correct, right):
    assert maj_at_k(answers, correct) is right


def test_a_large_family_weighs_no_more_than_a_small_one():
    assert macro_average({"big": [1.0] * 99, "small": [0.0]}) == 0.5
    for empty in ({}, {"none": []}):
        with pytest.raises(ValueError, match="at least one"):
            macro_average(empty)


# Uncertainty


@given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=30), st.integers(0, 9))
@settings(deadline=None)
def test_the_interval_holds_the_mean_and_is_reproducible(values, seed):
    low, high = bootstrap_interval(values, seed=seed, resamples=1500)
    assert min(values) <= low <= sum(values) / len(values) <= high <= max(values)
    assert bootstrap_interval(values, seed=seed, resamples=1500) == (low, high)


def test_the_interval_has_the_width_of_the_normal_approximation():
    values = [1.0] * 240 + [0.0] * 160
    low, high = bootstrap_interval(values, seed=0, resamples=4000)
    error = 1.96 * math.sqrt(0.6 * 0.4 / 400)
    assert (low, high) == pytest.approx((0.6 - error, 0.6 + error), abs=0.006)
    assert bootstrap_interval([1.0], seed=0) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([], seed=0)


def test_the_interval_agrees_with_a_loop_over_resamples():
    draw = random.Random(3)
    values = [draw.choice([0.0, 0.25, 1.0]) for _ in range(60)]
    means = sorted(sum(draw.choices(values, k=60)) / 60 for _ in range(8000))
    low, high = bootstrap_interval(values, seed=0, resamples=8000)
    assert (low, high) == pytest.approx((means[200], means[7800]), abs=0.015)


def brute_force(differences):
    """All sign patterns, in exact arithmetic."""
    observed = abs(sum(differences))
    patterns = itertools.product((-1, 1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(p, differences, strict=True))) for p in patterns]
    return sum(s >= observed for s in sums) / len(sums)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
@settings(deadline=None)
def test_the_paired_test_agrees_with_all_sign_patterns(quarters):
    before = [0.5] * len(quarters)
    after = [0.5 + q / 4 for q in quarters]
    assert paired_test(before, after, seed=0) == pytest.approx(brute_force(quarters))


def test_greedy_accuracies_get_the_exact_sign_test():
    # 8 of 10 discordant problems got better: 2 * (1 + 10 + 45) / 2**10.
    before = [0.0] * 8 + [1.0] * 2 + [1.0] * 50
    after = [1.0] * 8 + [0.0] * 2 + [1.0] * 50
    assert paired_test(before, after, seed=0) == pytest.approx(112 / 1024)
    assert paired_test(after, before, seed=0) == pytest.approx(112 / 1024)
    assert paired_test([0.0] * 2000, [1.0] * 2000, seed=0) < 1e-100


def all_patterns(differences):
    """The share of sign patterns as far from 0 as the observed sum, by convolution."""
    counts = {0: 1}
    for difference in differences:
        counts = {
            total: counts.get(total - difference, 0) + counts.get(total + difference, 0)
            for known in counts
            for total in (known - difference, known + difference)
        }
    observed = abs(sum(differences))
    return sum(n for total, n in counts.items() if abs(total) >= observed) / 2 ** len(differences)


def test_many_problems_are_sampled_reproducibly_and_close_to_all_patterns():
    draw = random.Random(1)
    quarters = [draw.choice([-2, -1, 0, 1, 2]) for _ in range(200)]
    before, after = [0.0] * 200, [q / 4 for q in quarters]
    p = paired_test(before, after, seed=1)
    assert p == paired_test(before, after, seed=1)
    assert p == pytest.approx(all_patterns(quarters), abs=0.015)


def test_a_sampled_p_value_is_never_zero():
    after = [0.5, 1.0] * 40
    # Two-sided: twice the share (hits + 1) / (permutations + 1) of the nearer tail.
    assert paired_test([0.0] * 80, after, seed=0, permutations=99) == pytest.approx(0.02)


def test_differences_of_fifths_tie_as_they_do_on_paper():
    # In floating point 0.6 - 0.4 and 0.2 differ; by exact arithmetic these are equally far from 0.
    before = [0.4, 0.0, 0.2, 0.6, 0.8, 0.2]
    after = [0.6, 0.2, 0.0, 1.0, 0.6, 0.8]
    fifths = [round(5 * (b - a)) for a, b in zip(before, after, strict=True)]
    assert paired_test(before, after, seed=0) == pytest.approx(brute_force(fifths))


def test_no_difference_is_no_evidence():
    assert paired_test([1.0, 0.0], [1.0, 0.0], seed=0) == 1.0
    assert paired_test([], [], seed=0) == 1.0
    with pytest.raises(ValueError, match="differ in number"):
        paired_test([1.0], [], seed=0)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_is_where_the_normal_test_just_accepts(counts):
    # Its ends solve |p_hat - p| = z sqrt(p (1 - p) / n): a quadratic, solved here on its own.
    right, n = counts
    z, share = 1.959963984540054, right / n
    middle, half = (
        share + z * z / (2 * n),
        z * math.sqrt(share * (1 - share) / n + (z / 2 / n) ** 2),
    )
    expected = [(middle + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
    assert wilson_interval(right, n) == pytest.approx(expected, abs=1e-9)
    low, high = wilson_interval(right, n)
    assert 0 <= low <= share <= high <= 1


def test_an_interval_of_no_problems_is_refused():
    with pytest.raises(ValueError, match="no values"):
        wilson_interval(0, 0)
