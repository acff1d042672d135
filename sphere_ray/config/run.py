"""The whole configuration of a run."""

from typing import Any, Literal

from pydantic import Field, model_validator

from sphere_ray.config.base import Settings
from sphere_ray.config.cluster import RayPlacement, RolloutSettings
from sphere_ray.config.engines import EngineSettings
from sphere_ray.config.evaluation import EvaluationSettings, PromotionSettings
from sphere_ray.config.grading import GradingSettings
from sphere_ray.config.method import MethodSettings
from sphere_ray.config.problems import ProblemSettings
from sphere_ray.config.trackers import Trackers
from sphere_ray.config.training import TrainerPlacement, TrainingSettings
from sphere_ray.records import StageName

Schedule = Literal["sequential", "overlapped"]


class RunSettings(Settings):
    """One run: everything the command needs, resolved.

    `schedule: overlapped` rolls out an iteration while the one before trains and is evaluated, each
    on GPUs of its own; its policy is then one iteration behind at most. It decides which steps
    there are, and no step's output by itself.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    run_dir: str
    seed: int = Field(0, ge=0, lt=1 << 63)
    iterations: int = Field(1, ge=1, le=1000)
    schedule: Schedule = "sequential"
    problems: ProblemSettings
    method: MethodSettings = MethodSettings()
    engines: EngineSettings
    grading: GradingSettings = GradingSettings()
    rollout: RolloutSettings = RolloutSettings()
    training: TrainingSettings = TrainingSettings()
    trainer: TrainerPlacement = TrainerPlacement()
    evaluation: EvaluationSettings = EvaluationSettings()
    promotion: PromotionSettings = PromotionSettings()
    ray: RayPlacement = RayPlacement()
    trackers: Trackers = ()

    def after_corrections(self, tried: int, repaired: int) -> "RunSettings":
        """The settings of the next rollouts; see `StageSettings.after`."""
        stages = self.method.stages.after(tried, repaired)
        method = self.method.model_copy(update={"stages": stages})
        return self.model_copy(update={"method": method})

    @model_validator(mode="after")
    def _lengths_agree(self) -> "RunSettings":
        limit = self.engines.policy.max_model_len
        if self.method.search.max_chain_tokens >= limit:
            raise ValueError(
                f"method.search.max_chain_tokens ({self.method.search.max_chain_tokens}) leaves no "
                f"room for the prompt in engines.policy.max_model_len ({limit}); lower the first"
            )
        search = self.method.search
        corrects = StageName.SELF_CORRECTION in self.method.taken_stages
        if corrects and 2 * search.max_chain_tokens >= limit:
            raise ValueError(
                f"self-correction puts an attempt of up to method.search.max_chain_tokens "
                f"({search.max_chain_tokens}) before a new one, which does not fit in "
                f"engines.policy.max_model_len ({limit}); lower the first or raise the second"
            )
        if self.evaluation.max_tokens >= limit:
            raise ValueError(
                f"evaluation.max_tokens ({self.evaluation.max_tokens}) leaves no room for the "
                f"prompt in engines.policy.max_model_len ({limit}); lower the first"
            )
        return self

    @model_validator(mode="after")
    def _something_overlaps(self) -> "RunSettings":
        if self.schedule == "sequential":
            return self
        least = 2 if self.engines.scorer.trained is None else 3
        if self.iterations < least:
            what = "schedule: overlapped" if least == 2 else "engines.scorer.trained"
            raise ValueError(
                f"{what} has no effect where iterations is {self.iterations}; set iterations "
                f"to {least} or more, or schedule: sequential"
            )
        if not self.trainer.cpus_per_worker.is_integer():
            raise ValueError(
                f"schedule: overlapped trains beside Ray Data, which plans with whole CPUs: "
                f"trainer.cpus_per_worker ({self.trainer.cpus_per_worker:g}) must be a whole number"
            )
        grows = [n for n, p in self.engines.pools.items() if p.max_replicas > p.min_replicas]
        if grows:
            raise ValueError(
                f"schedule: overlapped trains beside rollouts, and the {grows[0]} pool would grow "
                "over the GPUs of training; give its replicas as one number, or set "
                "schedule: sequential"
            )
        return self

    @model_validator(mode="after")
    def _benchmark_directory_is_read(self) -> "RunSettings":
        problems, evaluation = self.problems, self.evaluation
        sources = [each.source for each in (problems.train, problems.validation, problems.test)]
        named = evaluation.benchmarks or any(each.startswith("benchmark:") for each in sources)
        if evaluation.benchmark_dir is not None and not named:
            raise ValueError(
                "evaluation.benchmark_dir has no effect where no benchmark is named; name some in "
                "evaluation.benchmarks, or remove it"
            )
        return self

    @model_validator(mode="after")
    def _trained_scorer_has_labels(self) -> "RunSettings":
        trained = self.engines.scorer.trained
        if trained is None:
            return self
        if self.method.search.strategy != "pruned_steps":
            raise ValueError(
                "engines.scorer.trained learns from scored steps, and method.search.strategy: "
                "sampled scores none; set strategy: pruned_steps, or remove trained"
            )
        if self.engines.backend == "simulated":
            raise ValueError(
                "engines.scorer.trained is a model to train, and engines.backend: simulated has "
                "none; set backend: vllm, or remove trained"
            )
        per_step = trained.training.micro_batch_size * self.trainer.workers
        if trained.training.batch_size % per_step:
            raise ValueError(
                f"engines.scorer.trained.training.batch_size ({trained.training.batch_size}) is "
                f"not a multiple of its micro_batch_size x trainer.workers ({per_step}); change one"
            )
        return self

    @model_validator(mode="after")
    def _precisions_are_settled(self) -> "RunSettings":
        changes: dict[str, Any] = {}
        if self.training.precision == "auto":
            changes["training"] = self.training.run_on(self.trainer)
        scorer, trained = self.engines.scorer, self.engines.scorer.trained
        if trained is not None and trained.training.precision == "auto":
            trained = trained.model_copy(update={"training": trained.training.run_on(self.trainer)})
            scorer = scorer.model_copy(update={"trained": trained})
            changes["engines"] = self.engines.model_copy(update={"scorer": scorer})
        return self.model_copy(update=changes) if changes else self

    @model_validator(mode="after")
    def _next_training_keeps_the_update(self) -> "RunSettings":
        if self.training.precision == "bf16" and self.engines.policy.stored_dtype == "float32":
            raise ValueError(
                "training.precision: bf16 rounds the policy whenever an iteration loads it, and "
                "engines.policy.dtype: float32 keeps it whole; set training.precision: fp32 or "
                "engines.policy.dtype: bfloat16"
            )
        return self

    @model_validator(mode="after")
    def _attention_has_its_kernel(self) -> "RunSettings":
        training = self.training
        on_gpu = self.trainer.use_gpu and training.precision == "bf16"
        if training.attention == "flash_attention_2" and not on_gpu:
            raise ValueError(
                "training.attention: flash_attention_2 needs trainer.use_gpu: true and "
                "training.precision: bf16; set them, or leave it at tree"
            )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> "RunSettings":
        per_step = self.training.micro_batch_size * self.trainer.workers
        if self.training.batch_size % per_step:
            raise ValueError(
                f"training.batch_size ({self.training.batch_size}) is not a multiple of "
                f"training.micro_batch_size x trainer.workers ({per_step}); change one of them"
            )
        return self
