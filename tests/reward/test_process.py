"""Process metrics against counts by hand, a plain second implementation, and the bootstrap."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sphere_ray.reward.process import (
    BROKEN,
    DEEPEST,
    UNJUDGED,
    VALID,
    JudgedSteps,
    judged_by_equations,
    process_comparison,
    process_summary,
)

ANSWERS = [
    # Three steps with an equation each, all true, and an answer line that says nothing.
    ("3 + 4 = 7 pens.\n7 * 2 = 14 pens.\n14 - 4 = 10 left.\n#### 10", True),
    # The first error is at step 1; the steps behind it are one true and one false; wrong.
    ("3 + 4 = 8 pens.\n8 * 2 = 16 pens.\n16 - 4 = 13 left.\n#### 13", False),
    # The first error is at step 2, and the answer is right all the same: it recovered.
    ("3 + 4 = 7 pens.\n7 * 2 = 15 pens.\n14 - 4 = 10 left.\n#### 10", True),
    # Nothing can be checked.
    ("There are ten pens.\n#### 10", True),
    # One step holds two equations; one of them is false.
    ("3 + 4 = 7 and 7 * 2 = 13.\n#### 13", False),
    ("", False),
]


def test_metrics_of_six_answers_by_hand():
    found = process_summary(judged_by_equations(ANSWERS, "\n"))
    assert (found["solutions"], found["judged"]) == (6, 4)
    # Judged steps: 3 + 3 + 3 + 1; valid ones: 3 + 1 + 2 + 0.
    assert found["step_validity"]["value"] == pytest.approx(6 / 10)
    # Right and judged: the first and the third; the third has a broken step.
    assert found["flawed_right"]["value"] == pytest.approx(1 / 2)
    # First errors at steps 1, 2 and 1.
    assert found["first_error"]["value"] == pytest.approx(4 / 3)
    # Of three solutions with a broken step, one is right.
    assert found["recovery"]["value"] == pytest.approx(1 / 3)
    assert [found[name]["n"] for name in ("flawed_right", "first_error", "recovery")] == [2, 3, 3]
    # Behind the first errors stand 2 + 1 + 0 judged steps, of which one is broken.
    assert found["propagation"]["value"] == pytest.approx(1 / 3)
    first, second, third = found["by_depth"][:3]
    assert (first["steps"], first["broken"], first["after_error"]) == (4, 2 / 4, 0)
    assert (first["first_errors"], first["wrong"], first["broken_after_error"]) == (2, 1.0, None)
    # Depth 2: two solutions without an error so far (one breaks), one with an error before.
    assert (second["steps"], second["broken"]) == (2, 1 / 2)
    assert (second["after_error"], second["broken_after_error"]) == (1, 0.0)
    assert (second["first_errors"], second["wrong"]) == (1, 0.0)
    assert (third["steps"], third["broken"]) == (1, 0.0)
    assert (third["after_error"], third["broken_after_error"]) == (2, 1 / 2)
    assert third["wrong_ci95"] is None


def test_base_and_final_are_compared_problem_by_problem():
    better = [ANSWERS[0]] * 3 + ANSWERS[3:]
    base, final = (judged_by_equations(answers, "\n") for answers in (ANSWERS, better))
    found = process_comparison(base, final)
    assert found["base"] == process_summary(base)
    assert found["final"] == process_summary(final)
    change = found["difference"]["step_validity"]
    assert change["value"] == pytest.approx(9 / 10 - 6 / 10)
    assert change["ci95"][0] < change["value"] < change["ci95"][1]
    same = process_comparison(base, base)["difference"]
    assert all(each["value"] == 0 and each["ci95"] == [0, 0] for each in same.values())


def test_what_is_undefined_is_null():
    nothing = process_summary(judged_by_equations([("Ten.", True)], "\n"))
    assert nothing["judged"] == 0
    assert nothing["step_validity"] == {"value": None, "ci95": None, "n": 0}
    assert nothing["by_depth"][0]["broken"] is None
    one = process_summary(judged_by_equations([("3 + 4 = 8.", True)], "\n"))
    assert one["step_validity"] == {"value": 0.0, "ci95": None, "n": 1}
    low, high = one["recovery"]["ci95"]
    assert 0 < low < 0.3 < high == pytest.approx(1)
    assert process_summary(JudgedSteps.joined([]))["by_depth"] == []
    pair = judged_by_equations(ANSWERS[:2], "\n"), judged_by_equations(ANSWERS[:3], "\n")
    with pytest.raises(ValueError, match="of the same problems"):
        process_comparison(*pair)


def test_a_step_that_spans_lines_is_split_where_the_search_splits():
    text = "3 + 4 = 7\n7 * 2 = 15\n\n\n\n15 - 4 = 11"
    lines, paragraphs = (judged_by_equations([(text, True)], end) for end in ("\n", "\n\n"))
    assert lines.flags.tolist() == [VALID, BROKEN, VALID]
    assert paragraphs.flags.tolist() == [BROKEN, VALID]
    other = judged_by_equations([("Work modulo 5.\n3 + 4 = 2", True)], "\n")
    assert other.flags.tolist() == [UNJUDGED, UNJUDGED]


STEPS = st.lists(st.sampled_from([BROKEN, VALID, UNJUDGED]), max_size=DEEPEST + 3)
SOLUTIONS = st.lists(st.tuples(STEPS, st.booleans()), max_size=8)


def judged(solutions):
    return JudgedSteps(
        flags=np.array([flag for flags, _ in solutions for flag in flags], dtype=np.int8),
        lengths=np.array([len(flags) for flags, _ in solutions], dtype=np.int64),
        right=np.array([right for _, right in solutions], dtype=bool),
    )


def first_error(flags):
    return flags.index(BROKEN) + 1 if BROKEN in flags else None


def ratio(parts):
    """The sum of firsts over the sum of seconds; None over zero."""
    parts = list(parts)
    whole = sum(second for _, second in parts)
    return float(Fraction(sum(first for first, _ in parts), whole)) if whole else None


@given(SOLUTIONS)
def test_the_arrays_count_as_plain_lists_do(solutions):
    found = process_summary(judged(solutions))
    broken = [(flags, right) for flags, right in solutions if BROKEN in flags]
    behind = [flags[first_error(flags) :] for flags, _ in broken]
    expected = {
        "step_validity": ratio((f.count(VALID), len(f) - f.count(UNJUDGED)) for f, _ in solutions),
        "flawed_right": ratio(
            (BROKEN in flags, right)
            for flags, right in solutions
            if {VALID, BROKEN} & {*flags}
            if right
        ),
        "first_error": ratio((first_error(flags), 1) for flags, _ in broken),
        "recovery": ratio((right, 1) for _, right in broken),
        "propagation": ratio((f.count(BROKEN), len(f) - f.count(UNJUDGED)) for f in behind),
    }
    for name, value in expected.items():
        assert found[name]["value"] == (None if value is None else pytest.approx(value))
    rows = found["by_depth"]
    assert sum(row["first_errors"] for row in rows) == len(broken)
    assert sum(row["steps"] + row["after_error"] for row in rows) == sum(
        len(flags) - flags.count(UNJUDGED) for flags, _ in solutions
    )
    for row in rows:
        depths = [row["depth"]] if row["depth"] < DEEPEST else range(DEEPEST, DEEPEST + 4)
        here = [
            (flags[d - 1] == BROKEN, BROKEN in flags[: d - 1])
            for flags, _ in solutions
            for d in depths
            if d <= len(flags) and flags[d - 1] != UNJUDGED
        ]
        assert row["broken"] == ratio((bad, 1) for bad, after in here if not after)
        assert row["broken_after_error"] == ratio((bad, 1) for bad, after in here if after)
        starts = [not right for flags, right in broken if first_error(flags) in depths]
        assert row["wrong"] == ratio((wrong, 1) for wrong in starts)


def test_parts_are_joined_in_order():
    parts = [judged([([VALID], True)]), judged([([BROKEN, UNJUDGED], False)])]
    whole = judged([([VALID], True), ([BROKEN, UNJUDGED], False)])
    assert process_summary(JudgedSteps.joined(parts)) == process_summary(whole)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_are_those_of_the_bootstrap_over_problems(seed):
    """The closed form is an approximation; with 400 problems it is near the resampled one."""
    rng = np.random.default_rng(seed)
    sides = []
    for chance in (0.3, 0.2):
        lengths = rng.integers(1, 5, size=400)
        flags = np.where(rng.random(lengths.sum()) < chance, BROKEN, VALID).astype(np.int8)
        sides.append(JudgedSteps(flags=flags, lengths=lengths, right=rng.random(400) < 0.4))
    found = process_comparison(*sides)
    data = []
    for side in sides:
        ends = np.cumsum(side.lengths)
        parts = np.split(side.flags, ends[:-1])
        data += [np.array([part.sum() for part in parts]), side.lengths]

    def share(valid, judged, axis):
        return valid.sum(axis=axis) / judged.sum(axis=axis)

    def change(one, two, three, four, axis):
        return share(three, four, axis) - share(one, two, axis)

    for arrays, statistic, said in (
        (data[:2], share, found["base"]["step_validity"]),
        (data, change, found["difference"]["step_validity"]),
    ):
        resampled = stats.bootstrap(
            arrays, statistic, paired=True, vectorized=True, n_resamples=2000, rng=seed, batch=200
        ).confidence_interval
        assert said["ci95"] == pytest.approx([resampled.low, resampled.high], abs=0.004)
