import itertools
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from sphere_ray.records import EvaluationRow, StageName, Verdict
from sphere_ray.reporting.proof_summary import (
    ProofRun,
    comparison,
    cost_of,
    paired,
    paired_over_seeds,
    variant_summary,
)

COST = {"pairs": 1, "tokens": 1000, "per_1000_tokens": 1.0, "seconds": 1.0}


def scores(seeds, problems):
    shares = st.sampled_from((0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    return arrays(np.float64, (seeds, problems), elements=shares)


tables = st.tuples(st.integers(1, 4), st.integers(2, 9)).flatmap(
    lambda shape: st.tuples(scores(*shape), scores(*shape))
)


@given(tables)
def test_figures_agree_with_scipy_on_problems_averaged_over_seeds(pair):
    before, after = pair
    found = paired_over_seeds(before, after)
    means = [[fmean(column) for column in table.T] for table in pair]
    changes = [b - a for a, b in zip(*means, strict=True)]
    assert found["mean"] == pytest.approx(fmean(changes))
    if len({round(change, 9) for change in changes}) > 1:
        low, high = stats.ttest_rel(means[1], means[0]).confidence_interval(0.95)
        assert found["ci95"] == pytest.approx([max(low, -1), min(high, 1)])


@given(tables)
def test_the_p_value_is_the_share_of_sign_patterns_as_extreme(pair):
    before, after = pair
    changes = (after - before).mean(axis=0)
    total = abs(changes.sum()) - 1e-9
    flips = itertools.product((-1, 1), repeat=len(changes))
    sums = [abs(float(np.dot(signs, changes))) for signs in flips]
    expected = fmean(each >= total for each in sums)
    assert paired_over_seeds(before, after)["p_value"] == pytest.approx(expected)


@given(tables)
def test_seeds_are_apart_as_their_means(pair):
    found = paired_over_seeds(*pair)
    gains = [fmean(after) - fmean(before) for before, after in zip(*pair, strict=True)]
    assert found["by_seed"] == pytest.approx(gains)
    assert found["minimum"] == pytest.approx(min(gains))
    assert found["sd"] == (pytest.approx(stdev(gains)) if len(gains) > 1 else None)
    for one, other, p_value in zip(*pair, found["p_by_seed"], strict=True):
        assert p_value == pytest.approx(paired_over_seeds(one[None], other[None])["p_value"])


@given(tables)
def test_swapped_sides_change_the_sign_alone(pair):
    one, other = paired_over_seeds(*pair), paired_over_seeds(*pair[::-1])
    assert other["mean"] == pytest.approx(-one["mean"])
    assert other["p_value"] == pytest.approx(one["p_value"])


def row(problem, right, *, samples=(), family="ages", error=None):
    verdicts = [Verdict.CORRECT if each else Verdict.WRONG for each in (right, *samples)]
    return EvaluationRow(
        problem_id=problem,
        family=family,
        level=1,
        verdict=None if error else verdicts[0],
        sample_verdicts=tuple(verdicts[1:]),
        error=error,
    )


def test_a_score_is_the_share_of_greedy_and_sampled_answers_that_is_right():
    before = [row("a", False, samples=(False, True))]
    after = [row("a", True, samples=(False, True))]
    assert paired([before], [after])["mean"] == pytest.approx(1 / 3)


def test_a_problem_counts_if_every_model_answered_it_in_every_seed():
    whole = [row("a", False), row("b", False)]
    half = [row("a", True), row("b", False, error="too long")]
    found = paired([whole, whole], [[row("a", True), row("b", True)], half])
    assert (found["n"], found["mean"]) == (1, 1.0)
    with pytest.raises(ValueError, match="no problem"):
        paired([[row("a", True)]], [[row("b", True)]])


def run_of(base, *after):
    names = [("a", "ages"), ("b", "ages"), ("c", "boats")]

    def rows(rights):
        return [row(p, r, family=f) for (p, f), r in zip(names, rights, strict=True)]

    return ProofRun(
        overrides=[], base=rows(base), after=[rows(each) for each in after], costs=[COST]
    )


def test_unseen_families_are_reported_apart():
    runs = [run_of((0, 0, 0), (1, 0, 1)), run_of((0, 0, 0), (1, 1, 0))]
    found = variant_summary("v", runs, {"boats", "trains"})
    assert found["gains"][-1]["mean"] == pytest.approx(4 / 6)
    assert (found["seen"]["n"], found["seen"]["mean"]) == (2, pytest.approx(3 / 4))
    assert (found["unseen"]["n"], found["unseen"]["mean"]) == (1, pytest.approx(1 / 2))
    assert found["no_worse"] is None


@pytest.mark.parametrize(
    ("second", "no_worse"), [((1, 0, 0), True), ((1, 1, 0), True), ((0, 0, 0), False)]
)
def test_one_seed_that_falls_is_told(second, no_worse):
    runs = [run_of((0, 0, 0), (1, 0, 0), (1, 1, 1)), run_of((0, 0, 0), (1, 0, 0), second)]
    assert variant_summary("v", runs, set())["no_worse"] is no_worse


def test_variants_are_compared_after_the_iterations_that_both_have():
    first = [run_of((0, 0, 0), (1, 0, 0), (1, 1, 1))]
    found = comparison(first, [run_of((0, 0, 0), (1, 1, 0))], "v")
    assert found["iterations"] == 1
    assert found["difference"]["mean"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("last", "tokens"),
    [
        (StageName.SELF_GENERATION, 400),
        (StageName.SELF_CORRECTION, 700),
        (StageName.DIVERSITY, 1000),
    ],
)
def test_pairs_cost_the_tokens_of_the_stages_up_to_their_last(last, tokens):
    spent = {"self_generation": 400, "self_correction": 300, "correction_check": 100}
    stages = {name: {"tokens": each} for name, each in (spent | {"diversity": 200}).items()}
    item = {
        "rollout": {"tokens": 1000, "by_stage": stages, "seconds": 9.0},
        "pairs": {"total": 7},
    }
    found = cost_of(item, last)
    assert (found["tokens"], found["seconds"]) == (tokens, 9.0)
    assert found["per_1000_tokens"] == pytest.approx(7000 / tokens, abs=1e-3)
