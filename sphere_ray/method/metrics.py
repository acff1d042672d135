"""Accuracy metrics and their uncertainty: pass@k, mean@k, maj@k, bootstrap, a paired test."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_EXACT_PROBLEMS = 16
_CHUNK = 1024


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

    `answers` are extracted and normalised (None: nothing extracted, no vote). A tie goes to the
    answer seen first; its first sample says whether it is correct. Without votes: False.
    """
    votes: dict[str, list[bool]] = {}
    for answer, right in zip(answers, correct, strict=True):
        if answer is not None:
            votes.setdefault(answer, []).append(right)
    return max(votes.values(), key=len)[0] if votes else False


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
    sample = np.asarray(values, dtype=np.float64)
    draw = np.random.default_rng(seed)
    means = [
        sample[draw.integers(len(sample), size=(min(_CHUNK, resamples - done), len(sample)))].mean(
            axis=1
        )
        for done in range(0, resamples, _CHUNK)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_test(
    before: Sequence[float], after: Sequence[float], *, seed: int, permutations: int = 20_000
) -> float:
    """Return the two-sided p-value that two models differ on the same problems.

    A sign-flip permutation test of the summed per-problem differences. Exact where the nonzero
    differences have one size (then it is the sign test: greedy pass@1) or are at most 16;
    else Monte Carlo, (hits + 1) / (permutations + 1), which is never 0.

    Raises:
        ValueError: the sequences differ in length.
    """
    if len(before) != len(after):
        raise ValueError(f"paired values differ in number: {len(before)} and {len(after)}")
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    differences = differences[~np.isclose(differences, 0.0, rtol=0.0, atol=1e-12)]
    sizes = np.abs(differences)
    if not len(differences):
        return 1.0
    if np.allclose(sizes, sizes[0], rtol=1e-9, atol=0.0):
        return _sign_test(len(differences), int((differences > 0).sum()))
    if len(differences) <= _EXACT_PROBLEMS:
        codes = np.arange(2 ** len(differences))[:, None] >> np.arange(len(differences))
        return _extreme(1.0 - 2.0 * (codes & 1), differences) / len(codes)
    draw = np.random.default_rng(seed)
    hits = sum(
        _extreme(
            draw.choice((-1.0, 1.0), size=(min(_CHUNK, permutations - done), len(differences))),
            differences,
        )
        for done in range(0, permutations, _CHUNK)
    )
    return (hits + 1) / (permutations + 1)


def _sign_test(total: int, positive: int) -> float:
    tail = sum(math.comb(total, i) for i in range(min(positive, total - positive) + 1))
    return min(1.0, float(2 * tail / 2**total))


def _extreme(signs: NDArray[np.float64], differences: NDArray[np.float64]) -> int:
    """How many sign patterns move the sum at least as far from 0 as the observed one."""
    # The slack keeps sums that are equal on paper equal in floating point.
    observed = abs(float(differences.sum())) - 1e-9
    return int((np.abs(signs @ differences) >= observed).sum())
