"""How an iteration's policy came about, in summary.json: its training, and the decision."""

from collections.abc import Mapping
from typing import Any, TypedDict


class TrainingSummary(TypedDict):
    """How training went: mean loss of the first and last step, accuracy of the last.

    `tokens_per_second` counts the tokens of both sides of each pair. `padding` is the share of the
    computed tokens that belonged to no pair of the step. `update_survival` is the share of the
    update that the written weights kept: its projection on the update of the optimizer's weights.
    """

    pairs: int
    steps: int
    zero_stage: int
    workers: int
    tokens_per_second: float
    padding: float
    loss_first: float
    loss_last: float
    reward_accuracy: float
    update_survival: float
    seconds: float


class CandidateSummary(TypedDict):
    """A candidate of an iteration (`trained`, `halfway`, `half_rate`) against the policy.

    `gain` is the candidate's mean score less the policy's on the `n` validation problems that both
    answered; a score is the share of the greedy answer and the samples that is right. `ci95` is the
    gain's interval paired by problem (Student's t). `looks` counts the looks it took to decide.
    `fresh` problems had decided nothing in an earlier iteration. `seconds` made the candidate and
    its answers. `before` and `after` are the directories of the policy's and its answers. A
    training that collapsed has no answers, and null for the gain.
    """

    candidate: str
    promoted: bool
    reason: str
    n: int
    looks: int
    fresh: int
    gain: float | None
    standard_error: float | None
    ci95: list[float] | None
    seconds: float
    before: list[str]
    after: list[str]


class WriterSummary(TypedDict):
    """The policy that wrote the `pairs` of an `iteration` which this iteration's training read.

    `policy` is its fingerprint, `policy_iteration` 0 for the base model, n + 1 for one that
    iteration n made. `lag` is how many iterations behind the policy it was from which training
    began: 0, or 1 where `schedule: overlapped` rolled out before the last decision.
    """

    iteration: int
    policy: str
    policy_iteration: int
    lag: int
    pairs: int


def training_summary(result: Mapping[str, Any], seconds: float) -> TrainingSummary:
    """Count what training.json (`result`) says of every step; `seconds` are those of the step."""
    history = result["history"]
    tokens, busy, computed, padding = (
        sum(step[name] for step in history) for name in ("tokens", "seconds", "computed", "padding")
    )
    return {
        "pairs": result["pairs"],
        "steps": result["steps"],
        "zero_stage": result["zero_stage"],
        "workers": result["workers"],
        "tokens_per_second": round(tokens / busy, 3),
        "padding": round(padding / computed, 4),
        "loss_first": result["loss_first"],
        "loss_last": result["loss_last"],
        "reward_accuracy": result["reward_accuracy"],
        "update_survival": round(result["update_survival"], 4),
        "seconds": round(seconds, 3),
    }
