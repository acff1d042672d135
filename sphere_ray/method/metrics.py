"""Accuracy metrics and their uncertainty: pass@k, mean@k, maj@k, bootstrap, a paired test."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_BATCH = 1024
"""Resamples held in memory at once."""


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the unbiased chance that one of k samples is correct (arXiv 2107.03374).

    1 - C(n - c, k) / C(n, k): drawing k of the n samples without replacement.

    Raises:
        ValueError: unless 0 <= num_correct <= num_samples and 1 <= k <= num_samples.
    """
    if not (0 <= num_correct <= num_samples and 1 <= k <= num_samples):
        raise ValueError(f"pass@{k} of {num_correct} correct in {num_samples} samples is undefined")
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def mean_at_k(correct: Sequence[bool]) -> float:
    """Return the share of one problem's samples that is correct; 0 without samples."""
    return sum(correct) / len(correct) if correct else 0.0


def maj_at_k(answers: Sequence[str | None], correct: Sequence[bool]) -> bool:
    """Whether the most frequent answer of one problem is correct.

    All correct answers are one vote, however they are spelt: the grader found each equal to the
    gold answer. Wrong answers vote by their text, and an evaluation spells those alike that the
    grader finds equal. None has no vote.
    A tie goes to the answer seen first. Without votes: False.
    """
    right = object()
    votes = Counter(
        right if is_right else answer
        for answer, is_right in zip(answers, correct, strict=True)
        if answer is not None
    )
    return bool(votes) and max(votes, key=votes.__getitem__) is right


def macro_average(values: Mapping[str, Sequence[float]]) -> float:
    """Return the mean over groups of each group's mean, so that a large family weighs no more.

    Raises:
        ValueError: there is no group, or one is empty.
    """
    if not values or not all(values.values()):
        raise ValueError("a macro average needs at least one group, and a value in each")
    return math.fsum(math.fsum(group) / len(group) for group in values.values()) / len(values)


def bootstrap_interval(
    values: Sequence[float], *, seed: int, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean over problems.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("an interval of no values is undefined")
    if len(values) == 1:
        return values[0], values[0]
    found = stats.bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        n_resamples=resamples,
        confidence_level=level,
        method="percentile",
        batch=_BATCH,
        rng=seed,
    ).confidence_interval
    return float(found.low), float(found.high)


def wilson_interval(num_right: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval (1927) of a proportion: `num_right` of `n` problems.

    Raises:
        ValueError: unless 0 <= num_right <= n and n > 0.
    """
    if not n:
        raise ValueError("an interval of no values is undefined")
    found = stats.binomtest(num_right, n).proportion_ci(confidence_level=level, method="wilson")
    return float(found.low), float(found.high)


def paired_test(
    before: Sequence[float], after: Sequence[float], *, seed: int, permutations: int = 20_000
) -> float:
    """Return the two-sided p-value that two models differ on the same problems.

    A sign-flip permutation test of the summed per-problem differences. It is exact where the
    nonzero differences have one size (then it is the sign test: greedy pass@1) or have at most
    `permutations` sign patterns. Otherwise it draws that many patterns, and is never 0.

    Raises:
        ValueError: the sequences differ in length.
    """
    if len(before) != len(after):
        raise ValueError(f"paired values differ in number: {len(before)} and {len(after)}")
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    differences = differences[~np.isclose(differences, 0.0, rtol=0.0, atol=1e-12)]
    if not len(differences):
        return 1.0
    sizes = np.abs(differences)
    if np.allclose(sizes, sizes[0], rtol=1e-9, atol=0.0):
        return float(stats.binomtest(int((differences > 0).sum()), len(differences)).pvalue)
    found = stats.permutation_test(
        (differences,),
        _summed,
        permutation_type="samples",
        n_resamples=permutations,
        batch=_BATCH,
        vectorized=True,
        rng=seed,
    )
    return float(found.pvalue)


def _summed(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    # Rounded, so that sums that are equal on paper are equal.
    sums: NDArray[np.float64] = np.round(values.sum(axis=axis), 9)
    return sums
