"""Parameters of evaluation, and of the decision that follows it."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from sphere_ray.config.base import Placement, Settings

CandidateName = Literal["trained", "halfway", "half_rate"]


class EvaluationSettings(Settings):
    """Greedy pass@1 and, with `num_samples` above 0, mean@k; lengths count tokens.

    The base and the final model also answer the named `benchmarks` (`sphere_ray/benchmarks/`), and
    training problems that meet one of theirs are left out. Each has a number of samples and a
    length of its own; those given here are the least. `benchmark_dir` is a directory with files
    such as `gsm8k.jsonl`, which are read in the place of the hub.
    """

    num_samples: int = Field(0, ge=0)
    temperature: float = Field(0.8, gt=0)
    max_tokens: int = Field(2048, ge=1)
    # Both decide which steps there are and what enters them, and no step's output by themselves.
    benchmarks: Annotated[tuple[str, ...], Placement] = ()
    benchmark_dir: Annotated[str | None, Placement] = None


class PromotionSettings(Settings):
    """When a candidate replaces the policy; both answer the same validation problems.

    A problem's score is the mean over its greedy answer and its samples. The mean gain must reach
    `min_gain`, and its one-sided 90% bound must exclude a loss above `max_loss`. No family or
    operation may fall significantly, the share of truncated answers may rise by
    `max_truncated_rise`, and answers may grow to `max_length_ratio` times their length.

    `first_look` problems are asked at first, and more while that leaves it open, up to the whole
    split. Candidates are tried in order until one is promoted: the `trained` policy, the model
    `halfway` to it, and one trained at `half_rate`. After `patience` iterations without one the
    run ends.

    By simulation, with 400 problems and `evaluation.num_samples` 4, one of three candidates that
    are each 5 points worse is promoted in under 5% of cases, and one that is 5 points better is
    refused in under 5%. A split of 100 refuses the latter in up to 32%.
    """

    min_gain: float = Field(0.0, ge=0, le=1)
    max_loss: float = Field(0.03, ge=0, le=1)
    max_truncated_rise: float = Field(0.05, ge=0, le=1)
    max_length_ratio: float = Field(2.0, ge=1)
    first_look: int = Field(100, ge=1)
    candidates: tuple[CandidateName, ...] = ("trained", "halfway", "half_rate")
    patience: int = Field(2, ge=1)

    @field_validator("candidates")
    @classmethod
    def _begin_with_the_trained_one(
        cls, names: tuple[CandidateName, ...]
    ) -> tuple[CandidateName, ...]:
        if names[:1] != ("trained",) or len(set(names)) < len(names):
            raise ValueError(
                "promotion.candidates begin with trained, which the others are made from, and "
                "name each once; for example [trained, halfway]"
            )
        return names
