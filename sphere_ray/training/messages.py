"""What the driver asks of a training job, and what comes back; plain data, no torch, no Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sphere_ray.config.models import StoredDtype
from sphere_ray.config.scorers import TrainedScorerSettings
from sphere_ray.config.training import RewardTrainingSettings, TrainerPlacement, TrainingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRequest:
    """Tokenise the pairs and compute their log-probabilities under the reference model.

    `model_dir`, `pairs_paths` (directories of `part-*.parquet` files with PreferencePair rows) and
    `output_dir` are absolute and visible to every worker. No pair is in them twice. Pairs whose
    rejected side is less likely than the chosen one by more than `max_logprob_gap` nats per token
    are dropped (None: none are).
    """

    model_dir: str
    pairs_paths: Sequence[str]
    output_dir: str
    settings: TrainingSettings
    placement: TrainerPlacement
    max_logprob_gap: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceProgress:
    """How many pairs have their log-probs, about: the first worker knows only its own."""

    done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceDone:
    """The reference table is complete; `tokens` counts both rows of each pair.

    `seconds` covers encoding and forwards, but not the start of the workers and the model.
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
    halves it). `stored_dtype` is how the engines will serve the result, and so how it is written.
    `fingerprint` stands for everything that decides the weights, data included; a checkpoint of
    another one is not continued.
    """

    model_dir: str
    reference_path: str
    output_dir: str
    seed: int
    learning_rate: float
    settings: TrainingSettings
    placement: TrainerPlacement
    stored_dtype: StoredDtype = "float32"
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTrainRequest:
    """Train a prepared process reward model on labelled steps.

    `train_path` and `held_out_path` are directories of `part-*.parquet` files with LabelledStep
    rows. The steps that one rollout recorded for a problem are adjacent in one file. A problem is
    read by its row group, so small row groups (some hundred rows) make reading cheap. The model's
    scores of the held-out steps are written to `scores_path`, in the order of the sorted files'
    rows (null where a step was too long). `output_dir` becomes a model directory of the same shape
    as `model_dir`.
    """

    model_dir: str
    train_path: str
    held_out_path: str
    output_dir: str
    scores_path: str
    seed: int
    trained: TrainedScorerSettings
    placement: TrainerPlacement
    stored_dtype: StoredDtype = "float32"
    fingerprint: str = ""

    @property
    def settings(self) -> RewardTrainingSettings:
        """How to train."""
        return self.trained.training

    @property
    def learning_rate(self) -> float:
        """The peak of the schedule."""
        return self.settings.learning_rate


LearningRequest = RewardTrainRequest | TrainRequest
Request = LearningRequest | ReferenceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerStep:
    """One optimizer step, over all workers.

    `step` starts at 1. `loss` is the mean over the step's examples, before the update. `tokens`
    counts the examples' tokens, `computed` the positions that went through the model (a forward
    computes shared prefixes once), and `padding` those that only fill the last batch.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    computed: int
    padding: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics(OptimizerStep):
    """A step of preference training; all means are over pairs, before the update.

    `reward_accuracy` is the share of pairs with a positive margin. `chosen_logp` and
    `rejected_logp` are nats per token, and `chosen_shift` is the chosen side's minus the
    reference's. Lengths are mean tokens a pair. `tokens` counts the prompt in both rows.
    """

    reward_accuracy: float
    margin: float
    chosen_logp: float
    rejected_logp: float
    chosen_shift: float
    chosen_length: float
    rejected_length: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardStepMetrics(OptimizerStep):
    """A step of reward model training; `loss` is the weighted mean cross-entropy in nats.

    `tokens` counts distinct tokens, and `dropped` the labelled steps that were too long.
    """

    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningResult:
    """What a training came to.

    `history` has every step. `resumed_at` is the number of steps taken over from a checkpoint;
    `restarted_because` says why a checkpoint of this model could not be used. `seconds` is wall
    time since the model was last loaded. `update_survival` is the share of the weights' update that
    is in the written model (`keeping.Update`).
    """

    model_dir: str
    steps: int
    loss_first: float
    loss_last: float
    update_survival: float
    seconds: float
    history: tuple[Any, ...] = field(repr=False)
    resumed_at: int = 0
    restarted_because: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult(LearningResult):
    """What preference training came to; `history` holds `StepMetrics`."""

    pairs: int
    reward_accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTrainResult(LearningResult):
    """What training a reward model came to; `history` holds `RewardStepMetrics`.

    `labels` counts the steps that were trained on, and `dropped` the others by reason.
    """

    problems: int
    labels: int
    dropped: Mapping[str, int]
