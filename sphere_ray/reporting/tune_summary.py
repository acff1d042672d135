"""RUN-tune/tune.json: what each setting of a training came to, and which one is chosen."""

from collections.abc import Sequence
from statistics import fmean
from typing import TypedDict

from sphere_ray.method.decision import gain_of, score_changes, scores_of
from sphere_ray.method.evaluate import answered_by_both
from sphere_ray.records import EvaluationRow

WARNING = (
    "The best of several validation scores is too good by selection; the test problems have not "
    "been looked at."
)


class GainSummary(TypedDict):
    """A model's mean score less another's on the `n` validation problems that both answered.

    `ci95` is the interval paired by problem (Student's t).
    """

    n: int
    gain: float
    standard_error: float
    ci95: list[float]


class TunedSummary(TypedDict):
    """A candidate as the last rung (from 1) that it reached found it.

    `settings` are what it changes, as `--set` takes it: nothing is the default. `pair_accuracy` is
    the share of pairs ranked right in the last step of training. `score` is the mean score on the
    `n` validation problems that all candidates of its rung answered; a score is the share of the
    greedy answer and the samples that is right. `over_policy` compares it with the policy that made
    the pairs, and `over_default` with the default in the same rung. `seconds` trained it and let
    it answer, in all rungs. A training that collapsed has a reason, and null for the figures.
    """

    settings: list[str]
    rung: int
    epochs: int
    pair_accuracy: float | None
    n: int
    score: float | None
    over_policy: GainSummary | None
    over_default: GainSummary | None
    seconds: float
    collapsed: str | None
    model: str | None


class TuneSummary(TypedDict):
    """The candidates, the best first. `pairs` is the number of pairs they were trained on.

    `arguments` turn the settings of the run into the chosen ones, on a command line; they are empty
    where the run's own are chosen, and null where every training of a rung collapsed. `trainings`,
    `evaluations` and `seconds` count what the run itself had not made.
    """

    iteration: int
    pairs: int
    candidates: list[TunedSummary]
    arguments: str | None
    trainings: int
    evaluations: int
    seconds: float
    warning: str


def common_scores(answers: Sequence[Sequence[EvaluationRow]]) -> tuple[list[float], int]:
    """Return each model's mean score on the problems that all of them answered, and their number.

    Scores are rounded, so that those that are equal on paper are equal. Without such a problem
    they are 0.
    """
    found = [scores_of(rows) for rows in answers]
    common = set(found[0]).intersection(*found[1:]) if found else set()
    if not common:
        return [0.0] * len(found), 0
    return [round(fmean(each[name] for name in common), 9) for each in found], len(common)


def gain_summary(
    before: Sequence[EvaluationRow], after: Sequence[EvaluationRow]
) -> GainSummary | None:
    """Compare two models' answers to the same problems; None if they have answered none of them.

    Raises:
        ValueError: the two were asked different problems.
    """
    old, new = answered_by_both(before, after)
    if not new:
        return None
    gain = gain_of(score_changes(old, new), risk=0.025)
    return {
        "n": len(new),
        "gain": float(gain.mean),
        "standard_error": min(float(gain.error), 1.0),
        "ci95": [float(gain.low), float(gain.high)],
    }
