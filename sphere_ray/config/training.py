"""Parameters of training: DPO of the policy, and the trained process reward model."""

from hashlib import blake2b
from os.path import abspath
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from sphere_ray.config.base import Placement, Settings

Attention: TypeAlias = Literal["tree", "sdpa", "flash_attention_2"]
DENSE_ATTENTION: Final = "sdpa"


def shares_prefixes(attention: Attention) -> bool:
    """Whether a forward with that attention computes what its rows share once."""
    return attention != "flash_attention_2"


class LossSettings(Settings):
    """The preference loss. Defaults (beta 0.1) are ours: the paper's are not known.

    `label_smoothing` belongs to `robust`; `nll_weight` adds the chosen side's NLL per token
    (arXiv 2404.19733); `positive_weight` is lambda of DPO-positive (arXiv 2402.13228).
    """

    kind: Literal["sigmoid", "sigmoid_norm", "ipo", "robust"] = "sigmoid"
    beta: float = Field(0.1, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    nll_weight: float = Field(0.0, ge=0)
    positive_weight: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _smoothing_has_a_use(self) -> "LossSettings":
        if self.kind == "robust" and self.label_smoothing == 0:
            raise ValueError("kind: robust needs label_smoothing above 0 (0.1 is usual)")
        if self.kind != "robust" and self.label_smoothing:
            raise ValueError("label_smoothing is used by kind: robust only; remove it")
        return self


class GuardSettings(Settings):
    """Stop training when it collapses.

    `max_chosen_drop` is nats per token the chosen side may fall below the reference (mean over
    the last `window` steps); `window` also sets how often the guard looks.
    """

    max_chosen_drop: float = Field(1.0, gt=0)
    window: int = Field(8, ge=1)


class OptimizationSettings(Settings):
    """What every training under DeepSpeed has.

    `batch_size` is global: micro_batch_size x accumulation x workers. The steps of an epoch share
    its examples equally, so it is the size of the largest.
    `warmup_ratio` of the steps rise evenly to `learning_rate`; even one of them makes a ramp.
    `adam_beta2` averages squared gradients over about 1 / (1 - beta2) steps: 0.95 suits ten to some
    hundred steps, a training of thousands wants 0.999.
    `max_length` counts tokens; longer examples are dropped and counted.
    `precision: auto` is bf16 on GPUs and fp32 on CPUs, whatever instructions these have: forwards
    through rounded weights make another training, and a configuration should mean the same one.
    """

    epochs: int = Field(1, ge=1)
    batch_size: int = Field(64, ge=1)
    micro_batch_size: Annotated[int, Placement] = Field(1, ge=1)
    learning_rate: float = Field(5e-7, gt=0)
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = Field(0.0, ge=0)
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(2048, ge=2)
    precision: Literal["bf16", "fp32", "auto"] = "auto"
    gradient_checkpointing: Annotated[bool, Placement] = False
    checkpoint_every: Annotated[int, Placement] = Field(50, ge=1)

    def run_on(self, placement: "TrainerPlacement") -> Self:
        """The same with its `auto` settled for that placement."""
        if self.precision != "auto":
            return self
        precision = "bf16" if placement.use_gpu else "fp32"
        return self.model_copy(update={"precision": precision})

    def zero_stage_on(self, placement: "TrainerPlacement") -> int:
        """The ZeRO stage that runs there.

        A single worker has nothing to shard. In fp32, stage 0 gives the same result without ZeRO's
        copies of weights and gradients. Stage 3 stays: it also partitions the model at loading.
        In bf16, stage 1 runs instead of stage 0, which would sum gradients in bf16.
        """
        if self.precision == "bf16":
            return max(placement.zero_stage, 1)
        alone = placement.workers == 1 and not placement.offload
        return 0 if alone and placement.zero_stage < 3 else placement.zero_stage


class LoraSettings(Settings):
    """Train low-rank adapters (arXiv 2106.09685) instead of the weights; merged at the end.

    `all-linear` means every linear layer but the output one. Adapters want a learning rate about
    ten times that of the weights.
    """

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"


class TrainingSettings(OptimizationSettings):
    """Sharded DPO. `learning_rate` 5e-7 suits a 7B model and is ours.

    An example is a pair. `reference: iteration` is the iteration's starting policy, `initial` the
    run's base model. The rows of a forward are one prefix tree. `attention: tree` computes what its
    nodes see, in memory that is linear in their number (on GPUs FlexAttention, compiled by torch at
    the first step); `sdpa` needs no compiler and makes a mask of nodes x nodes; with
    `flash_attention_2` (GPUs, bf16, the package flash-attn) rows are whole and share nothing.
    """

    attention: Annotated[Attention, Placement] = "tree"

    reference: Literal["iteration", "initial"] = "iteration"
    loss: LossSettings = LossSettings()
    guard: GuardSettings = GuardSettings()
    lora: LoraSettings | None = None
    min_pairs: Annotated[int, Placement] = Field(1, ge=1)


class RewardTrainingSettings(OptimizationSettings):
    """Training of a process reward model; an example is a problem with all its recorded steps.

    Labels are `soft` (the share of completions that reached the gold) or `hard` (any did).
    `balance` weighs steps so that at each depth as much weight is right as wrong.
    `held_out` is the share of problems kept for the figures that decide the hand-over.
    `head_rate` is the head's learning rate over the body's: a new head knows nothing (1 for a
    `base` that is a reward model already).
    """

    epochs: int = Field(2, ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    labels: Literal["soft", "hard"] = "soft"
    balance: bool = True
    head_rate: float = Field(10.0, gt=0)
    held_out: float = Field(0.2, gt=0, lt=1)
    min_problems: int = Field(8, ge=2)


class TrainerPlacement(Settings):
    """Where training runs.

    `zero_stage` 0-3; `offload` moves the optimizer state from the GPU to host memory.
    `checkpoint_dir` is where checkpoints of a training under way go, a path or URI that all workers
    see, for 12 bytes a weight and more; default: into the run directory. They go when the iteration
    is done.
    """

    workers: Annotated[int, Placement] = Field(1, ge=1)
    use_gpu: Annotated[bool, Placement] = False
    zero_stage: Annotated[Literal[0, 1, 2, 3], Placement] = 2
    offload: Annotated[bool, Placement] = False
    cpus_per_worker: Annotated[float, Placement] = Field(1.0, gt=0)
    max_failures: Annotated[int, Placement] = Field(3, ge=0)
    checkpoint_dir: Annotated[str | None, Placement] = Field(None, min_length=1)

    def checkpoints(self, run_dir: str, iteration: int) -> str:
        """Where the checkpoints of an iteration of a run go; runs may share a `checkpoint_dir`."""
        if self.checkpoint_dir is None:
            return f"{run_dir}/iter-{iteration:03}/_train"
        mark = blake2b(run_dir.encode(), digest_size=4).hexdigest()
        place = (
            self.checkpoint_dir if "://" in self.checkpoint_dir else abspath(self.checkpoint_dir)
        )
        return f"{place}/{run_dir.rpartition('/')[2]}-{mark}/iter-{iteration:03}"

    @model_validator(mode="after")
    def _offload_is_possible(self) -> "TrainerPlacement":
        if self.offload and not (self.use_gpu and self.zero_stage):
            raise ValueError(
                "offload moves sharded optimizer state off a GPU; it needs use_gpu: true and "
                "zero_stage 1, 2 or 3"
            )
        return self
