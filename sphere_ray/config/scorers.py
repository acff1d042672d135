"""Parameters of the reward sources: what judges steps, and how a trained model takes over."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from sphere_ray.config.base import Settings
from sphere_ray.config.endpoint import EndpointSettings
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.config.training import RewardTrainingSettings

PRM_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
STEP_TAG = "<extra_0>"


class HandoverSettings(Settings):
    """When the trained reward model replaces the source, and the held-out figures it must reach.

    From `from_iteration` on it scores, and the source before it still scores `audit_share` of the
    sets of sibling steps. It takes over only with at least `min_steps` held-out steps, an AUC of
    `min_auc` that is `min_gain` above what length and depth of a step tell, an expected
    calibration error of at most `max_ece`, and scores that differ (standard deviation
    `min_spread`).
    """

    from_iteration: int = Field(1, ge=1)
    audit_share: float = Field(0.1, ge=0, le=1)
    min_steps: int = Field(100, ge=2)
    min_auc: float = Field(0.7, ge=0, le=1)
    min_gain: float = Field(0.05, ge=-1, le=1)
    max_ece: float = Field(0.2, gt=0, le=1)
    min_spread: float = Field(0.02, ge=0)


class TrainedScorerSettings(Settings):
    """A process reward model that is trained here, on what rollouts recorded.

    `base: policy` starts from the run's base model. `shape: step_tags` is the public format
    (Qwen2ForProcessRewardModel; bases of the Qwen2 or Llama architecture), `classifier` a
    last-token sequence classifier (any architecture that transformers and vLLM convert).
    `layers: n` builds it from only the first n layers of its base: the last layers of a language
    model specialise in the next token, so that middle ones may separate right from wrong better
    (for embeddings: arXiv 2502.02013), and fewer layers are cheaper.
    """

    base: Literal["policy"] | ModelSettings = "policy"
    layers: int | None = Field(None, ge=1)
    shape: Literal["step_tags", "classifier"] = "step_tags"
    max_model_len: int = Field(2048, ge=16)
    system: str = PRM_SYSTEM
    step_tag: str = STEP_TAG
    pool: PoolSettings
    training: RewardTrainingSettings = RewardTrainingSettings()
    schedule: HandoverSettings = HandoverSettings()

    @model_validator(mode="after")
    def _lengths_agree(self) -> "TrainedScorerSettings":
        if self.training.max_length > self.max_model_len:
            raise ValueError(
                f"training.max_length ({self.training.max_length}) is above max_model_len "
                f"({self.max_model_len}) of the trained scorer; lower the first or raise the second"
            )
        return self


class SourceSettings(Settings):
    """What every reward source has: a kind, and perhaps a model trained here that replaces it."""

    kind: str
    trained: TrainedScorerSettings | None = None

    @property
    def pools(self) -> Mapping[str, PoolSettings]:
        """The pools that this source and its trained successor need, by name."""
        return {} if self.trained is None else {"trained reward": self.trained.pool}


class ServedRewardSettings(SourceSettings):
    """A reward source with a model of its own, in a pool of its own."""

    model: ModelSettings
    pool: PoolSettings

    @property
    def pools(self) -> Mapping[str, PoolSettings]:
        """See `SourceSettings.pools`."""
        return {"reward": self.pool, **super().pools}

    @model_validator(mode="after")
    def _precision_is_settled(self) -> Self:
        model = self.model.served_by(self.pool)
        return self if model is self.model else self.model_copy(update={"model": model})


class ProcessRewardSettings(ServedRewardSettings):
    """A process reward model in the Qwen2.5-Math-PRM format, served by vLLM's pooling runner."""

    kind: Literal["process_reward"] = "process_reward"
    system: str = PRM_SYSTEM
    step_tag: str = STEP_TAG


class StepClassifierSettings(ServedRewardSettings):
    """A sequence classifier with two classes; its last token's class 1 is a step's reward."""

    kind: Literal["step_classifier"] = "step_classifier"
    system: str = PRM_SYSTEM


class RolloutValueSettings(SourceSettings):
    """Math-Shepherd values (arXiv 2312.08935): the share of K completions that reach the gold."""

    kind: Literal["rollout_value"] = "rollout_value"
    num_completions: int = Field(4, ge=1)
    temperature: float = Field(0.8, gt=0)


class JudgeSettings(SourceSettings, EndpointSettings):
    """A language model behind an OpenAI-compatible endpoint that grades steps.

    `structured` asks the endpoint to keep to a JSON schema. `max_concurrent` and
    `requests_per_minute` hold for the whole run: the stage actors share them, and each may have at
    least one request under way.
    """

    kind: Literal["judge"] = "judge"
    structured: bool = True
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(1024, ge=1)

    def shared_by(self, actors: int) -> "JudgeSettings":
        """Return the settings of one of so many actors, with its part of the limits."""
        rate = self.requests_per_minute
        return self.model_copy(
            update={
                "max_concurrent": max(1, self.max_concurrent // actors),
                "requests_per_minute": None if rate is None else rate / actors,
            }
        )


class SimulatedRewardSettings(SourceSettings):
    """Rewards drawn around the truth the simulated generator hides in its text."""

    kind: Literal["simulated"] = "simulated"
    noise: float = Field(0.1, ge=0)


class PythonRewardSettings(SourceSettings):
    """A reward source from outside this package.

    `object` is `package.module:Class`, a class that implements `sphere_ray.method.ports.Scorer`. It
    is made in every stage actor with `options` as keyword arguments, and with `generator` (the
    policy) and `grader` if its constructor has parameters of these names.
    """

    kind: Literal["python"] = "python"
    object: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    options: dict[str, JsonValue] = Field(default_factory=dict)


ScorerSettings = Annotated[
    ProcessRewardSettings
    | StepClassifierSettings
    | RolloutValueSettings
    | JudgeSettings
    | SimulatedRewardSettings
    | PythonRewardSettings,
    Field(discriminator="kind"),
]
