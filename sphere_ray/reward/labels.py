"""Recorded rollouts as labelled steps: the training data of a process reward model.

Math-Shepherd (arXiv 2312.08935): the value of a step is the share of its completions that reach
the gold answer. The search recorded these values, so nothing is generated again.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import log

from sphere_ray.method.seeds import falls_within
from sphere_ray.method.steps import is_final
from sphere_ray.records import Chain, LabelledStep, Rollout

DEEPEST = 4
"""Steps deeper than this are too few to be balanced by themselves; they count as this deep."""
LARGEST_WEIGHT = 4.0


def labelled_steps(rollout: Rollout, *, trained: bool) -> list[LabelledStep]:
    """Every step of one problem that the original source scored, once each; none if the row failed.

    With `trained` the trained reward model scored the search. Its rewards are no labels, so only
    the audited steps count. A step that was scored twice pools its outcomes.
    """
    if rollout.error is not None:
        return []
    pooled: dict[tuple[tuple[str, ...], str], LabelledStep] = {}
    found = (step for chain in rollout.chains for step in _steps_of(rollout, chain, trained))
    # Chains share their first steps: a step that was scored once is one label.
    for step in dict.fromkeys(found):
        key = (step.prefix, step.text)
        pooled[key] = _pooled(pooled[key], step) if key in pooled else step
    return list(pooled.values())


def is_held_out(problem_id: str, *, share: float, seed: int) -> bool:
    """Whether a problem belongs to the `share` that no reward model is trained on.

    This depends on the arguments alone, so a problem stays on its side in every iteration.
    """
    return falls_within(share, seed, "held out", problem_id)


def split_by_problem(
    steps: Sequence[LabelledStep], *, share: float, seed: int
) -> tuple[list[LabelledStep], list[LabelledStep]]:
    """Return the steps to train on, and the steps of the problems that are held out."""
    problems = {step.problem_id for step in steps}
    held = {problem: is_held_out(problem, share=share, seed=seed) for problem in problems}
    return (
        [step for step in steps if not held[step.problem_id]],
        [step for step in steps if held[step.problem_id]],
    )


def label_of(value: float, outcomes: int, kind: str) -> float:
    """The target in [0, 1]: `soft` is the value, `hard` whether anything reached the gold.

    An external reward has no outcomes; it is hard-labelled right above one half.
    """
    if kind == "soft":
        return value
    return float(value > (0 if outcomes else 0.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a step is trained towards: weight x cross entropy(right, sigmoid(logit + shift))."""

    right: float
    weight: float = 1.0
    shift: float = 0.0


class Balance:
    """Weights under which each depth has as much right as wrong, so depth alone predicts nothing.

    A step of label y is y of a right step and 1 - y of a wrong one, and each kind has a factor of
    its depth, r and w: y r CE(right) + (1 - y) w CE(wrong). Alone, the factors would teach the
    odds p / (1 - p) x r / w; the shift log(r / w) takes that ratio up (prior correction: King and
    Zeng 2001; logit adjustment, arXiv 2007.07314), so the model's own logit is that of p.
    A depth that has only one kind, or was never counted, is left as it is.
    """

    def __init__(self) -> None:
        """Begin without steps."""
        self._right: defaultdict[int, float] = defaultdict(float)
        self._total: defaultdict[int, float] = defaultdict(float)

    def count(self, depth: int, label: float) -> None:
        """Take a step into account."""
        self._right[min(depth, DEEPEST)] += label
        self._total[min(depth, DEEPEST)] += 1

    def target(self, depth: int, label: float) -> Target:
        """The target of a step, once all are counted."""
        depth = min(depth, DEEPEST)
        return _target(label, *_factors(self._right[depth], self._total[depth]))


def _factors(right: float, total: float) -> tuple[float, float]:
    """Factors of right and of wrong; none above `LARGEST_WEIGHT`."""
    if right in (0, total):
        return 1.0, 1.0
    half = total / 2
    return min(LARGEST_WEIGHT, half / right), min(LARGEST_WEIGHT, half / (total - right))


def _target(label: float, up: float, down: float) -> Target:
    weight = label * up + (1 - label) * down
    return Target(right=label * up / weight, weight=weight, shift=log(up / down))


def _steps_of(rollout: Rollout, chain: Chain, trained: bool) -> Iterator[LabelledStep]:
    prefix: tuple[str, ...] = ()
    for step in chain.steps:
        for candidate in step.candidates:
            label = candidate.audit if trained else candidate.reward
            if label is not None and candidate.reward is not None:
                yield LabelledStep(
                    problem_id=rollout.problem.problem_id,
                    question=rollout.problem.question,
                    prefix=prefix,
                    text=candidate.text,
                    final=is_final(candidate),
                    value=label,
                    outcomes=len(candidate.values or ()),
                    reward=candidate.reward,
                )
        prefix = (*prefix, step.candidate.text)


def _pooled(one: LabelledStep, other: LabelledStep) -> LabelledStep:
    outcomes = one.outcomes + other.outcomes
    if not outcomes:
        return one
    value = (one.value * one.outcomes + other.value * other.outcomes) / outcomes
    return replace(one, value=value, outcomes=outcomes)
