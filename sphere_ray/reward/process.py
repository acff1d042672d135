"""How sound the steps of solutions are, whatever their answers: the process metrics.

SPHERE is meant to make steps consistent and to stop errors from propagating to the answer (arXiv
2503.04813, abstract and introduction). Here a step is valid, broken or not judged, by whatever
judges it: its equations, or the reward of a scorer. The first broken step is the first error, as
in ProcessBench (arXiv 2412.06559).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sphere_ray.method.equations import equations, is_of_other_arithmetic
from sphere_ray.method.metrics import wilson_interval

BROKEN, VALID, UNJUDGED = 0, 1, -1
DEEPEST = 8
"""Steps deeper than this are few; they are counted as this deep."""
_LEVEL = 0.95

Metric = Literal["step_validity", "flawed_right", "first_error", "recovery", "propagation"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Estimate(TypedDict):
    """A mean over the `n` solutions that it is defined for, with its 95% interval.

    Null where there are none; the interval may be null where there is one.
    """

    value: float | None
    ci95: list[float] | None
    n: int


class DepthSummary(TypedDict):
    """The steps at one `depth`, from 1; the last depth (`DEEPEST`) counts all deeper ones too.

    Of the `steps` that were judged and had no broken step before them, `broken` is the share that
    is broken itself; of those `after_error`, `broken_after_error`. Errors propagate where the
    second share is the larger. `first_errors` solutions first break here, and the share `wrong` of
    them has no right answer, with its 95% interval (Wilson). Shares of nothing are null.
    """

    depth: int
    steps: int
    broken: float | None
    after_error: int
    broken_after_error: float | None
    first_errors: int
    wrong: float | None
    wrong_ci95: list[float] | None


class ProcessSummary(TypedDict):
    """The process metrics of some solutions, of which `judged` have a judged step.

    - `step_validity`: share of the judged steps that is valid.
    - `flawed_right`: share of the judged right solutions that has a broken step. Such an answer is
      right by luck, or in spite of its reasoning.
    - `first_error`: the number (from 1) of the first broken step, over solutions that have one.
    - `recovery`: share of the solutions with a broken step whose answer is right.
    - `propagation`: share of the judged steps behind a first error that is broken too.
    """

    solutions: int
    judged: int
    step_validity: Estimate
    flawed_right: Estimate
    first_error: Estimate
    recovery: Estimate
    propagation: Estimate
    by_depth: list[DepthSummary]


class ProcessComparison(TypedDict):
    """The metrics of two models on the same problems, and `final` less `base`, paired by problem.

    `n` of a difference counts the problems that either side is defined for.
    """

    base: ProcessSummary
    final: ProcessSummary
    difference: dict[Metric, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedSteps:
    """Solutions, one a problem, with a flag for each of their steps.

    `flags` [steps] are `BROKEN`, `VALID` or `UNJUDGED`, solution after solution. `lengths` [n] are
    the numbers of their steps, `right` [n] says whether the answer is right.
    """

    flags: NDArray[np.int8]
    lengths: Integers
    right: Flags

    @classmethod
    def joined(cls, parts: Iterable["JudgedSteps"]) -> "JudgedSteps":
        """All solutions of all parts, in order."""
        parts = [*parts, cls(flags=np.empty(0, np.int8), lengths=np.empty(0, int), right=_NONE)]
        return cls(
            flags=np.concatenate([part.flags for part in parts]),
            lengths=np.concatenate([part.lengths for part in parts]),
            right=np.concatenate([part.right for part in parts]),
        )


_NONE: Flags = np.empty(0, dtype=bool)


def judged_by_equations(solutions: Iterable[tuple[str, bool]], boundary: str) -> JudgedSteps:
    """Judge solutions, each a text and whether its answer is right, by their equations.

    Steps end with `boundary`, and blank ones do not count. A step is broken if an equation in it
    is false, valid if all hold, and not judged if it has none that can be read in one way.
    """
    flags, lengths, right = list[int](), list[int](), list[bool]()
    for text, is_right in solutions:
        found = _flags_by_equations(text, boundary)
        flags += found
        lengths.append(len(found))
        right.append(is_right)
    return JudgedSteps(
        flags=np.array(flags, dtype=np.int8),
        lengths=np.array(lengths, dtype=np.int64),
        right=np.array(right, dtype=bool),
    )


def _flags_by_equations(text: str, boundary: str) -> list[int]:
    parts = [part for part in text.split(boundary) if part.strip()]
    if is_of_other_arithmetic(text):  # said once, it is meant in every step
        return [UNJUDGED] * len(parts)
    found = ([each.holds for each in equations(part)] for part in parts)
    return [(VALID if all(holds) else BROKEN) if holds else UNJUDGED for holds in found]


def process_summary(steps: JudgedSteps) -> ProcessSummary:
    """Compute the process metrics of solutions."""
    ratios = _ratios(steps)
    found = {name: _estimate(*ratio, name) for name, ratio in ratios.items()}
    return {
        "solutions": len(steps.lengths),
        "judged": found["step_validity"]["n"],
        "step_validity": found["step_validity"],
        "flawed_right": found["flawed_right"],
        "first_error": found["first_error"],
        "recovery": found["recovery"],
        "propagation": found["propagation"],
        "by_depth": _by_depth(steps),
    }


def process_comparison(base: JudgedSteps, final: JudgedSteps) -> ProcessComparison:
    """Compare two models' solutions of the same problems, which come in the same order.

    Raises:
        ValueError: they are not the same number.
    """
    one, other = _ratios(base), _ratios(final)
    return {
        "base": process_summary(base),
        "final": process_summary(final),
        "difference": {name: _difference(one[name], other[name]) for name in one},
    }


def _ratios(steps: JudgedSteps) -> dict[Metric, tuple[Floats, Floats]]:
    """Each metric as two arrays [n]: its value is the sum of the first over that of the second."""
    owner, number = _places(steps)
    first = _first_errors(steps)
    broken, judged = first > 0, _per_solution(steps, steps.flags != UNJUDGED)
    behind = (steps.flags != UNJUDGED) & _is_behind(first[owner], number)
    later = _per_solution(steps, behind)
    pairs: dict[Metric, tuple[NDArray[Any], NDArray[Any]]] = {
        "step_validity": (_per_solution(steps, steps.flags == VALID), judged),
        "flawed_right": (steps.right & broken, steps.right & (judged > 0)),
        "first_error": (first, broken),
        "recovery": (steps.right & broken, broken),
        "propagation": (_per_solution(steps, behind & (steps.flags == BROKEN)), later),
    }
    return {
        name: (top.astype(np.float64), bottom.astype(np.float64))
        for name, (top, bottom) in pairs.items()
    }


def _places(steps: JudgedSteps) -> tuple[Integers, Integers]:
    """The solution of each step, and the step's number in it, from 1."""
    owner = np.repeat(np.arange(len(steps.lengths)), steps.lengths)
    starts = np.cumsum(steps.lengths) - steps.lengths
    return owner, np.arange(len(owner)) - starts[owner] + 1


def _first_errors(steps: JudgedSteps) -> Integers:
    """The number of each solution's first broken step [n], 0 without one."""
    owner, number = _places(steps)
    broken = steps.flags == BROKEN
    first = np.zeros(len(steps.lengths), dtype=np.int64)
    # Written from the last step to the first, so the first one stays.
    first[owner[broken][::-1]] = number[broken][::-1]
    return first


def _is_behind(first: Integers, number: Integers) -> Flags:
    behind: Flags = (first > 0) & (number > first)
    return behind


def _per_solution(steps: JudgedSteps, chosen: Flags) -> Integers:
    owner, _ = _places(steps)
    counts: Integers = np.bincount(owner[chosen], minlength=len(steps.lengths))
    return counts


def _estimate(top: Floats, bottom: Floats, name: Metric) -> Estimate:
    """The ratio of two sums over solutions, with an interval.

    Where solutions are counted it is Wilson's, which is right for 0 of n too. Elsewhere it is a
    t-interval of the linearised error: Var(sum x / sum y) is about sum (x - r y)^2 / (sum y)^2
    (ratio estimator: Cochran, Sampling Techniques, 1977, section 2.11), for the steps of one
    solution are not independent, and solutions are.
    """
    total, n = bottom.sum(), int((bottom > 0).sum())
    if not total:
        return {"value": None, "ci95": None, "n": 0}
    value = float(top.sum() / total)
    if name in ("flawed_right", "recovery"):
        return {"value": value, "ci95": _wilson(int(top.sum()), n), "n": n}
    low, high = (1.0, np.inf) if name == "first_error" else (0.0, 1.0)
    interval = _interval(value, (top - value * bottom) / total, n)
    clipped = interval and [float(np.clip(bound, low, high)) for bound in interval]
    return {"value": value, "ci95": clipped, "n": n}


def _difference(base: tuple[Floats, Floats], final: tuple[Floats, Floats]) -> Estimate:
    """The second ratio less the first, with a t-interval as above, paired by problem."""
    if len(base[0]) != len(final[0]):
        raise ValueError(
            f"{len(base[0])} and {len(final[0])} solutions are not of the same problems"
        )
    n = int(((base[1] > 0) | (final[1] > 0)).sum())
    if not (base[1].sum() and final[1].sum()):
        return {"value": None, "ci95": None, "n": 0}
    old, new = (float(top.sum() / bottom.sum()) for top, bottom in (base, final))
    errors = (final[0] - new * final[1]) / final[1].sum()
    errors -= (base[0] - old * base[1]) / base[1].sum()
    return {"value": new - old, "ci95": _interval(new - old, errors, n), "n": n}


def _interval(value: float, errors: Floats, n: int) -> list[float] | None:
    if n < 2:
        return None
    error = float(np.sqrt((errors**2).sum() * n / (n - 1)))
    reach = float(stats.t.ppf((1 + _LEVEL) / 2, n - 1)) * error
    return [value - reach, value + reach]


def _by_depth(steps: JudgedSteps) -> list[DepthSummary]:
    owner, number = _places(steps)
    first = _first_errors(steps)
    judged, broken = steps.flags != UNJUDGED, steps.flags == BROKEN
    behind = _is_behind(first[owner], number)
    depths = np.minimum(number, DEEPEST)
    found: list[DepthSummary] = []
    for depth in range(1, int(depths.max(initial=0)) + 1):
        here = (depths == depth) & judged
        sound, after = here & ~behind, here & behind
        starts = np.minimum(first, DEEPEST) == depth
        lost = int((starts & ~steps.right).sum())
        found.append(
            {
                "depth": depth,
                "steps": int(sound.sum()),
                "broken": _share(int((sound & broken).sum()), int(sound.sum())),
                "after_error": int(after.sum()),
                "broken_after_error": _share(int((after & broken).sum()), int(after.sum())),
                "first_errors": int(starts.sum()),
                "wrong": _share(lost, int(starts.sum())),
                "wrong_ci95": _wilson(lost, int(starts.sum())),
            }
        )
    return found


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _wilson(part: int, whole: int) -> list[float] | None:
    if not whole:
        return None
    return list(wilson_interval(part, whole, level=_LEVEL))
