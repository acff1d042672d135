"""What the driver asks of a training phase, and what comes back; plain data, no torch, no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sphere_ray.config.scorers import TrainedScorerSettings
from sphere_ray.config.training import RewardTrainingSettings, TrainerPlacement, TrainingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRequest:
    """Tokenise the pairs and compute their log-probabilities under the reference model.

    `model_dir`, `pairs_path` (parquet file or directory of PreferencePair rows) and `output_dir`
    are absolute and visible to every worker.
    """

    model_dir: str
    pairs_path: str
    output_dir: str
    settings: TrainingSettings
    placement: TrainerPlacement


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceProgress:
    """How many pairs have their log-probs."""

    done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceDone:
    """The reference table is whole; `tokens` counts both rows of each pair.

    `seconds` are those of the forwards, without the start of workers and model.
    """

    pairs: int
    dropped: Mapping[str, int]
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """Train `model_dir` on a reference table; the result is a Hugging Face directory.

    `reference_path` is `ReferenceRequest.output_dir`: it holds token ids and reference log-probs,
    so nothing is tokenised again. `learning_rate` overrides the settings' (a refused promotion
    halves it). The same `name` and `storage_path` (Ray Train's: absolute or a URI) continue an
    interrupted run.
    """

    model_dir: str
    reference_path: str
    output_dir: str
    storage_path: str
    name: str
    seed: int
    learning_rate: float
    settings: TrainingSettings
    placement: TrainerPlacement


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """One optimizer step, over all workers.

    `loss`, `reward_accuracy` (share of pairs with a positive margin) and `margin` are means over
    pairs before the step's update; `chosen_logp` and `rejected_logp` are nats per token,
    `chosen_shift` the chosen side's minus the reference's; lengths are mean tokens a pair;
    `tokens` counts prompt and completion tokens of both rows; `computed` the positions that went
    through the model (what a forward shares once), `padding` those of pairs that only fill the last
    batch; `step` starts at 1.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    reward_accuracy: float
    margin: float
    chosen_logp: float
    rejected_logp: float
    chosen_shift: float
    chosen_length: float
    rejected_length: float
    grad_norm: float
    learning_rate: float
    tokens: int
    computed: int
    padding: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOutcome:
    """What the training workers did: every step, and how many of them an earlier call had made."""

    history: tuple[StepMetrics, ...]
    pairs: int
    resumed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What training made; `seconds` is this call's wall time, `history` has every step.

    `resumed_at` is the number of steps taken over from a checkpoint of an earlier call, and
    `restarted_because` says why such a checkpoint could not be used.
    """

    model_dir: str
    pairs: int
    steps: int
    loss_first: float
    loss_last: float
    reward_accuracy: float
    seconds: float
    history: tuple[StepMetrics, ...] = field(repr=False)
    resumed_at: int = 0
    restarted_because: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTrainRequest:
    """Train a prepared process reward model on labelled steps.

    `steps_path` and `held_out_path` are parquet files of LabelledStep rows; the model's scores of
    the second are written to `scores_path` in their order (null where a step was too long).
    `output_dir` becomes a model directory of the same shape as `model_dir`. The same `name` and
    `storage_path` continue an interrupted run.
    """

    model_dir: str
    steps_path: str
    held_out_path: str
    output_dir: str
    scores_path: str
    storage_path: str
    name: str
    seed: int
    trained: TrainedScorerSettings
    placement: TrainerPlacement

    @property
    def settings(self) -> RewardTrainingSettings:
        """How to train."""
        return self.trained.training


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardStepMetrics:
    """One optimizer step, over all workers; `loss` is the weighted mean cross-entropy in nats.

    `tokens` counts the distinct tokens of the problems; `step` starts at 1.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardOutcome:
    """What the workers did: every step, what was dropped, and how many steps were taken over."""

    history: tuple[RewardStepMetrics, ...]
    problems: int
    labels: int
    dropped: Mapping[str, int]
    resumed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTrainResult:
    """What training a reward model made; `seconds` is this call's wall time."""

    model_dir: str
    problems: int
    labels: int
    dropped: Mapping[str, int]
    steps: int
    loss_first: float
    loss_last: float
    seconds: float
    resumed_at: int = 0
    restarted_because: str | None = None
